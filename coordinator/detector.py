"""Who has been silent for too long. Sans-IO: told what was heard and when, asked who is not.

Two things make silence misleading, and both are handled here: jitter (the timeout of each
node grows with the gaps seen) and the observer's own stalls (it judges nobody until it has
listened again). A third, silence of most nodes at once, points at the observer or its
network too: judgement is held for a few timeouts. If nobody at all is heard it is held for as
long as that lasts (there is nobody to tell), and then until every link had time to come back.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

MS = 1_000_000
BUCKET_NS = 5_000 * MS
GAP_FACTOR = 1.5
MAX_STRETCH = 10.0
HOLD_TIMEOUTS = 3
# Links that were all cut do not come back together: TCP, ARP and agents that make a new connection
# all try again after up to a second or so. A solitude that was but a stall asks for less. In
# this time only a closed link or a refused connection counts, silence does not.
COME_BACK_NS = 2_000 * MS
MAX_SLEEP_NS = 20 * MS


class Heard(msgspec.Struct):
    """What is remembered of one node's heartbeats, in ns of the observer's clock."""

    last_ns: int
    bucket_ns: int
    largest_gap_ns: int = 0
    previous_gap_ns: int = 0


class Verdict(msgspec.Struct, frozen=True):
    """Nodes silent beyond their timeout; ``held`` ones are not to be acted on yet.

    ``late_ns`` is above 0 when the observer itself was late and therefore judged nobody.
    """

    silent: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    late_ns: int = 0


class Detector:
    """Judges silence. ``timeout_ms`` is the least timeout."""

    def __init__(self, timeout_ms: float) -> None:
        self._timeout_ns = int(timeout_ms * MS)
        # A check that comes this late means that heartbeats may be waiting unread.
        self._late_ns = self._timeout_ns // 2
        self._heard: dict[str, Heard] = {}
        self._due_ns: int | None = None
        self._alone_ns: int | None = None  # while nobody is heard: since when
        self._come_back_ns = 0  # until when links may still be coming back

    def watch(self, node: str, now: int) -> None:
        """Begin to expect heartbeats from a node."""
        self._heard[node] = Heard(now, now)

    def forget(self, node: str) -> None:
        """Expect nothing more from a node."""
        self._heard.pop(node, None)

    def heard(self, node: str, now: int) -> None:
        """Any bytes from the node count as life."""
        seen = self._heard.get(node)
        if seen is None:
            return
        if now - seen.bucket_ns > BUCKET_NS:
            seen.previous_gap_ns, seen.largest_gap_ns = seen.largest_gap_ns, 0
            seen.bucket_ns = now
        # A gap beyond the cap was an outage, not jitter: nothing to learn a timeout from.
        gap = now - seen.last_ns
        if gap <= MAX_STRETCH * self._timeout_ns:
            seen.largest_gap_ns = max(seen.largest_gap_ns, gap)
        seen.last_ns = now

    def timeout_ns(self, node: str) -> int:
        """The node's timeout: the configured one; longer where gaps were seen."""
        seen = self._heard[node]
        gap = max(seen.largest_gap_ns, seen.previous_gap_ns)
        return int(min(max(self._timeout_ns, GAP_FACTOR * gap), MAX_STRETCH * self._timeout_ns))

    def silence_ns(self, node: str, now: int) -> int:
        """How long the node has not been heard."""
        seen = self._heard.get(node)
        return now - seen.last_ns if seen else 0

    def due(self, now: int, nodes: Sequence[str]) -> int:
        """When to check next: as soon as a timeout may expire, and every 20 ms anyhow."""
        deadlines = [
            self._heard[node].last_ns + self.timeout_ns(node) + 1
            for node in nodes
            if node in self._heard
        ]
        # A node held back, or overdue for another reason, must not make us spin.
        self._due_ns = max(min([now + MAX_SLEEP_NS, *deadlines]), now + MS)
        return self._due_ns

    def check(self, now: int, nodes: Sequence[str]) -> Verdict:
        """Judge the given nodes; call when due, after reading all that has arrived."""
        late = now - self._due_ns if self._due_ns is not None else 0
        self._due_ns = None
        if late > self._late_ns:
            # What the nodes said meanwhile may still be on its way to us: hear them again
            # first. A node that is truly gone is found one short grace later.
            for node in nodes:
                seen = self._heard.get(node)
                if seen is not None:
                    grace = now - self.timeout_ns(node) + self._late_ns
                    seen.last_ns = max(seen.last_ns, grace)
            return Verdict(late_ns=late)
        watched = [n for n in nodes if n in self._heard]
        silent = [n for n in watched if self.silence_ns(n, now) > self.timeout_ns(n)]
        company = self._company(silent, watched)
        if self._are_links_away(company, watched, now):
            return Verdict(held=tuple(silent))
        if len(company) < 2 or 2 * len(company) <= len(watched):
            return Verdict(tuple(silent))
        held = tuple(
            n for n in silent if self.silence_ns(n, now) <= HOLD_TIMEOUTS * self.timeout_ns(n)
        )
        return Verdict(tuple(n for n in silent if n not in held), held)

    def _company(self, silent: Sequence[str], watched: Sequence[str]) -> list[str]:
        """Those that fell silent with the silent ones: heartbeats do not come in step."""
        last_ns = max((self._heard[n].last_ns for n in silent), default=None)
        if last_ns is None:
            return []
        return [n for n in watched if self._heard[n].last_ns <= last_ns + self._late_ns]

    def _are_links_away(self, company: Sequence[str], watched: Sequence[str], now: int) -> bool:
        """True while nobody is heard, and then until every link had time to come back."""
        if len(company) >= 2 and len(company) == len(watched):
            if self._alone_ns is None:
                self._alone_ns = max(self._heard[n].last_ns for n in watched)
            return True
        if self._alone_ns is not None:
            lasted_ns, self._alone_ns = now - self._alone_ns, None
            stall = lasted_ns <= HOLD_TIMEOUTS * self._timeout_ns
            until_ns = now + (lasted_ns if stall else COME_BACK_NS)
            self._come_back_ns = max(self._come_back_ns, until_ns)
        return now < self._come_back_ns
