"""``continuer objectives``: what the operator wants, taken into account at once."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from continuer.control import add_options, ask
from continuer.errors import EXIT_OK, UsageError

THRESHOLDS = ("min_accuracy", "max_latency_ms", "max_downtime_ms")
WEIGHTS = ("weight_accuracy", "weight_latency", "weight_downtime")
EXAMPLES = """\
examples:
  continuer objectives set --min-accuracy 0.80 --max-latency-ms 40
  continuer objectives set --max-latency-ms none --weight-downtime 0.5
  continuer objectives reset        back to what coordinator.toml says

Thresholds come first: a way of going on that breaks one is only taken where none keeps
them all. Among the others the largest w_A A' - w_L L' - w_D D' wins; A' is the accuracy as a
share of the full plan's, L' the latency likewise, D' the downtime in units of 50 ms.
"""


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser("objectives", help="see and set what decides after a failure")
    verbs = parser.add_subparsers(metavar="get|set|reset", required=True)
    get = verbs.add_parser("get", help="objectives in force and as configured")
    setter = verbs.add_parser(
        "set",
        help="override some; holds across restarts until reset",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    setter.add_argument("--min-accuracy", type=_limit, metavar="FRACTION|none")
    setter.add_argument("--max-latency-ms", type=_limit, metavar="MS|none")
    setter.add_argument("--max-downtime-ms", type=_limit, metavar="MS|none")
    for key in WEIGHTS:
        setter.add_argument("--" + key.replace("_", "-"), type=float, metavar="W")
    reset = verbs.add_parser("reset", help="back to the configuration file's")
    for verb, handler in ((get, run_get), (setter, run_set), (reset, run_reset)):
        add_options(verb)
        verb.set_defaults(handler=handler)


def _limit(text: str) -> float | str:
    """A number, or ``none`` to lift the threshold."""
    return "none" if text == "none" else float(text)


def run_get(options: argparse.Namespace) -> int:
    """Print the objectives in force."""
    return _show(options, ask(options.coordinator, "objectives.get"))


def run_set(options: argparse.Namespace) -> int:
    """Override those given. Raises UsageError where none is, ContinuerError where refused."""
    given = {key: getattr(options, key) for key in (*THRESHOLDS, *WEIGHTS)}
    changed: dict[str, Any] = {
        key: None if value == "none" else value for key, value in given.items() if value is not None
    }
    if not changed:
        raise UsageError("objectives set: give at least one, such as --min-accuracy 0.80")
    state = ask(options.coordinator, "objectives.set", **changed)
    if not state["kept_across_restarts"]:
        sys.stderr.write("not kept across a restart: the coordinator has no state_dir\n")
    return _show(options, state)


def run_reset(options: argparse.Namespace) -> int:
    """Back to the configuration's objectives."""
    return _show(options, ask(options.coordinator, "objectives.reset"))


def _show(options: argparse.Namespace, state: dict[str, Any]) -> int:
    print(json.dumps(state) if options.json else describe(state))
    return EXIT_OK


def describe(state: dict[str, Any]) -> str:
    """The objectives for people; what differs from the configuration is marked."""
    lines = [f"objectives of {state['deployment']}"]
    for key in (*THRESHOLDS, *WEIGHTS):
        value, configured = state["in_force"][key], state["configured"][key]
        note = "" if value == configured else f"   (configured: {_text(configured)})"
        lines.append(f"  {key:<16} {_text(value)}{note}")
    return "\n".join(lines)


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
