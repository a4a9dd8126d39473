"""Starting a daemon from the command line: options, configuration, exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from continuer import __version__, config
from continuer.config import AgentConfig, CoordinatorConfig
from continuer.errors import EXIT_OK, ContinuerError

C = TypeVar("C", AgentConfig, CoordinatorConfig)


def main(
    program: str,
    description: str,
    kind: type[C],
    run: Callable[[C], None],
    argv: Sequence[str] | None,
) -> int:
    """Parse ``--config FILE``, run the daemon, turn deliberate errors into exit codes."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML configuration")
    parser.add_argument("--check", action="store_true", help="check the configuration and end")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(argv)
    try:
        settings = config.load(options.config, kind)
        if not options.check:
            run(settings)
    except ContinuerError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    return EXIT_OK
