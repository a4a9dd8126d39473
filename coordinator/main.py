"""``continuer-coordinator``: the daemon that watches the nodes and keeps a plan in force."""

from __future__ import annotations

from collections.abc import Sequence

from continuer import daemons
from continuer.config import CoordinatorConfig
from continuer.journal import Journal
from coordinator.daemon import Daemon


def run(config: CoordinatorConfig) -> None:
    """Serve until told to stop."""
    Daemon(config, Journal(role="coordinator")).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return daemons.main(
        "continuer-coordinator",
        "Watches the nodes and keeps a plan in force.",
        CoordinatorConfig,
        run,
        argv,
    )
