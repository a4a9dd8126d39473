"""Dying on order, for ``continuer drill``: a real death, and a real return.

The process replaces itself with a fresh one: the kernel takes away its threads and closes its
sockets as it does those of a killed process, and nothing that it held in memory survives. The
new one waits outside of the cluster for as long as it was told to, then starts like any other.
The process id stays, so that a service manager sees no failure to repair.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import NoReturn

from continuer.notify import Notifier

AWAY = "CONTINUER_DRILL_AWAY_S"
MAX_AWAY_S = 60.0
FEED_S = 1.0


def fall_down(away_s: float) -> NoReturn:
    """Die now; come back after so many seconds (0 to ``MAX_AWAY_S``)."""
    # What runs this thread ahead of others is not for the whole of the next process.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.environ[AWAY] = str(min(max(away_s, 0.0), MAX_AWAY_S))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # ourselves


def away_s(environment: Mapping[str, str]) -> float:
    """For how long to stay away first; 0 in a process that is no drill's."""
    try:
        asked = float(environment.get(AWAY, "0"))
    except ValueError:
        return 0.0
    return min(asked, MAX_AWAY_S) if asked > 0 else 0.0


def stay_away(environment: MutableMapping[str, str]) -> float:
    """Stay away if a drill asks for it; once, however often the process is restarted later."""
    wait_s = away_s(environment)
    environment.pop(AWAY, None)
    back = time.monotonic() + wait_s
    notifier = Notifier(environment)
    while (left_s := back - time.monotonic()) > 0:
        notifier.status(f"away for a drill, {left_s:.0f} s to go")
        notifier.feed()
        time.sleep(min(left_s, FEED_S))
    return wait_s
