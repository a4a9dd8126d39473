"""Real-time priority for the threads that heartbeats depend on, where the system permits it.

On a box whose cores are all busy an ordinary thread waits for its turn, and a heartbeat that
waits 30 ms looks like a death. With SCHED_FIFO the largest gaps shrink to a third. It needs
root, CAP_SYS_NICE or a limit such as systemd's ``LimitRTPRIO=1``; without, all works as well
but detection must be given more time on a loaded box.
"""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Any

import zmq

PRIORITY = 1


def permitted() -> bool:
    """True where this process may use real-time priority; Linux only."""
    if not hasattr(os, "SCHED_FIFO"):
        return False
    before, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    if not _raise():
        return False
    os.sched_setscheduler(0, before, parameter)
    return True


def raise_thread() -> None:
    """Give the calling thread real-time priority; it stays ordinary where that is refused."""
    if hasattr(os, "SCHED_FIFO"):
        _raise()


def raise_context(context: zmq.Context[Any]) -> None:
    """Have a context's I/O threads run with real-time priority. Call before its first socket.

    Only where ``permitted``: libzmq aborts the process when the system refuses.
    """
    context.set(zmq.THREAD_SCHED_POLICY, os.SCHED_FIFO)
    context.set(zmq.THREAD_PRIORITY, PRIORITY)


def _raise() -> bool:
    # Programs and threads started from here do not inherit it.
    policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    # A runaway loop at this priority would freeze a small box: the kernel ends it after 1 s.
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
        resource.setrlimit(resource.RLIMIT_RTTIME, (1_000_000, hard))
    try:
        os.sched_setscheduler(0, policy, os.sched_param(PRIORITY))
    except OSError:
        return False
    return True
