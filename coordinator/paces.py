"""How often agents send heartbeats over their links, where beacons come beside them. Sans-IO.

Beacons cost the coordinator little and are not held up by TCP; heartbeats on the link also say
what the work does. So while a node's beacons are heard, its link brings a report every 100 ms, in
fleets above 200 nodes every N / 2,000 seconds. A beacon that stays away makes the node doubtful:
it is asked over its link, answers at once and sends heartbeats at its own pace until all beacons
have come for a while. Where none get through, because a firewall drops UDP, the link has to do: in
fleets above 50 nodes every N / 5,000 seconds, and the timeout is at least three times that.
"""

from __future__ import annotations

import msgspec

from coordinator.commands import MS, NodeRecord, SetPace
from coordinator.detector import Detector

REPORT_US = 100_000
REPORTS_PER_S = 2_000
HEARTBEATS_PER_S = 5_000
# For so long all beacons have to come before a link may bring fewer heartbeats.
STEADY_MS = 1_000
# Beacons that have stayed away for so long will not come any more.
ABSENT_MS = 1_000
BREAK_MS = 100
# A link that brings nothing for so long while beacons come works in one direction at best: its node
# can be told nothing. Where packets are lost, TCP takes a second to give a connection up, and now
# and then up to another to make one.
MUTE_MS = 1_000
MUTE_AND_LOSING_MS = 3_000


def every_us(nodes: int, *, beacons: bool) -> int:
    """The least time between two heartbeats on one link, for so many nodes."""
    if beacons:
        return max(REPORT_US, nodes * 1_000_000 // REPORTS_PER_S)
    return nodes * 1_000_000 // HEARTBEATS_PER_S


class Pace(msgspec.Struct):
    """Of one node: since when its beacons and its link have been heard, and what it was told.

    ``heard_ns``: when its link last brought something; ``link_ns`` is later where beacons have
    only begun again since. ``calm``: all beacons come, so its link may be slow.
    """

    since_ns: int
    link_ns: int
    heard_ns: int
    beacon_ns: int = 0
    calm: bool = False


class Paces:
    """``nodes``: how many there may be."""

    def __init__(self, detector: Detector, nodes: int) -> None:
        self._detector = detector
        self._every_us = every_us(nodes, beacons=False)
        self._report_us = every_us(nodes, beacons=True)
        self._paces: dict[str, Pace] = {}

    def begin(self, node: NodeRecord, now: int) -> list[SetPace]:
        """A node has joined: it gets a session for its beacons."""
        self._paces[node.name] = Pace(now, now, now)
        self._detector.expect(node.name, self._every_us * 1000, doubt=False)
        return _told(node, self._every_us, fresh=True)

    def link_heard(self, name: str, now: int) -> None:
        """Something came over a node's link."""
        pace = self._paces.get(name)
        if pace is not None:
            pace.link_ns = pace.heard_ns = now

    def beacon(self, node: NodeRecord, at: int) -> list[SetPace]:
        """A beacon of a node came at that time."""
        pace = self._paces.get(node.name)
        if pace is None:
            return []
        if at - pace.beacon_ns > BREAK_MS * MS:
            pace.since_ns = pace.link_ns = at
        pace.beacon_ns = at
        if pace.calm or at - pace.since_ns < STEADY_MS * MS or self._detector.loses(node.name):
            return []
        pace.calm = True
        self._detector.expect(node.name, 0, doubt=True)
        return _told(node, self._report_us, fresh=False)

    def doubted(self, node: NodeRecord, now: int) -> list[SetPace]:
        """A node's beacons stay away: ask it over its link."""
        pace = self._paces[node.name]
        pace.since_ns, pace.calm = now, False
        if now - pace.beacon_ns > ABSENT_MS * MS:
            self._detector.expect(node.name, self._every_us * 1000, doubt=False)
        return _told(node, self._every_us, fresh=False)

    def beacons_come(self, name: str, now: int) -> bool:
        """A beacon of this node has come lately."""
        pace = self._paces.get(name)
        return pace is not None and now - pace.beacon_ns < ABSENT_MS * MS

    def stale(self, name: str, now: int) -> bool:
        """The node's link had brought nothing for so long that its end tells nothing new."""
        pace = self._paces.get(name)
        return pace is not None and now - pace.heard_ns > MUTE_MS * MS

    def mute(self, now: int) -> list[str]:
        """Nodes that send beacons and are not heard over their links.

        None where that is so of most: the fault is then nearer to us than to them, and whoever
        can tell most nodes nothing has nothing to tell the others.
        """
        shining = {n: p for n, p in self._paces.items() if now - p.beacon_ns < BREAK_MS * MS}
        # They do not fall silent in the same moment, so those half way there count.
        fading = [n for n, pace in shining.items() if now - pace.link_ns > MUTE_MS * MS // 2]
        if len(fading) > 1 and 2 * len(fading) > len(shining):
            return []
        quiet = [name for name in fading if now - shining[name].link_ns > MUTE_MS * MS]
        return [
            name
            for name in quiet
            if not self._detector.loses(name)
            or now - self._paces[name].link_ns > MUTE_AND_LOSING_MS * MS
        ]

    def observer_was_late(self, now: int) -> None:
        """What the links have brought meanwhile may still be unread."""
        for pace in self._paces.values():
            pace.link_ns = pace.heard_ns = now


def _told(node: NodeRecord, every: int, *, fresh: bool) -> list[SetPace]:
    if node.link is None or node.member is None:
        return []
    return [SetPace(node.link, node.name, node.member.incarnation, every, fresh)]
