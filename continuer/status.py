"""``continuer status``: what the coordinator says of plan, nodes and failures."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any, NoReturn

from continuer.cli_help import add_verb
from continuer.control import Connection, add_options, ask
from continuer.errors import EXIT_OK, EXIT_UNHEALTHY, UnreachableError
from continuer.plan import link_ends

CLEAR = "\033[H\033[2J"
MIN_INTERVAL_S = 0.1
MAX_INTERVAL_S = 3600.0


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        commands,
        "status",
        "plan in force, nodes, failures",
        "continuer status\ncontinuer status --watch\ncontinuer status --json",
        "Exit code 1 while answers are degraded or cannot be given.",
    )
    parser.add_argument(
        "-w", "--watch", action="store_true", help="again and again; with --json a line each time"
    )
    parser.add_argument(
        "--interval-s", type=_interval, default=1.0, metavar="S", help="between two looks; 1"
    )
    add_options(parser)
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Print the status; exit code 1 while answers are degraded or cannot be given."""
    if options.watch:
        watch(options)
    state = ask(options.coordinator, "status")
    print(json.dumps(state) if options.json else describe(state))
    return EXIT_OK if state["health"] in ("full", "reduced") else EXIT_UNHEALTHY


def _interval(text: str) -> float:
    value = float(text)
    if not MIN_INTERVAL_S <= value <= MAX_INTERVAL_S:
        limits = f"{MIN_INTERVAL_S:g} to {MAX_INTERVAL_S:g}"
        raise argparse.ArgumentTypeError(f"{text}: give a number from {limits}")
    return value


def watch(options: argparse.Namespace) -> NoReturn:
    """Print the status until interrupted; a coordinator that goes away later is waited for."""
    clear = CLEAR if sys.stdout.isatty() and not options.json else ""
    seen = False
    with Connection(options.coordinator) as connection:
        while True:
            try:
                state = connection.ask("status")
                text = json.dumps(state) if options.json else f"{describe(state)}\n"
                print(f"{clear}{text}", flush=True)
                seen = True
            except UnreachableError as error:
                if not seen:
                    raise
                sys.stderr.write(f"continuer: {error}; waiting for it\n")
            time.sleep(options.interval_s)


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
            f"technique {plan['technique']}{exit_name}: {expected(plan)}, capacity "
            f"{plan['capacity_per_s']:.0f}/s"
        )
        lines += [f"  {hop['node']:<6} {' '.join(hop['parts'])}" for hop in plan["route"]]
    lines += rollout_lines(state)
    lines += [class_line(each) for each in state["classes"]]
    lines += [f"warning: {problem}" for problem in state["warnings"]]
    width = 2 + max([6, *(len(n["node"]) for n in state["nodes"])])
    lines.append(f"{'node':<{width}}{'state':<10}{'done':>9}{'queued':>8}{'RSS MiB':>9}  reason")
    lines += [
        f"{n['node']:<{width}}{n['state']:<10}{n['done']:>9}{n['queued']:>8}{n['rss_mib']:>9.1f}"
        f"  {n['reason']}"
        for n in state["nodes"]
    ]
    for contingency in state["contingencies"]:
        if len(contingency["nodes"]) == 1 and link_ends(contingency["nodes"][0]) is None:
            steps = ", then ".join(
                f"{s['technique']}{' ' + s['exit'] if s['exit'] else ''} ({percent(s['accuracy'])})"
                for s in contingency["steps"]
            )
            lines.append(f"if {contingency['nodes'][0]} fails: {steps}")
    return "\n".join(lines)


def rollout_lines(state: dict[str, Any]) -> list[str]:
    """The bundle in force and the one that is on its way, or was given up."""
    said = state.get("rollout")
    if said is None:
        return []
    serving = f"bundle {state['model']} {state['model_version']} ({state['bundle'][:16]})"
    if said["state"] == "in_force":
        return [f"{serving}: in force, deployed in {said['took_ms'] / 1000:.1f} s"]
    coming = f"bundle {said['model']} {said['model_version']} ({said['bundle'][:16]})"
    if said["state"] == "failed":
        at = f" on {', '.join(said['nodes'])}" if said["nodes"] else ""
        return [f"{serving}: in force", f"{coming}: given up{at}: {said['problem']}"]
    waiting = f", waiting for {', '.join(said['waiting_for'])}" if said["waiting_for"] else ""
    return [f"{serving}: in force", f"{coming}: {said['state']}{waiting}"]


def class_line(own: dict[str, Any]) -> str:
    """How the requests of a class go: by the plan, or by routes of their own."""
    ways = [
        f"{step['technique']} {step['exit'] or ''}".strip()
        + f" over {' '.join(hop['node'] for hop in step['route'])}"
        for step in own["routes"]
    ]
    text = " and ".join(ways) or "as the plan"
    return f"class {own['class']}: {'masked, ' if own['masked'] else ''}{text}"


def expected(plan: dict[str, Any]) -> str:
    """Accuracy and latency to expect of a plan, and whether each was measured or predicted."""
    accuracy, latency_ms = percent(plan["accuracy"]), plan["latency_ms"]
    source = "" if plan["accuracy"] is None else f" ({plan['accuracy_source']})"
    return f"accuracy {accuracy}{source}, latency {latency_ms:.2f} ms ({plan['latency_source']})"


def percent(fraction: float | None) -> str:
    """``86.94 %``; a model that came without labels has no known accuracy."""
    return "unknown" if fraction is None else f"{100 * fraction:.2f} %"
