"""``continuer``: the operator's command. Data on standard output, everything else on error."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

from continuer import (
    __version__,
    bugreport_cli,
    completion,
    config_cli,
    deploy_cli,
    doctor_cli,
    drain,
    drill_cli,
    infer_cli,
    install_cli,
    load,
    logs_cli,
    model_cli,
    objectives_cli,
    plan_cli,
    security_cli,
    status,
    version_cli,
)
from continuer.cli_help import with_examples
from continuer.demo import command as demo
from continuer.errors import EXIT_OK, ContinuerError

# In the order of a day's work with a cluster.
VERBS = (
    *(demo, status, logs_cli, infer_cli, objectives_cli, plan_cli, drain, drill_cli),
    *(deploy_cli, model_cli, load),
    *(security_cli, config_cli, doctor_cli, bugreport_cli, version_cli, install_cli),
)
EXAMPLES = """\
continuer demo                    a whole cluster here, and a failure
continuer status --watch
continuer logs --failures -f
continuer VERB --help             options and examples of a verb
"""


def make_parser() -> argparse.ArgumentParser:
    """All verbs: those of this package, and those other packages announce."""
    parser = argparse.ArgumentParser(
        prog="continuer",
        description="A deep network over small boxes that keeps answering when a box dies.",
        **with_examples(EXAMPLES),
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in VERBS:
        module.add_parser(commands)
    completion.add_parser(commands, make_parser)
    for entry in entry_points(group="continuer.commands"):
        entry.load()(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 well, 1 unhealthy, 2 usage, 69 unreachable, 77 permission, 78 config."""
    try:
        try:
            options = make_parser().parse_args(argv)
            code: int = options.handler(options)
        finally:
            sys.stdout.flush()  # --help and --version end in SystemExit
    except ContinuerError as error:
        print(f"continuer: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader, such as head, has seen enough; what is left must not fail at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        return 130
    return code
