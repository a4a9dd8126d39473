"""``continuer-agent``: the daemon on each edge box."""

from __future__ import annotations

from collections.abc import Sequence

from agent import quick_death
from agent.daemon import Daemon
from continuer import daemons
from continuer.config import AgentConfig
from continuer.journal import Journal


def run(config: AgentConfig) -> None:
    """Serve until told to stop."""
    quick_death.arrange()
    Daemon(config, Journal(role="agent", node=config.node)).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return daemons.main(
        "continuer-agent", "Runs this box's blocks of the network.", AgentConfig, run, argv
    )
