"""The coordinator and the clients: their real cores, over simulated links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from continuer import wire
from continuer.client_core import ClientCore, Complete, Connect, Pending
from continuer.client_core import Command as ClientCommand
from continuer.client_core import Send as ClientSend
from continuer.config import CoordinatorConfig
from continuer.errors import RequestError
from continuer.events import Event
from continuer.wire import (
    Accuse,
    Ack,
    Activate,
    Heartbeat,
    Join,
    Leave,
    NewPlan,
    Pace,
    Prepared,
    Reply,
    Stale,
)
from coordinator.commands import Command, Decided, Probe, Send, SetPace
from coordinator.core import Coordinator
from tests.sim.clock import MS
from tests.sim.model import BUNDLE, applied, request
from tests.sim.network import Connection, Network
from tests.sim.process import Found, Process

IDLE_EVERY_MS = 5
PROBE_TIMEOUT_MS = 200
REDIAL_MS = 30
TICK_MS = 10
REPORTS = (Heartbeat, Join, Ack, Prepared, Stale, Accuse, Leave)


class SimCoordinator(Process):
    """What ``coordinator.daemon`` is around the core."""

    def __init__(
        self, config: CoordinatorConfig, network: Network, find: Found, watch: Any
    ) -> None:
        super().__init__("coordinator", network.clock)
        self.config = config
        self.network = network
        self._find = find
        self._watch = watch
        self._last_session = 0

    def born(self) -> None:
        """A core that remembers the term of its earlier lives, and no more."""
        term = self.disk.get("term", 0)
        assert isinstance(term, int)
        self.core = Coordinator(self.config, BUNDLE, term)
        self._links: dict[bytes, Connection] = {}
        self._sessions: dict[str, tuple[int, int]] = {}
        self._tick_at = 0
        self._idling = False
        self._schedule()

    def accepted(self, link: Connection) -> None:
        """An agent has connected."""
        self._links[link.label] = link
        link.on_message[1] = lambda raw: self._heard(link.label, raw)
        link.on_closed[1] = lambda: self._closed(link.label)

    def _heard(self, label: bytes, raw: bytes) -> None:
        message = wire.decode(raw, *REPORTS)
        self.perform(self.core.on_message(label, message, self.clock.now))

    def _closed(self, label: bytes) -> None:
        self._links.pop(label, None)
        self.perform(self.core.on_link_closed(label, self.clock.now))

    def beacon(self, node: str, session: int, sequence: int, interval_ns: int) -> None:
        """One has arrived; that it is read later makes no difference."""
        at = self.clock.now
        known, incarnation = self._sessions.get(node, (0, 0))
        if session != known:
            return

        def read() -> None:
            found = (node, incarnation, sequence, interval_ns, at)
            commands = self.core.membership.beacon(*found)
            if commands:
                self.perform(commands)

        self.does(read)()

    def _pace(self, order: SetPace) -> Pace:
        if order.fresh or order.node not in self._sessions:
            self._last_session += 1
            self._sessions[order.node] = (self._last_session, order.incarnation)
        return Pace(order.every_us, self._sessions[order.node][0])

    def _schedule(self) -> None:
        due = self.core.due(self.clock.now)
        self.after(max(due - self.clock.now, 0), self._tick)

    def _tick(self) -> None:
        self.perform(self.core.on_tick(self.clock.now))
        self._schedule()

    def _idle(self) -> None:
        self._idling = False
        if self.core.busy:
            self.perform(self.core.on_idle(self.clock.now))

    def perform(self, commands: Sequence[Command]) -> None:
        """What the shell does; every message goes through the codec."""
        for command in commands:
            if isinstance(command, SetPace):
                self._send(command.link, self._pace(command))
            elif isinstance(command, Send):
                self._send(command.link, command.message)
            elif isinstance(command, Probe):
                self._probe(command)
            elif isinstance(command, Decided):
                self.core.decided(command.version, self.clock.now)
            else:
                self._watch.event(self, command)
        self.disk["term"] = self.core.version.term
        self._watch.coordinated(self)
        if self.core.busy and not self._idling:
            self._idling = True
            self.after(IDLE_EVERY_MS * MS, self._idle)

    def _send(self, label: bytes, message: wire.Message) -> None:
        link = self._links.get(label)
        if link is None:
            return
        raw = wire.encode(message)
        link.send(1, raw)
        pair = (self.name, link.ends[0].name)
        if self.network.havoc.get(pair) == "ghost" and isinstance(message, NewPlan | Activate):
            delay = 400 * MS * self.network.chance(pair).random()
            self.after(delay, lambda: link.send(1, raw))  # an echo, when others may have followed

    def _probe(self, probe: Probe) -> None:
        target, network = self._find(probe.node), self.network
        there, back = (self.name, probe.node), (probe.node, self.name)
        way = network.passes(*there) and network.passes(*back)
        reached = target is not None and target.powered and way
        refused = reached and not (target is not None and target.alive)
        delay = network.delay(*there) + network.delay(*back) if reached else PROBE_TIMEOUT_MS * MS

        def ended() -> None:
            outcome = (probe.node, probe.incarnation, refused, self.clock.now)
            self.perform(self.core.on_probe(*outcome))

        self.after(delay, ended)


class Request(msgspec.Struct):
    """One request as the client sees it. ``outcomes``: when and what; there must be one."""

    client: str
    seq: int
    sent_ns: int
    deadline_ns: int
    outcomes: list[tuple[int, str]] = []

    @property
    def good_ns(self) -> int | None:
        """When it was answered."""
        return self.outcomes[0][0] if self.outcomes and self.outcomes[0][1] == "ok" else None


class SimClient(Process):
    """A client that sends requests at a rate, open loop, and keeps account of them."""

    def __init__(
        self, name: str, network: Network, find: Found, watch: Any, doors: Sequence[str]
    ) -> None:
        super().__init__(name, network.clock)
        self.requests: dict[int, Request] = {}
        self.rate_per_s = 0.0
        self.budget_ms = 2000.0
        self.network = network
        self._find = find
        self._watch = watch
        self._doors = [f"tcp://{door}:1" for door in doors]

    def born(self) -> None:
        """The client's process lives as long as the simulation."""
        self.core = ClientCore("continuer", self.name.encode(), self._doors)
        self._links: dict[str, Connection] = {}
        for endpoint in self._doors:
            self._dial(endpoint)
        self._ticking = False

    def _dial(self, endpoint: str) -> None:
        name = endpoint.removeprefix("tcp://").partition(":")[0]
        target, network = self._find(name), self.network
        way = network.passes(self.name, name) and network.passes(name, self.name)
        if target is None or not target.listens or not way:
            self.after(REDIAL_MS * MS, lambda: self._dial(endpoint))
            return
        life = target.life
        round_trip = network.delay(self.name, name) + network.delay(name, self.name)
        self.after(round_trip, lambda: self._connected(endpoint, target, life))

    def _connected(self, endpoint: str, target: Any, life: int) -> None:
        if not target.listens or target.life != life:
            self._dial(endpoint)
            return
        link = self._links[endpoint] = Connection(self.network, self, target)
        target.door(link)
        link.on_message[0] = lambda frames: self._heard(endpoint, frames)
        link.on_closed[0] = lambda: self._lost(endpoint)
        self.perform(self.core.on_connected(endpoint))

    def _lost(self, endpoint: str) -> None:
        self._links.pop(endpoint, None)
        self.perform(self.core.on_disconnected(endpoint, self.clock.now))
        self._dial(endpoint)

    def _heard(self, endpoint: str, frames: list[bytes]) -> None:
        message = wire.decode(
            frames[0], wire.Accepted, Reply, wire.Rejected, wire.Notice, wire.Welcome, wire.Refuse
        )
        now = self.clock.now
        self.perform(self.core.on_message(endpoint, message, frames[1:], now))

    def _tick(self) -> None:
        self.perform(self.core.on_tick(self.clock.now))
        self._ticking = self.core.inflight > 0
        if self._ticking:
            self.after(TICK_MS * MS, self._tick)

    def ask(self, *, poison: bool = False) -> None:
        """Send a request."""
        now = self.clock.now
        seq = len(self.requests) + 1
        budget_ns = int(self.budget_ms * MS)
        frames = wire.to_frames([request(seq, poison=poison)])
        metas = wire.metas(BUNDLE.manifest.input.tensors)
        self.requests[seq] = Request(self.name, seq, now, now + budget_ns)
        pending = Pending(seq, "", "", metas, frames, now + budget_ns, budget_ns)
        self.perform(self.core.submit(pending, now))
        if not self._ticking:
            self._ticking = True
            self.after(TICK_MS * MS, self._tick)

    def stream(self) -> None:
        """Ask again and again while there is a rate."""
        if self.rate_per_s:
            self.ask()
            self.after(1e9 / self.rate_per_s, self.stream)

    def perform(self, commands: Sequence[ClientCommand]) -> None:
        """What the client's thread does."""
        for command in commands:
            if isinstance(command, ClientSend):
                link = self._links.get(command.endpoint)
                if link is not None:
                    frames = [bytes(frame) for frame in command.frames]
                    link.send(0, [wire.encode(command.message), *frames])
            elif isinstance(command, Connect):
                self._dial(command.endpoint)
            elif isinstance(command, Complete):
                self._complete(command)

    def _complete(self, done: Complete) -> None:
        found = self.requests[done.seq]
        if isinstance(done.outcome, RequestError):
            found.outcomes.append((self.clock.now, done.outcome.code))
            self._watch.completed(self, found, None, None)
            return
        found.outcomes.append((self.clock.now, "ok"))
        self._watch.completed(self, found, done.outcome, applied(done.frames[0]))


def event_text(event: Event) -> str:
    """An event in one line of the transcript."""
    return f"{event.name} " + " ".join(f"{k}={v}" for k, v in sorted(event.fields.items()))
