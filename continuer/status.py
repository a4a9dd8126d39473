"""``continuer status``: what the coordinator says of plan, nodes and failures."""

from __future__ import annotations

import argparse
import json
from typing import Any

from continuer.control import add_options, ask
from continuer.errors import EXIT_OK, EXIT_UNHEALTHY


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser("status", help="plan in force, nodes, failures")
    add_options(parser)
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Print the status; exit code 1 while answers are degraded or cannot be given."""
    state = ask(options.coordinator, "status")
    print(json.dumps(state) if options.json else describe(state))
    return EXIT_OK if state["health"] in ("full", "reduced") else EXIT_UNHEALTHY


def describe(state: dict[str, Any]) -> str:
    """The status for people."""
    lines = [
        (
            f"{state['model']} ({state['deployment']}): {state['health']}, "
            f"plan {state['version']}, {state['rate_per_s']:g} requests/s"
        )
    ]
    plan = state["plan"]
    if plan is not None:
        exit_name = f" at {plan['exit']}" if plan["exit"] else ""
        lines.append(
            f"technique {plan['technique']}{exit_name}: predicted accuracy "
            f"{percent(plan['accuracy'])}, latency {plan['latency_ms']:.1f} ms, capacity "
            f"{plan['capacity_per_s']:.0f}/s"
        )
        lines += [f"  {hop['node']:<6} {' '.join(hop['parts'])}" for hop in plan["route"]]
    width = 2 + max([6, *(len(n["node"]) for n in state["nodes"])])
    lines.append(f"{'node':<{width}}{'state':<10}{'done':>9}{'queued':>8}{'RSS MiB':>9}  reason")
    lines += [
        f"{n['node']:<{width}}{n['state']:<10}{n['done']:>9}{n['queued']:>8}{n['rss_mib']:>9.1f}"
        f"  {n['reason']}"
        for n in state["nodes"]
    ]
    for contingency in state["contingencies"]:
        if len(contingency["nodes"]) == 1:
            steps = ", then ".join(
                f"{s['technique']}{' ' + s['exit'] if s['exit'] else ''} ({percent(s['accuracy'])})"
                for s in contingency["steps"]
            )
            lines.append(f"if {contingency['nodes'][0]} fails: {steps}")
    return "\n".join(lines)


def percent(fraction: float | None) -> str:
    """``86.94 %``; a model that came without labels has no known accuracy."""
    return "unknown" if fraction is None else f"{100 * fraction:.2f} %"
