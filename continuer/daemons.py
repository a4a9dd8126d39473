"""Starting a daemon from the command line: options, configuration, exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from continuer import __version__, config, config_sources
from continuer.config import AgentConfig, CoordinatorConfig
from continuer.errors import EXIT_OK, ContinuerError

C = TypeVar("C", AgentConfig, CoordinatorConfig)


def main(
    program: str,
    description: str,
    kind: type[C],
    run: Callable[[C, Callable[[], C]], None],
    argv: Sequence[str] | None,
) -> int:
    """Parse ``--config FILE`` and flags, run the daemon, turn deliberate errors into exit codes.

    ``run`` gets the configuration, and a function that reads it anew.
    """
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML configuration")
    parser.add_argument("--check", action="store_true", help="check the configuration and end")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    keys = parser.add_argument_group(
        "keys", "override the file and the environment; docs/configuration.md explains them"
    )
    flags = [setting.flag for setting in config_sources.settings(kind)]
    for flag in flags:
        keys.add_argument(flag, dest=flag, metavar="VALUE")
    options = parser.parse_args(argv)
    given = {flag: text for flag in flags if (text := getattr(options, flag)) is not None}

    def read() -> C:
        return config.load(options.config, kind, given)

    try:
        settings = read()
        if not options.check:
            run(settings, read)
    except ContinuerError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    return EXIT_OK
