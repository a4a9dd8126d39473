"""``continuer-agent``: the daemon on each edge box."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from agent.daemon import Daemon
from continuer import daemons
from continuer.config import AgentConfig
from continuer.journal import Journal


def run(config: AgentConfig) -> None:
    """Serve until told to stop."""
    Daemon(config, Journal(role="agent", node=config.node)).run()


def relaunch(argv: Sequence[str] | None) -> None:
    """Start this program anew with memory in huge pages, unless it already runs so.

    When a process is killed, the kernel frees its memory page by page *before* it closes the
    sockets that tell everyone of the death: 9 ms for an agent in small pages, 4 ms in huge
    ones. Both allocators read their settings before Python runs, hence the new start.
    """
    wanted = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    if argv is not None or any(name in os.environ for name in wanted):
        return  # called from a program, started anew already, or configured by someone
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **wanted})  # noqa: S606  # ourselves


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    relaunch(argv)
    return daemons.main(
        "continuer-agent", "Runs this box's blocks of the network.", AgentConfig, run, argv
    )
