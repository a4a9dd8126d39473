"""Who has been silent for too long. Sans-IO: told what was heard and when, asked who is not.

Three things make silence misleading, and all are handled here: jitter (the timeout of each
node grows with the gaps seen), loss (it covers as many beacons lost in a row as the share of lost
ones makes likely) and the observer's own stalls (it judges nobody until it has listened again).
A fourth, silence of most nodes at once, points at the observer or its network too: judgement is
held for a few timeouts. If nobody at all is heard it is held for as long as that lasts (there is
nobody to tell), and then until every link had time to come back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

MS = 1_000_000
BUCKET_NS = 5_000 * MS
GAP_FACTOR = 1.5
# Where large gaps are no exception (a busy box, a link that jitters) the next may be much larger.
OFTEN = 20
OFTEN_FACTOR = 3.0
MAX_STRETCH = 10.0
HOLD_TIMEOUTS = 3
# A run of lost beacons that is less likely than this is taken for a silence: at 100 beacons a
# second it would come once in 11 days for each node.
RESIDUAL = 1e-8
# Of fewer beacons than this one that is lost says little about the share of lost ones.
LEAST_COUNTED = 100
MAX_LOSS = 0.9
# Links that were all cut do not come back together: TCP, ARP and agents that make a new connection
# all try again after up to a second or so. A solitude that was but a stall asks for less. In
# this time only a closed link or a refused connection counts, silence does not.
COME_BACK_NS = 2_000 * MS
MAX_SLEEP_NS = 20 * MS


class Heard(msgspec.Struct):
    """What is remembered of one node's signs of life, in ns of the observer's clock.

    ``doubt_ns``: after so much silence the node is to be asked, once; None where nobody would ask.
    Beacons, and gaps of more than half the least timeout (``large``), are counted in the present
    bucket of 5 s and the one before.
    """

    last_ns: int
    bucket_ns: int
    timeout_ns: int
    floor_ns: int = 0
    doubt_ns: int | None = None
    asked: bool = False
    largest_gap_ns: int = 0
    previous_gap_ns: int = 0
    large: int = 0
    previous_large: int = 0
    sequence: int = 0
    interval_ns: int = 0
    counted: int = 0
    lost: int = 0
    previous_counted: int = 0
    previous_lost: int = 0


class Verdict(msgspec.Struct, frozen=True):
    """Nodes silent beyond their timeout; ``held`` ones are not to be acted on yet.

    ``late_ns`` is above 0 when the observer itself was late and therefore judged nobody.
    ``doubted``: to be asked for a sign of life, long before they are called silent.
    """

    silent: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    late_ns: int = 0
    doubted: tuple[str, ...] = ()


class Detector:
    """Judges silence. ``timeout_ms`` is the least timeout."""

    def __init__(self, timeout_ms: float) -> None:
        self._timeout_ns = int(timeout_ms * MS)
        self._most_ns = int(MAX_STRETCH * self._timeout_ns)
        # A check that comes this late means that heartbeats may be waiting unread.
        self._late_ns = self._timeout_ns // 2
        self._heard: dict[str, Heard] = {}
        self._due_ns: int | None = None
        self._alone_ns: int | None = None  # while nobody is heard: since when
        self._come_back_ns = 0  # until when links may still be coming back

    def watch(self, node: str, now: int) -> None:
        """Begin to expect signs of life from a node; what is known of its link stays known."""
        seen = self._heard.get(node)
        if seen is None:
            self._heard[node] = Heard(now, now, self._timeout_ns)
            return
        seen.last_ns = now
        seen.sequence, seen.doubt_ns = 0, None

    def forget(self, node: str) -> None:
        """Expect nothing more from a node."""
        self._heard.pop(node, None)

    def expect(self, node: str, every_ns: int, *, doubt: bool) -> None:
        """Its link brings a heartbeat so often; ``doubt`` it as soon as beacons stay away.

        With beacons, the link's own pace says nothing about silence: 0.
        """
        seen = self._heard.get(node)
        if seen is None:
            return
        seen.floor_ns = HOLD_TIMEOUTS * every_ns
        # One beacon may be late, and two are not: between them.
        seen.doubt_ns = max(self._late_ns, seen.interval_ns * 3 // 2) if doubt else None
        self._renew(seen)

    def heard(self, node: str, now: int) -> None:
        """Any bytes from the node count as life."""
        seen = self._heard.get(node)
        if seen is None:
            return
        if now - seen.bucket_ns > BUCKET_NS:
            seen.previous_gap_ns, seen.largest_gap_ns = seen.largest_gap_ns, 0
            seen.previous_large, seen.large = seen.large, 0
            seen.previous_counted, seen.counted = seen.counted, 0
            seen.previous_lost, seen.lost = seen.lost, 0
            seen.bucket_ns = now
            self._renew(seen)
        # A gap beyond the cap was an outage, not jitter: nothing to learn a timeout from.
        gap = now - seen.last_ns
        if self._late_ns < gap <= self._most_ns:
            seen.large += 1
            seen.largest_gap_ns = max(seen.largest_gap_ns, gap)
            self._renew(seen)
        if gap > 0:
            seen.last_ns = now
            seen.asked = False

    def beacon(self, node: str, sequence: int, interval_ns: int, at: int) -> bool:
        """A beacon came at that time. False where it is an old one, which proves nothing."""
        seen = self._heard.get(node)
        if seen is None or sequence <= seen.sequence:
            return False
        missing = sequence - seen.sequence - 1 if seen.sequence else 0
        seen.sequence, seen.interval_ns = sequence, interval_ns
        self.heard(node, at)
        if missing * interval_ns > self._most_ns:
            return True  # an outage, no loss to be expected again
        seen.counted += 1 + missing
        if missing:
            seen.lost += missing
            self._renew(seen)
        return True

    def loses(self, node: str) -> bool:
        """Beacons of this node have been lost lately."""
        seen = self._heard.get(node)
        return seen is not None and seen.lost + seen.previous_lost > 0

    def timeout_ns(self, node: str) -> int:
        """The node's timeout: the configured one; longer where gaps or losses were seen."""
        return self._heard[node].timeout_ns

    def silence_ns(self, node: str, now: int) -> int:
        """How long the node has not been heard."""
        seen = self._heard.get(node)
        return now - seen.last_ns if seen else 0

    def _renew(self, seen: Heard) -> None:
        often = seen.large + seen.previous_large >= OFTEN
        factor = OFTEN_FACTOR if often else GAP_FACTOR
        gap = int(factor * max(seen.largest_gap_ns, seen.previous_gap_ns))
        wanted = max(self._timeout_ns, seen.floor_ns, gap, _against_loss(seen))
        seen.timeout_ns = min(wanted, self._most_ns)

    def due(self, now: int, nodes: Sequence[str]) -> int:
        """When to check next: as soon as a timeout may expire, and every 20 ms anyhow."""
        heard = self._heard
        found = [heard[node] for node in nodes if node in heard]
        first = min([s.last_ns + _patience_ns(s) for s in found], default=None)
        earliest = now + MAX_SLEEP_NS if first is None else min(now + MAX_SLEEP_NS, first + 1)
        # A node held back, or overdue for another reason, must not make us spin.
        self._due_ns = max(earliest, now + MS)
        return self._due_ns

    def check(self, now: int, nodes: Sequence[str]) -> Verdict:
        """Judge the given nodes; call when due, after reading all that has arrived."""
        late = now - self._due_ns if self._due_ns is not None else 0
        self._due_ns = None
        watched = [n for n in nodes if n in self._heard]
        if late > self._late_ns:
            # What the nodes said meanwhile may still be on its way to us: hear them again
            # first. A node that is truly gone is found one short grace later.
            for seen in map(self._heard.__getitem__, watched):
                seen.last_ns = max(seen.last_ns, now - seen.timeout_ns + self._late_ns)
            return Verdict(late_ns=late)
        silent, doubted = [], []
        for node in watched:
            seen = self._heard[node]
            silence = now - seen.last_ns
            if silence > seen.timeout_ns:
                silent.append(node)
            elif silence > _patience_ns(seen):
                seen.asked = True
                doubted.append(node)
        return self._judge(silent, tuple(doubted), watched, now)

    def _judge(
        self, silent: list[str], doubted: tuple[str, ...], watched: list[str], now: int
    ) -> Verdict:
        company = self._company(silent, watched)
        if self._are_links_away(company, watched, now):
            return Verdict(held=tuple(silent), doubted=doubted)
        if len(company) < 2 or 2 * len(company) <= len(watched):
            return Verdict(tuple(silent), doubted=doubted)
        held = tuple(
            n for n in silent if self.silence_ns(n, now) <= HOLD_TIMEOUTS * self.timeout_ns(n)
        )
        return Verdict(tuple(n for n in silent if n not in held), held, doubted=doubted)

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


def _patience_ns(seen: Heard) -> int:
    """After how much silence of a node something is to be done."""
    if seen.doubt_ns is None or seen.asked:
        return seen.timeout_ns
    return min(seen.doubt_ns, seen.timeout_ns)


def _against_loss(seen: Heard) -> int:
    """The least timeout (ns) that so many lost beacons ask for; 0 where none was lost.

    With share p lost, k lost in a row have a likelihood of p^k: the timeout covers as many as make
    that RESIDUAL. Of few losses little is known, so p is taken two standard deviations above
    what was counted.
    """
    lost = seen.lost + seen.previous_lost
    if not lost:
        return 0
    counted = max(seen.counted + seen.previous_counted, LEAST_COUNTED)
    share = min((lost + 2 * math.sqrt(lost)) / counted, MAX_LOSS)
    in_a_row = math.ceil(math.log(RESIDUAL) / math.log(share))
    return (in_a_row + 1) * seen.interval_ns
