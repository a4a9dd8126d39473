"""``continuer-coordinator``: the daemon that watches the nodes and keeps a plan in force."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from continuer import daemons
from continuer.config import CoordinatorConfig
from continuer.journal import Journal
from continuer.security import start
from continuer.service import Service
from coordinator.daemon import Daemon


def run(config: CoordinatorConfig, read: Callable[[], CoordinatorConfig]) -> None:
    """Serve until told to stop; ``read`` gives the configuration as it is when reloaded."""
    journal = Journal(role="coordinator")
    service = Service(config, read, frozenset({"objectives"}), journal)
    start.arrange(config, journal)
    Daemon(config, journal, service).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return daemons.main(
        "continuer-coordinator",
        "Watches the nodes and keeps a plan in force.",
        CoordinatorConfig,
        run,
        argv,
    )
