"""``continuer``: the operator's command. Data on standard output, everything else on error."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

from continuer import __version__, drain, load, model_cli, objectives_cli, plan_cli, status
from continuer.demo import command as demo
from continuer.errors import ContinuerError


def make_parser() -> argparse.ArgumentParser:
    """All verbs: those of this package, and those other packages announce."""
    parser = argparse.ArgumentParser(
        prog="continuer",
        description="A deep network over small boxes that keeps answering when a box dies.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (demo, status, objectives_cli, plan_cli, drain, model_cli, load):
        module.add_parser(commands)
    for entry in entry_points(group="continuer.commands"):
        entry.load()(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 well, 1 unhealthy, 2 usage, 69 unreachable, 77 permission, 78 config."""
    options = make_parser().parse_args(argv)
    try:
        code: int = options.handler(options)
        sys.stdout.flush()
    except ContinuerError as error:
        print(f"continuer: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader, such as head, has seen enough; what is left must not fail at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return code
