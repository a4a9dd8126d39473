"""``continuer objectives``: what the operator wants, taken into account at once."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, get_args

from continuer.cli_help import add_verb
from continuer.control import add_options, ask
from continuer.errors import EXIT_OK, UsageError
from continuer.placement import Optimise

THRESHOLDS = ("min_accuracy", "max_latency_ms", "max_downtime_ms")
WEIGHTS = ("weight_accuracy", "weight_latency", "weight_downtime")
EXAMPLES = """\
examples:
  continuer objectives set --min-accuracy 0.80 --max-latency-ms 40
  continuer objectives set --max-latency-ms none --weight-downtime 0.5
  continuer objectives set --optimise latency
  continuer objectives set --class alarm --min-accuracy 0.85 --redundancy 2
  continuer objectives reset        back to what coordinator.toml says

Thresholds come first: a way of going on that breaks one is only taken where none keeps
them all. Among the others the largest w_A A' - w_L L' - w_D D' wins; A' is the accuracy as a
share of the full plan's, L' the latency likewise, D' the downtime in units of 50 ms.
"""


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser("objectives", help="see and set what decides after a failure")
    verbs = parser.add_subparsers(metavar="get|set|reset", required=True)
    get = add_verb(
        verbs,
        "get",
        "objectives in force and as configured",
        "continuer objectives get\ncontinuer objectives get --json",
    )
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
    setter.add_argument(
        "--redundancy", type=int, metavar="N", help="of a class: 2 masks the crash of any one box"
    )
    setter.add_argument("--optimise", choices=get_args(Optimise), help="what blocks are placed for")
    reset = add_verb(
        verbs, "reset", "back to the configuration file's", "continuer objectives reset"
    )
    for verb, handler in ((get, run_get), (setter, run_set), (reset, run_reset)):
        add_options(verb)
        verb.add_argument(
            "--class", dest="request_class", metavar="NAME", help="of this request class only"
        )
        verb.set_defaults(handler=handler)


def _limit(text: str) -> float | str:
    """A number, or ``none`` to lift the threshold."""
    return "none" if text == "none" else float(text)


def run_get(options: argparse.Namespace) -> int:
    """Print the objectives in force."""
    return _show(options, ask(options.coordinator, "objectives.get", **_class_of(options)))


def run_set(options: argparse.Namespace) -> int:
    """Override those given. Raises UsageError where none is, ContinuerError where refused."""
    given = {
        key: getattr(options, key) for key in (*THRESHOLDS, *WEIGHTS, "redundancy", "optimise")
    }
    changed: dict[str, Any] = {
        key: None if value == "none" else value for key, value in given.items() if value is not None
    }
    if not changed:
        raise UsageError("objectives set: give at least one, such as --min-accuracy 0.80")
    if options.redundancy is not None and options.request_class is None:
        raise UsageError("--redundancy: only request classes have one; add --class NAME")
    state = ask(options.coordinator, "objectives.set", **changed, **_class_of(options))
    if not state["kept_across_restarts"]:
        sys.stderr.write("not kept across a restart: the coordinator has no state_dir\n")
    return _show(options, state)


def run_reset(options: argparse.Namespace) -> int:
    """Back to the configuration's objectives."""
    return _show(options, ask(options.coordinator, "objectives.reset", **_class_of(options)))


def _class_of(options: argparse.Namespace) -> dict[str, Any]:
    return {} if options.request_class is None else {"class": options.request_class}


def _show(options: argparse.Namespace, state: dict[str, Any]) -> int:
    print(json.dumps(state) if options.json else describe(state))
    return EXIT_OK


def describe(state: dict[str, Any]) -> str:
    """The objectives for people; what differs from the configuration is marked."""
    own = f", class {state['class']}" if "class" in state else ""
    lines = [f"objectives of {state['deployment']}{own}"]
    more = ("redundancy",) if own else ()
    for key in (*THRESHOLDS, *WEIGHTS, "optimise", *more):
        value, configured = state["in_force"][key], state["configured"][key]
        note = "" if value == configured else f"   (configured: {_text(configured)})"
        lines.append(f"  {key:<16} {_text(value)}{note}")
    names = ", ".join(state.get("classes", ()))
    if names:
        lines.append(f"  classes with objectives of their own: {names}")
    return "\n".join(lines)


def _text(value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    return "none" if value is None else f"{value:g}"
