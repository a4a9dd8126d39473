"""Which complaints about links last, where packets are being lost. Sans-IO.

Where every twentieth packet is lost, TCP now and then gets nothing through for a second; then the
connection is made anew, which is soon done. To go around such a link would help nobody, and blame
a node that works. A link that is cut is complained of again and again.
"""

from __future__ import annotations

from coordinator.commands import MS

# A connection is given up after 1 s, and another one is there within a second nearly always.
LASTING_MS = 2_000
FORGET_MS = 3_000


class Complaints:
    """Who cannot reach whom, since when."""

    def __init__(self) -> None:
        self._heard: dict[tuple[str, str], tuple[int, int]] = {}

    def hear(self, by: str, about: str, now: int) -> None:
        """A node says that it cannot reach another one."""
        kept = {k: v for k, v in self._heard.items() if now - v[1] <= FORGET_MS * MS}
        first, _ = kept.get((by, about), (now, now))
        self._heard = {**kept, (by, about): (first, now)}

    def last(self, by: str, about: str) -> bool:
        """It has been saying so for long."""
        first, latest = self._heard.get((by, about), (0, 0))
        return latest - first >= LASTING_MS * MS
