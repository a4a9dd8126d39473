"""``continuer drain`` and ``resume``: planned work on a box, without a degraded answer."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from continuer.cli_help import add_verb
from continuer.control import add_options, ask
from continuer.errors import EXIT_OK, ContinuerError

POLL_S = 0.05


def add_parser(commands: Any) -> None:
    """Add both verbs to the command line."""
    drain = add_verb(
        commands,
        "drain",
        "move a box's work away before it is taken down",
        "continuer drain n3\ncontinuer drain n3 --timeout-s 120 && ssh n3 sudo reboot",
        "The other boxes load what they lack while the box still works; then the "
        "plan changes, and the command waits until nothing that came in through it is under "
        "way. It stays drained, across restarts too, until it is resumed.",
    )
    resume = add_verb(commands, "resume", "let a drained box work again", "continuer resume n3")
    for parser, handler in ((drain, run_drain), (resume, run_resume)):
        parser.add_argument("node", metavar="NODE")
        parser.add_argument("--timeout-s", type=float, default=30.0, metavar="S")
        add_options(parser)
        parser.set_defaults(handler=handler)


def run_drain(options: argparse.Namespace) -> int:
    """Drain, and wait until the box can be taken down."""
    return _order(options, "drain", ("drained", "absent", "dead", "left"))


def run_resume(options: argparse.Namespace) -> int:
    """Resume, and wait until the box is at work."""
    return _order(options, "resume", ("active", "absent", "dead", "left"))


def _order(options: argparse.Namespace, verb: str, wanted: tuple[str, ...]) -> int:
    ask(options.coordinator, verb, node=options.node)
    deadline = time.monotonic() + options.timeout_s
    sys.stderr.write(f"{verb} {options.node}: ordered, waiting\n")
    while True:
        state = ask(options.coordinator, "status", brief=True)
        node = next(n for n in state["nodes"] if n["node"] == options.node)
        idle = verb == "resume" or node["queued"] == 0
        if node["state"] in wanted and idle:
            break
        if time.monotonic() > deadline:
            raise ContinuerError(
                f"{verb} {options.node}: still {node['state']} with {node['queued']} requests "
                f"after {options.timeout_s:g} s; the order stands, see 'continuer status'"
            )
        time.sleep(POLL_S)
    answer = {
        "schema": 1,
        "node": options.node,
        "state": node["state"],
        "version": state["version"],
    }
    text = f"{options.node} is {node['state']}; plan {state['version']}"
    print(json.dumps(answer) if options.json else text)
    return EXIT_OK
