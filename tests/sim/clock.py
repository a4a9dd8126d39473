"""Virtual time: a queue of what is to happen, in order of time and then of arrival."""

from __future__ import annotations

import heapq
from collections.abc import Callable

MS = 1_000_000
Act = Callable[[], None]


class Clock:
    """``now`` is in ns. Nothing happens between two entries of the queue."""

    def __init__(self, now: int = 1_000 * MS) -> None:
        self.now = now
        self.steps = 0
        self._queue: list[tuple[int, int, Act]] = []
        self._number = 0

    def at(self, when: int, act: Act) -> None:
        """Have something happen; what lies in the past happens next."""
        self._number += 1
        heapq.heappush(self._queue, (max(when, self.now), self._number, act))

    def after(self, delay: float, act: Act) -> None:
        """Have something happen in so many ns."""
        self.at(self.now + int(delay), act)

    def run(self, until: int) -> None:
        """Let everything happen that is due until then."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, act = heapq.heappop(self._queue)
            self.steps += 1
            act()
        self.now = until
