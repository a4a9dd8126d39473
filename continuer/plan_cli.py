"""``continuer plan``: the plan in force, and what would happen if boxes failed."""

from __future__ import annotations

import argparse
import itertools
import json
from importlib.metadata import entry_points
from typing import Any

from continuer.cli_help import add_verb
from continuer.control import add_options, ask
from continuer.errors import EXIT_OK, EXIT_UNHEALTHY
from continuer.status import class_line, expected, percent

EXAMPLES = """\
examples:
  continuer plan what-if                      every single box
  continuer plan what-if --kill n2,n4         both of them
  continuer plan what-if --pairs --json       every pair, as data
  continuer plan what-if --kill 'n2>n3'       the link from n2 to n3

Exit code 1 where some failure would break a threshold, or nothing could serve.
"""


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser("plan", help="the plan in force; what if a box failed")
    verbs = parser.add_subparsers(metavar="show|what-if", required=True)
    show = add_verb(
        verbs,
        "show",
        "who runs what, and what is predicted of it",
        "continuer plan show\ncontinuer plan show --json",
    )
    what_if = verbs.add_parser(
        "what-if",
        help="technique, accuracy, latency, gap and capacity after failures",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = what_if.add_mutually_exclusive_group()
    group.add_argument(
        "--kill",
        action="append",
        nargs="+",
        metavar="NODE",
        help="all of these at once; may be repeated",
    )
    group.add_argument("--all", action="store_true", help="every single box; the default")
    group.add_argument("--pairs", action="store_true", help="every pair instead of every box")
    for verb, handler in ((show, run_show), (what_if, run_what_if)):
        add_options(verb)
        verb.set_defaults(handler=handler)
    # Verbs of other packages: functions (verbs) -> None, in modules that are quick to import.
    for entry in entry_points(group="continuer.plan_commands"):
        entry.load()(verbs)


def run_show(options: argparse.Namespace) -> int:
    """Print the plan in force; exit code 1 where there is none."""
    state = ask(options.coordinator, "status", brief=True)
    shown = ("version", "model", "health", "objectives", "plan", "classes", "warnings")
    plan = {key: state[key] for key in shown}
    print(json.dumps({"schema": 1, **plan}) if options.json else describe_plan(state))
    return EXIT_OK if state["plan"] is not None else EXIT_UNHEALTHY


def run_what_if(options: argparse.Namespace) -> int:
    """Print what would happen; exit code 1 where a threshold would break."""
    groups = [",".join(given).split(",") for given in options.kill or ()]
    if options.pairs:
        state = ask(options.coordinator, "status", brief=True)
        live = [n["node"] for n in state["nodes"] if n["state"] == "active"]
        groups = [list(pair) for pair in itertools.combinations(live, 2)]
    answer = ask(options.coordinator, "plan.what_if", nodes=groups)
    print(json.dumps(answer) if options.json else describe_consequences(answer))
    well = all(entry["steps"] and entry["feasible"] for entry in answer["what_if"])
    return EXIT_OK if well else EXIT_UNHEALTHY


def describe_plan(state: dict[str, Any]) -> str:
    """The plan for people."""
    plan = state["plan"]
    if plan is None:
        return f"{state['model']}: no plan is in force"
    lines = [
        f"plan {state['version']} of {state['model']}: {step_text(plan)}",
        f"{expected(plan)}, capacity {plan['capacity_per_s']:.0f}/s",
    ]
    lines += route_lines(plan)
    lines += [class_line(each) for each in state["classes"]]
    lines += [f"warning: {problem}" for problem in state["warnings"]]
    return "\n".join(lines)


def route_lines(plan: dict[str, Any]) -> list[str]:
    """Who runs which parts, a line a node."""
    return [f"  {hop['node']:<6} {' '.join(hop['parts'])}" for hop in plan["route"]]


def step_text(step: dict[str, Any]) -> str:
    """A technique with its exit."""
    return f"{step['technique']} {step['exit'] or ''}".strip()


def describe_consequences(answer: dict[str, Any]) -> str:
    """A line a failure, what capacity remains, then the box whose loss would hurt most."""
    head = f"{'without':<10}{'at once':<22}{'then':<22}"
    lines = [f"{head}{'accuracy':>9}{'latency':>11}{'gap':>10}{'up to':>9}"]
    lines += [consequence_line(entry) for entry in answer["what_if"]]
    lines += [capacity_line(entry) for entry in answer["what_if"]]
    worst = weakest(answer["what_if"])
    if worst is not None:
        lines.append(
            f"back up {', '.join(worst['nodes'])} first: "
            + (reason(worst) if worst["steps"] else "nothing could serve without it")
        )
    return "\n".join(lines)


def consequence_line(entry: dict[str, Any]) -> str:
    """What happens at once and in the end, and which threshold would break."""
    names = "+".join(entry["nodes"])
    if not entry["steps"]:
        return f"{names:<10}no service"
    first, last = entry["steps"][0], entry["steps"][-1]
    then = "" if len(entry["steps"]) == 1 else step_text(last)
    broken = f"  breaks {', '.join(entry['violations'])}" if entry["violations"] else ""
    return (
        f"{names:<10}{step_text(first):<22}{then:<22}{percent(last['accuracy']):>9}"
        f"{last['latency_ms']:>8.2f} ms{entry['gap_ms']:>7.1f} ms"
        f"{entry['rate_limit_per_s']:>7.0f}/s{broken}"
    )


def capacity_line(entry: dict[str, Any]) -> str:
    """Up to which rate full accuracy would remain, and how request classes would fare."""
    limit = entry["full_accuracy_up_to_per_s"]
    kept = "no full accuracy" if limit is None else f"full accuracy up to {limit:.0f} requests/s"
    notes = [f"class {c['class']}: {c['problem']}" for c in entry["classes"] if c["problem"]]
    return "; ".join([f"without {'+'.join(entry['nodes'])}: {kept}", *notes])


def weakest(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The failure that would hurt most, if any hurts: no service, a threshold, accuracy."""
    if len(entries) < 2:
        return None

    def harm(entry: dict[str, Any]) -> tuple[bool, bool, float, float]:
        # An unknown accuracy is that of all blocks: nothing is lost.
        known = entry["steps"][-1]["accuracy"] if entry["steps"] else 0.0
        lost = 0.0 if known is None else 1 - known
        return not entry["steps"], not entry["feasible"], lost, entry.get("gap_ms", 0.0)

    return max(entries, key=harm)


def reason(entry: dict[str, Any]) -> str:
    """Why the loss of this box would hurt most."""
    if entry["violations"]:
        return f"its loss would break {', '.join(entry['violations'])}"
    last = entry["steps"][-1]
    return f"accuracy would be {percent(last['accuracy'])}, with a gap of {entry['gap_ms']:.1f} ms"
