"""An agent: the real control, plan, repair and ingress cores and executors, on simulated links."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from agent.control_core import Command as ControlCommand
from agent.control_core import ControlCore, Meet, Say, Shine
from agent.executor import Executor
from agent.ingress_core import Command as IngressCommand
from agent.ingress_core import Forward, IngressCore, Limits, ToClient
from agent.plan_holder import InForce, PlanHolder
from agent.repairs import Accused, Answer, Knock, Load, Slow
from continuer import wire
from continuer.errors import WireError
from continuer.events import Event
from continuer.plan import Member, Version
from continuer.wire import (
    Activate,
    Foresee,
    Heartbeat,
    Hello,
    Join,
    Members,
    NewPlan,
    Pace,
    Prepare,
    Prepared,
    Problem,
    Refuse,
    Result,
    Submit,
)
from tests.sim.clock import MS
from tests.sim.model import BUNDLE, LATENCY_US, LOAD_US, KilledError, SymbolicEngine
from tests.sim.network import Connection, Network
from tests.sim.peers import SimPeers
from tests.sim.process import Found, Process

BEAT_MS = 10
IDLE_MS = 200
REDIAL_MS = 30
REDIAL_MAX_MS = 500
MAILBOX_MS = 0.05
STORE_MS = 5
GREETING_MS = 100
ORDERS = (Refuse, Members, Prepare, NewPlan, Foresee, Activate, Pace)


class SimAgent(Process):
    """One node. ``watch`` is told of what the invariants speak of."""

    def __init__(
        self, name: str, network: Network, find: Found, watch: Any, wall: Callable[[str], int]
    ) -> None:
        super().__init__(name, network.clock)
        self.network = network
        self.standby = "none"
        self._find = find
        self._watch = watch
        self._wall = wall

    def born(self) -> None:
        """Everything that the daemon puts together."""
        incarnation = self._wall(self.name)
        key = (self.name, incarnation)
        self.member = Member(*key, *(f"tcp://{self.name}:{port}" for port in (2, 3, 1)))
        floor = self.disk.get("accepted", Version())
        assert isinstance(floor, Version)
        self.holder = PlanHolder(BUNDLE.hash, floor)
        self.engine = SymbolicEngine()
        self._stage_links, self._stage = self._executor(key)
        self._links, self._inline = self._executor(key)
        self.ingress = IngressCore("continuer", *key, BUNDLE, Limits())
        self.control = ControlCore(
            self.member, "coordinator", self._join, self._heartbeat, self.holder
        )
        self._coordinator: Connection | None = None
        self._doors: dict[bytes, Connection] = {}
        self._work: deque[list[bytes]] = deque()
        self._redial_ms = REDIAL_MS
        self._beats = 0
        self._at_rest = False
        self._dial()
        self._beat_on(self._beats)

    def _executor(self, key: tuple[str, int]) -> tuple[tuple[SimPeers, SimPeers], Executor]:
        links = (
            SimPeers(self.network, self, key, "data", self._find),
            SimPeers(self.network, self, key, "answers", self._find),
        )
        peers: Any = links[0]  # they offer what the executor needs of Peers
        ingresses: Any = links[1]
        engine: Any = self.engine
        executor = Executor(key, "continuer", BUNDLE, engine, peers, ingresses, self._watch.foreign)
        return links, executor

    # --- the coordinator's link -------------------------------------------------------

    def _dial(self) -> None:
        target = self._find("coordinator")
        network = self.network
        here, there = self.name, "coordinator"
        way = network.passes(here, there) and network.passes(there, here)
        if target is None or not target.listens or not way:
            self.after(self._redial_ms * MS, self._dial)
            self._redial_ms = min(2 * self._redial_ms, REDIAL_MAX_MS)
            return
        self._redial_ms = REDIAL_MS
        life = target.life
        round_trip = network.delay(here, there) + network.delay(there, here)
        self.after(round_trip, lambda: self._connected(target, life))

    def _connected(self, target: Any, life: int) -> None:
        if not target.listens or target.life != life:
            self._dial()
            return
        link = self._coordinator = Connection(self.network, self, target)
        link.on_message[0] = self._heard
        link.on_closed[0] = self._lost
        target.accepted(link)
        self._wake()
        self.perform(self.control.on_connected(self.clock.now))

    def _lost(self) -> None:
        self._coordinator = None
        self.perform(self.control.on_disconnected())
        self.after(REDIAL_MS * MS, self._dial)

    def _heard(self, raw: bytes) -> None:
        message = wire.decode(raw, *ORDERS)
        self.perform(self.control.on_message(message, self.clock.now))

    def _beat_on(self, number: int) -> None:
        """Beat now and again; seldom while there is nothing to do and nobody to tell."""
        if number != self._beats:
            return
        self._beat()
        busy = self._stage.waiting or self._inline.waiting or self.ingress.inflight
        self._at_rest = self._coordinator is None and not busy
        rest_ms = IDLE_MS if self._at_rest else BEAT_MS
        self.after(rest_ms * MS, lambda: self._beat_on(number))

    def _wake(self) -> None:
        """Something has come in, and the threads no longer sleep."""
        if self._at_rest:
            self._at_rest = False
            self._beats += 1
            number = self._beats
            self.after(BEAT_MS * MS, lambda: self._beat_on(number))

    def _beat(self) -> None:
        now = self.clock.now
        self.perform(self.control.on_beat(now))
        self.enter(self.ingress.on_tick(now))
        for node, _ in self._links[0].unwritable(self.ingress.route_peers):
            self.perform(self.control.on_unwritable(node, now))
        for executor in (self._stage, self._inline):
            if executor.waiting:
                for peer, count in executor.flush().items():
                    self.perform(self.control.on_unreachable(peer, count, now))

    def perform(self, commands: Sequence[ControlCommand]) -> None:
        """What the control thread does."""
        for command in commands:
            if isinstance(command, Say):
                if self._coordinator is not None:
                    self._coordinator.send(0, wire.encode(command.message))
            elif isinstance(command, Meet):
                for links in (self._stage_links, self._links):
                    for link in links:
                        link.update(command.members)
                self.ingress.on_members(command.members)
            elif isinstance(command, Load):
                self._load(command.order)
            elif isinstance(command, Knock):
                self._knock(command)
            elif isinstance(command, Shine | Event):
                self._emit(command)
            else:
                order = command
                self.after(MAILBOX_MS * MS, lambda order=order: self._apply(order))  # type: ignore[misc]

    def _emit(self, command: Shine | Event) -> None:
        if isinstance(command, Event):
            self._watch.event(self, command)
            return
        target: Any = self._find("coordinator")
        found = (self.name, command.session, command.sequence, int(BEAT_MS * MS))
        self.network.datagram(self.name, target, lambda: target.beacon(*found))

    def _apply(self, order: InForce) -> None:
        before = self.ingress.counters.resent
        commands = self.ingress.on_step(order, self.clock.now)
        self._watch.applied(self, order)
        self.enter(commands)
        replayed = self.ingress.counters.resent - before
        self.perform(self.control.on_applied(order, replayed))
        self.after(STORE_MS * MS, lambda: self._store(order.version))

    def _store(self, version: Version) -> None:
        stored = self.disk.get("accepted", Version())
        assert isinstance(stored, Version)
        self.disk["accepted"] = max(stored, version)

    def _load(self, order: Prepare) -> None:
        lacking = set(order.parts) - self.engine.loaded
        delay = LOAD_US * 1000 * self.slowness * len(lacking)

        def loaded() -> None:
            self.engine.loaded |= set(order.parts)
            prepared = Prepared(
                self.name, self.member.incarnation, order.ticket, self.engine.timings()
            )
            self.perform(self.control.on_prepared(prepared))

        self.after(delay, loaded)

    def _knock(self, knock: Knock) -> None:
        """A TCP connection, and whether a greeting comes back."""
        target = self._find(knock.node)
        network = self.network
        way = network.passes(self.name, knock.node) and network.passes(knock.node, self.name)
        answer: Answer = "silent"
        if target is not None and target.powered and way:
            answer = "silent" if target.paused else "answered" if target.alive else "refused"
        round_trip = network.delay(self.name, knock.node) + network.delay(knock.node, self.name)
        delay = GREETING_MS * MS if answer == "silent" else round_trip
        self.after(
            delay, lambda: self.perform(self.control.on_knocked(knock, answer, self.clock.now))
        )

    def _join(self) -> Join:
        return Join(
            "continuer", self.member, BUNDLE.name, BUNDLE.hash, self.holder.version, 0,
            self.standby, self.engine.timings(),
        )  # fmt: skip

    def _heartbeat(self, sequence: int) -> Heartbeat:
        done = self._stage.progress.done + self._inline.progress.done
        counters = self.ingress.counters
        return Heartbeat(
            self.name, self.member.incarnation, sequence, self.holder.version, counters.accepted,
            done, self.ingress.inflight, 0, repairs=self.control.repairs.count,
        )  # fmt: skip

    # --- requests ---------------------------------------------------------------------

    def on_data(self, frames: list[bytes]) -> None:
        """Work for the stage, which does one thing after the other."""
        self._wake()
        self._work.append(frames)
        if len(self._work) == 1:
            self._begin()

    def _begin(self) -> None:
        """Compute for what has waited longest, as slowly as this host is by now."""
        hop = wire.decode(self._work[0][0], wire.Work)
        cost = LATENCY_US * 1000 * len(hop.route[hop.cursor].parts) * self.slowness
        self.after(int(cost), self._run)

    def _run(self) -> None:
        try:
            self._stage.receive(self._work.popleft())
        except KilledError:
            self.die()
            return
        if self._work:
            self._begin()

    def die(self) -> None:
        """The process is killed."""
        self._watch.say(f"** {self.name} is killed")
        self.end()
        self.network.gone(self)

    def on_answers(self, frames: list[bytes]) -> None:
        """An outcome for the ingress."""
        message = wire.decode(frames[0], Result, Problem)
        try:
            if isinstance(message, Result):
                self.enter(self.ingress.on_result(message, frames[1:]))
            elif isinstance(message, Problem):
                self.enter(self.ingress.on_problem(message, self.clock.now))
        except WireError as error:
            self._watch.foreign("answers", str(error), 1)

    def door(self, connection: Connection) -> bytes:
        """A client has connected."""
        link = connection.label
        self._doors[link] = connection
        connection.on_message[1] = lambda frames: self._on_client(link, frames)
        connection.on_closed[1] = lambda: self._leave(link)
        return link

    def _leave(self, link: bytes) -> None:
        self._doors.pop(link, None)

    def _on_client(self, link: bytes, frames: list[bytes]) -> None:
        self._wake()
        message = wire.decode(frames[0], Submit, Hello)
        if isinstance(message, Submit):
            self.enter(self.ingress.on_submit(link, message, frames[1:], self.clock.now))
        elif isinstance(message, Hello):
            self.enter(self.ingress.on_hello(link, message))

    def enter(self, commands: Sequence[IngressCommand]) -> None:
        """What the ingress thread does."""
        for command in commands:
            if isinstance(command, Forward):
                self._watch.forwarded(self, command.work)
                key = (command.node, command.incarnation)
                own = key == (self.name, self.member.incarnation)
                try:
                    if own and self._inline.try_inline(command.work, command.frames):
                        continue
                except KilledError:
                    self.die()
                    return
                self._links[0].send(key, [wire.encode(command.work), *command.frames])
            elif isinstance(command, ToClient):
                connection = self._doors.get(command.link)
                if connection is None:
                    self.ingress.forget_client(command.link)
                    continue
                frames = [bytes(frame) for frame in command.frames]
                connection.send(1, [wire.encode(command.message), *frames])
            elif isinstance(command, Slow):
                now = self.clock.now
                self.perform(self.control.on_slow(command.nodes, command.waited_ms, now))
            elif isinstance(command, Accused):
                self.perform(self.control.on_accused(command.node, command.by, self.clock.now))
            else:
                self._watch.event(self, command)
