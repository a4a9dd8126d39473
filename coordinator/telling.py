"""Who has been told of which version, and what the rate of requests is. Sans-IO book-keeping."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from continuer.plan import Contingency, Version
from continuer.wire import Foresee
from coordinator.commands import MS, NodeRecord

TELL_KEPT_MS = 10_000
RATE_EVERY_MS = 1000
# So many contingencies, with routes for every request class, fit a message.
FORESEE_AT_ONCE = 16


def foresee_messages(base: Version, more: Sequence[Contingency]) -> list[Foresee]:
    """Contingencies of the plan ``base``, as agents are told of them."""
    starts = range(0, len(more), FORESEE_AT_ONCE)
    return [Foresee(base, tuple(more[i : i + FORESEE_AT_ONCE])) for i in starts]


class Telling:
    """Versions on their way to agents, and who has yet to acknowledge."""

    def __init__(self) -> None:
        self._waiting: dict[Version, tuple[int, set[str]]] = {}

    def told(self, version: Version, nodes: Iterable[str], now: int) -> None:
        """These nodes were sent the version."""
        kept = {v: t for v, t in self._waiting.items() if now - t[0] < TELL_KEPT_MS * MS}
        self._waiting = {**kept, version: (now, set(nodes))}

    def acknowledged(self, version: Version, node: str, now: int) -> float | None:
        """A node has it in force. Returns the milliseconds it took once it was the last."""
        entry = self._waiting.get(version)
        if entry is None:
            return None
        told_ns, waiting = entry
        waiting.discard(node)
        if waiting:
            return None
        del self._waiting[version]
        return (now - told_ns) / MS


class RateMeter:
    """Requests a second, from the counters in the heartbeats of all ingresses."""

    def __init__(self, expected_per_s: float) -> None:
        self.per_s = expected_per_s
        self._expected_per_s = expected_per_s
        self._mark: tuple[int, int] | None = None

    def measure(self, nodes: Iterable[NodeRecord], now: int) -> None:
        """Look at the counters; about once a second the rate is renewed."""
        if self._mark is not None and now - self._mark[0] < RATE_EVERY_MS * MS:
            return
        total = sum(node.arrived for node in nodes)
        if self._mark is not None:
            seen = (total - self._mark[1]) * 1e9 / (now - self._mark[0])
            # Never below what the operator expects: capacity must be there when load comes.
            self.per_s = max(seen, self._expected_per_s)
        self._mark = (now, total)
