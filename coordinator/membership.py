"""Who is here: joining, silence, suspicion, death, return. Sans-IO.

*Suspect* is a preference for other routes and is taken back as soon as the node is heard
again; *dead* follows from a refused reconnect or long silence. What either means for the
plan is decided elsewhere: this module reports failures and keeps the records.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from continuer.bundle import Bundle
from continuer.config import CoordinatorConfig, check_endpoint
from continuer.drift import Drift
from continuer.errors import ConfigError
from continuer.events import Event
from continuer.plan import Member
from continuer.wire import Heartbeat, Join, Members, Refuse
from coordinator.commands import MS, Command, Failure, NodeRecord, Probe, Send
from coordinator.complaints import Complaints
from coordinator.detector import Detector
from coordinator.paces import Paces

TRUST_AFTER_MS = 200
KNOCK_EVERY_MS = 20
# Whether a link between two nodes works again shows only when it is used again: a node that
# another one could not reach is left out for this long, and each time for twice as long.
LEFT_OUT_MS = 1_000
MAX_LEFT_OUT_MS = 60_000
# A Join may quote a name as long as itself; the refusal has to fit a header.
MAX_PROBLEM = 500


class Membership:
    """Records of all configured nodes; ``on_failure`` is called for each new failure.

    ``on_link_failure`` is asked (source, target, now) when one node cannot reach another that
    lives; where it gives None the link cannot be gone around, and the target is left out.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        bundle: Bundle,
        on_failure: Callable[[Failure, int], list[Command]],
        drained: Collection[str] = (),
        on_link_failure: Callable[[str, str, int], list[Command] | None] = lambda *_: None,
    ) -> None:
        self._config = config
        self._bundle = bundle
        self._on_failure = on_failure
        self._on_link_failure = on_link_failure
        self.detector = Detector(config.heartbeat_timeout_ms)
        self.nodes = {name: NodeRecord(name, drained=name in drained) for name in config.nodes}
        self._paces = Paces(self.detector, len(config.nodes))
        self._complaints = Complaints()
        self._drift = Drift()
        self._by_link: dict[bytes, str] = {}
        self._probing: set[str] = set()
        self._held: tuple[str, ...] = ()

    def by_link(self, link: bytes) -> NodeRecord | None:
        """The node at the other end of a control link."""
        name = self._by_link.get(link)
        return self.nodes[name] if name is not None else None

    @property
    def isolated(self) -> bool:
        """Nobody is heard: what is known of the nodes is old."""
        watched = self._watched()
        return len(watched) > 1 and set(watched) <= set(self._held)

    def live(self) -> list[NodeRecord]:
        """Nodes that may be given work, in pipeline order."""
        return [node for node in self.nodes.values() if node.live]

    # --- joining ----------------------------------------------------------------------

    def join(self, link: bytes, join: Join, now: int) -> list[Command]:
        """Take a node in, or refuse it with a reason it can act on."""
        refusal = self._refusal(join)
        name = join.member.node
        if refusal is not None:
            code, problem = refusal[0], refusal[1][:MAX_PROBLEM]
            fields = {"node": name[:MAX_PROBLEM], "code": code, "problem": problem}
            return [
                Send(link, Refuse(code, problem)),
                Event("node_refused", fields),
            ]
        node = self.nodes[name]
        commands: list[Command] = []
        known = node.member
        new_life = known is not None and known.incarnation != join.member.incarnation
        if new_life:
            # Usually its closed link has said so already; not where nothing was heard of anyone.
            commands += self._fail(node, "restarted", now, now)
            self._drift.forget(name)
            node.slowness = 1.0
            node.refused = frozenset()
            node.drained = node.drained and not node.retiring
            node.retiring = False
            node.was_dead = node.was_dead or node.state == "suspect"  # that life is over
        same_life = known is not None and not new_life
        if node.link is not None:
            self._by_link.pop(node.link, None)
        self._by_link[link] = name
        node.member, node.link = join.member, link
        node.loaded = {timing.part: timing for timing in join.loaded}
        node.memory_bytes = join.memory_bytes or float("inf")
        node.standby = join.standby
        node.store = join.store
        node.stored = None if join.stored is None else frozenset(join.stored)
        for other in self.nodes.values():
            if other.stored is not None:
                other.refused &= other.stored  # what it could not fetch, this node may have
        node.heartbeats = 0
        self.detector.watch(name, now)
        if not (same_life and node.state in ("active", "suspect")):
            node.state, node.since_ns = "joined", now
            node.accepted = node.done = node.queued = 0
        commands.append(
            Event("node_joined", {"node": name, "incarnation": join.member.incarnation})
        )
        members = self.members()
        commands += [
            Send(other.link, Members(members))
            for other in self.nodes.values()
            if other.link is not None and other.state != "dead"
        ]
        commands += self._paces.begin(node, now)
        return commands

    def members(self) -> tuple[Member, ...]:
        """All nodes that may be connected to."""
        return tuple(
            node.member
            for node in self.nodes.values()
            if node.member is not None and node.state in ("joined", "active", "suspect")
        )

    def _refusal(self, join: Join) -> tuple[str, str] | None:
        if join.cluster != self._config.cluster:
            return "cluster", (
                f"cluster = {join.cluster!r}: this coordinator serves "
                f"{self._config.cluster!r}; correct 'cluster' or 'coordinator'"
            )
        if join.bundle != self._bundle.hash:
            return "bundle", (
                f"bundle {join.model!r} {join.bundle.hex()[:16]}: the coordinator serves "
                f"{self._bundle.name!r} {self._bundle.hash.hex()[:16]}; "
                "copy the same bundle here, or give the agent a 'state_dir' to fetch it into"
            )
        node = self.nodes.get(join.member.node)
        if node is None:
            known = ", ".join(self.nodes)
            return "node", (
                f"node = {join.member.node!r}: not among 'nodes' of the coordinator ({known}); "
                "add it there, or correct 'node'"
            )
        for key in ("data", "answers", "ingress"):
            try:
                check_endpoint(key, getattr(join.member, key))
            except ConfigError as error:
                return "endpoint", f"{error}; correct 'advertise'"
        other_life = node.member is not None and node.member.incarnation != join.member.incarnation
        if other_life and node.live and node.link is not None:
            return "node", (
                f"node = {node.name!r}: a live agent has this name; give each box its own"
            )
        return None

    # --- signs of life ----------------------------------------------------------------

    def heartbeat(self, link: bytes, beat: Heartbeat, now: int) -> list[Command]:
        """Count the sign of life; a suspect that keeps beating is trusted again."""
        node = self.by_link(link)
        if node is None or node.member is None or node.member.incarnation != beat.incarnation:
            # A link we know nothing of, say after our own restart: the agent must join anew.
            return [Send(link, Refuse("unknown", "join first"))]
        self.heard(node, now)
        if node.heartbeats:  # what was accepted before we listened does not arrive now
            node.arrived += max(0, beat.accepted - node.accepted)
        node.accepted, node.done, node.queued = beat.accepted, beat.done, beat.queued
        node.rss_bytes, node.repairs = beat.rss_bytes, beat.repairs
        alarms = self._learn_slowness(node, beat)
        node.heartbeats += 1
        if node.state in ("suspect", "dead"):
            return [*alarms, *self._regain(node, now)]
        return alarms

    def heard(self, node: NodeRecord, now: int) -> None:
        """Any message over its link is a sign of life."""
        self.detector.heard(node.name, now)
        self._paces.link_heard(node.name, now)

    def beacon(
        self, name: str, incarnation: int, sequence: int, interval_ns: int, at: int
    ) -> Sequence[Command]:
        """A sign of life beside the link; it says nothing else, and trusts nobody again."""
        node = self.nodes[name]
        if node.member is None or node.member.incarnation != incarnation:
            return ()
        if not self.detector.beacon(name, sequence, interval_ns, at):
            return ()
        return self._paces.beacon(node, at)

    def beacons_come(self, name: str, now: int) -> bool:
        """Its beacons get through to here."""
        return self._paces.beacons_come(name, now)

    def _learn_slowness(self, node: NodeRecord, beat: Heartbeat) -> list[Command]:
        """What its parts take now, against what it reported when it loaded them."""
        worked_us = beat.worked_us - node.worked_us
        predicted_us = beat.predicted_us - node.predicted_us
        node.worked_us, node.predicted_us = beat.worked_us, beat.predicted_us
        if not node.heartbeats:
            return []  # that was before we listened, or in another life
        alarm = self._drift.observe(node.name, worked_us, predicted_us)
        node.slowness = self._drift.factor(node.name)
        if alarm is None:
            return []
        name = "prediction_wrong" if alarm.raised else "prediction_right"
        fields = {"node": node.name, "error_percent": alarm.error_percent, "factor": alarm.factor}
        return [Event(name, fields)]

    def _regain(self, node: NodeRecord, now: int) -> list[Command]:
        """A node held failed is heard: after a short proof it may be used again."""
        if now < node.left_out_until_ns:
            return []
        if node.since_ns <= node.suspect_ns:
            node.since_ns = now  # the first sign of life since
        if now - node.since_ns < TRUST_AFTER_MS * MS:
            return []
        suspect_ms = (node.since_ns - node.suspect_ns) / MS
        node.was_dead = node.state == "dead"
        node.state, node.since_ns = "joined", now
        return [Event("node_trusted", {"node": node.name, "suspect_ms": round(suspect_ms, 1)})]

    # --- failures ---------------------------------------------------------------------

    def link_closed(self, link: bytes, now: int) -> list[Command]:
        """The control link is gone: suspect at once, and knock to learn whether it is dead."""
        node = self.by_link(link)
        if node is None:
            return []
        self._by_link.pop(link)
        node.link = None
        if node.state == "left":
            return []
        if node.name in self._held or self._paces.stale(node.name, now):
            # All were silent: the agent has given this connection up and is making a new one.
            return self._knock(node, now)
        if self.detector.loses(node.name):
            # TCP gives up what got nothing through for a second, which losses do now and then. If
            # it is dead its port refuses, or its beacons stay away; if nothing ever comes
            # over a new link it is mute.
            return self._knock(node, now)
        return [*self._fail(node, "link closed", now, now), *self._knock(node, now)]

    def leave(self, link: bytes, now: int) -> list[Command]:
        """The node stops on purpose: no suspicion, but its work must go elsewhere at once."""
        node = self.by_link(link)
        if node is None:
            return []
        commands = self._fail(node, "left", now, now)
        node.state = "left"
        self.detector.forget(node.name)
        return [Event("node_left", {"node": node.name}), *commands]

    def accused(self, by: NodeRecord, name: str, incarnation: int, now: int) -> list[Command]:
        """A neighbour cannot reach a node: knock there ourselves to learn what is broken."""
        node = self.nodes.get(name)
        if node is None or node.member is None or node.member.incarnation != incarnation:
            return []
        if not (node.live and by.live):
            return []  # one of the two is left out already, so nobody needs the link
        node.accused_by = by.name
        self._complaints.hear(by.name, name, now)
        return self._knock(node, now)

    def probed(self, name: str, incarnation: int, refused: bool, now: int) -> list[Command]:
        """The knock's outcome: refused means that nobody lives there any more."""
        self._probing.discard(name)
        node = self.nodes[name]
        by, node.accused_by = node.accused_by, ""
        if node.member is None or node.member.incarnation != incarnation:
            return []
        if refused:
            if node.state in ("dead", "left", "absent"):
                return []
            commands = self._fail(node, "connection refused", now, now)
            return [*commands, *self._bury(node, "connection refused")]
        if not (by and self.nodes[by].live):
            return []
        if self._loses(by, name) and not self._complaints.last(by, name):
            return []
        around = self._on_link_failure(by, name, now)
        return around if around is not None else self._leave_out(node, by, now)

    def _loses(self, *names: str) -> bool:
        """Packets to or from some of these nodes have been lost lately."""
        return any(self.detector.loses(name) for name in names)

    def _leave_out(self, node: NodeRecord, by: str, now: int) -> list[Command]:
        """It lives, but the link from another node to it does not: routes must avoid it."""
        again = now - node.left_out_until_ns < MAX_LEFT_OUT_MS * MS and node.left_out_ms
        node.left_out_ms = min(2 * node.left_out_ms, MAX_LEFT_OUT_MS) if again else LEFT_OUT_MS
        node.left_out_until_ns = now + node.left_out_ms * MS
        return self._fail(node, f"unreachable from {by}", now, now)

    def tick(self, now: int) -> list[Command]:
        """Judge silence. Call when ``due``, after reading all that has arrived."""
        verdict = self.detector.check(now, self._watched())
        commands: list[Command] = []
        if verdict.late_ns:
            self._paces.observer_was_late(now)
            commands.append(Event("observer_late", {"late_ms": round(verdict.late_ns / MS, 1)}))
        if verdict.held and verdict.held != self._held:
            commands.append(Event("suspicion_held", {"nodes": list(verdict.held)}))
        self._held = verdict.held
        for name in verdict.doubted:
            commands += self._paces.doubted(self.nodes[name], now)
        for name in self._paces.mute(now):
            commands += self._fail(self.nodes[name], "link silent", now, now)
        for name in verdict.silent:
            node = self.nodes[name]
            evidence = now - self.detector.silence_ns(name, now) + self.detector.timeout_ns(name)
            commands += self._fail(node, "silence", now, evidence)
            commands += self._knock(node, now)
        for node in self.nodes.values():
            if node.state != "suspect":
                continue
            if self.detector.silence_ns(node.name, now) > self._config.dead_after_ms * MS:
                commands += self._bury(node, "silence")
            elif now - node.knocked_ns > KNOCK_EVERY_MS * MS:
                commands += self._knock(node, now)
        return commands

    def due(self, now: int) -> int:
        """When ``tick`` is to be called next, in ns."""
        return self.detector.due(now, self._watched())

    def _watched(self) -> list[str]:
        return [node.name for node in self.nodes.values() if node.live]

    def _fail(self, node: NodeRecord, reason: str, now: int, evidence_ns: int) -> list[Command]:
        if not node.live:
            return []
        silence = self.detector.silence_ns(node.name, now)
        was_active = node.state == "active"
        node.state, node.suspect_ns, node.reason = "suspect", now, reason
        failure = Failure(node.name, reason, now - silence, evidence_ns, was_active, node.queued)
        # The new route first, the journal after: every microsecond here is outage.
        return [
            *self._on_failure(failure, now),
            Event(
                "node_suspect",
                {"node": node.name, "reason": reason, "silence_ms": round(silence / MS, 1)},
            ),
        ]

    def _bury(self, node: NodeRecord, reason: str) -> list[Command]:
        node.state, node.reason, node.was_dead = "dead", reason, True
        return [Event("node_dead", {"node": node.name, "reason": reason})]

    def _knock(self, node: NodeRecord, now: int) -> list[Command]:
        """Try a connection. A dying process may still hold its ports: knock again later."""
        if node.member is None or node.name in self._probing:
            return []
        self._probing.add(node.name)
        node.knocked_ns = now
        return [Probe(node.name, node.member.incarnation, node.member.data)]


def links(nodes: Iterable[NodeRecord]) -> list[bytes]:
    """Control links of nodes, the busiest ingress first: it has the most to gain by knowing."""
    ordered = sorted(nodes, key=lambda node: -node.accepted)
    return [node.link for node in ordered if node.link is not None]
