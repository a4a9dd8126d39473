"""``continuer-agent``: the daemon on each edge box."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import msgspec

from agent import drill, quick_death
from agent.daemon import Daemon
from continuer import daemons
from continuer.config import AgentConfig
from continuer.journal import Journal
from continuer.security import start
from continuer.service import Service


def run(config: AgentConfig, read: Callable[[], AgentConfig]) -> None:
    """Serve until told to stop; ``read`` gives the configuration as it is when reloaded."""
    drill.stay_away(os.environ)
    quick_death.arrange()
    journal = Journal(role="agent", node=config.node)
    service = Service(config, read, frozenset(), journal)
    start.arrange(config, journal)
    known = start.coordinator_endpoint(config.coordinator)
    Daemon(msgspec.structs.replace(config, coordinator=known), journal, service).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return daemons.main(
        "continuer-agent", "Runs this box's blocks of the network.", AgentConfig, run, argv
    )
