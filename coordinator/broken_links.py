"""Links between nodes that have failed although both of their ends live. Sans-IO.

Whether a link works again shows only when it is used again: so it is avoided for a while, and each
time that it fails again soon after for twice as long.
"""

from __future__ import annotations

import msgspec

from coordinator.commands import MS
from coordinator.membership import LEFT_OUT_MS, MAX_LEFT_OUT_MS


class BrokenLink(msgspec.Struct):
    """A link that has failed: until when it is avoided, and for how long that is in all."""

    until_ns: int
    avoided_ms: int


class BrokenLinks:
    """Links by name, as ``link_name`` writes them. ``now`` is ns of the coordinator's clock."""

    def __init__(self) -> None:
        self._known: dict[str, BrokenLink] = {}

    def broke(self, link: str, now: int) -> None:
        """The link has failed, while it was in use."""
        known = self._known.get(link)
        avoided_ms = LEFT_OUT_MS
        if known is not None and now - known.until_ns < MAX_LEFT_OUT_MS * MS:
            avoided_ms = min(2 * known.avoided_ms, MAX_LEFT_OUT_MS)
        self._known[link] = BrokenLink(now + avoided_ms * MS, avoided_ms)

    def avoided_ms(self, link: str) -> int:
        """For how long a link that has failed is avoided."""
        return self._known[link].avoided_ms

    def avoided(self, now: int) -> frozenset[str]:
        """The links that no route may use now."""
        return frozenset(link for link, known in self._known.items() if now < known.until_ns)
