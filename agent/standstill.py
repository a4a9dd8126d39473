"""Whether the work of this box goes on. Sans-IO.

Heartbeats come from a thread of their own, so that load does not make a box look dead; for the
same reason they would go on while the threads that do the work hang. A box whose work stands still
therefore keeps silent: to the others that is as good as a death, and as easily taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

MS = 1_000_000
# Working threads come around every 200 ms when they are idle.
LEAST_MS = 1000
# So many times what all parts take to be loaded and run here is no inference any more.
FACTOR = 10


class Pulse(Protocol):
    """What ``continuer.notify.Pulse`` is: a thread's name, and when it came around last."""

    name: str
    beat_ns: int


class Standstill:
    """Looks at the pulses of threads that work.

    ``round_us``: what all parts in memory take to be loaded and run on this box, added up, in us.
    """

    def __init__(self, pulses: Sequence[Pulse], round_us: Callable[[], float]) -> None:
        self._pulses = pulses
        self._round_us = round_us

    def hung(self, now: int) -> list[str]:
        """Threads that have not come around for so long that they hang; ``now`` in ns."""
        limit_ns: float = LEAST_MS * MS
        late = [pulse for pulse in self._pulses if now - pulse.beat_ns > limit_ns]
        if late:
            limit_ns = max(limit_ns, FACTOR * self._round_us() * 1000)
        return [pulse.name for pulse in late if now - pulse.beat_ns > limit_ns]
