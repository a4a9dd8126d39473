"""The control thread: the link to the coordinator, heartbeats, and what arrives there.

It has a ZeroMQ context of its own, so that no tensor can stand before a heartbeat.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from agent.plan_holder import InForce, PlanHolder, Refused
from continuer import realtime, sockets, wire
from continuer.errors import WireError
from continuer.journal import Journal
from continuer.mailbox import Mailbox
from continuer.plan import Member
from continuer.wire import (
    Accuse,
    Ack,
    Activate,
    Foresee,
    Heartbeat,
    Join,
    Leave,
    Members,
    Message,
    NewPlan,
    Prepare,
    Prepared,
    Refuse,
    Stale,
)

REJOIN_NS = 1_000_000_000
ACCUSE_EVERY_NS = 100_000_000


class Applied(msgspec.Struct, frozen=True):
    """The ingress has put a step in force and resent so many requests for it."""

    in_force: InForce
    replayed: int


class Unreachable(msgspec.Struct, frozen=True):
    """Work for a peer was dropped."""

    peer: tuple[str, int]
    dropped: int


class Stop(msgspec.Struct, frozen=True):
    """End the thread after saying goodbye."""


class Control(threading.Thread):
    """Joins, beats, obeys. Callbacks are called in this thread and must not block."""

    def __init__(
        self,
        endpoint: str,
        heartbeat_ms: float,
        member: Member,
        make_join: Callable[[], Join],
        make_heartbeat: Callable[[int], Heartbeat],
        holder: PlanHolder,
        journal: Journal,
        on_members: Callable[[tuple[Member, ...]], None],
        on_in_force: Callable[[InForce], None],
        on_prepare: Callable[[Prepare], None],
        *,
        real_time: bool,
    ) -> None:
        super().__init__(name="control", daemon=True)
        self.mailbox: Mailbox[Applied | Prepared | Unreachable | Stop] = Mailbox()
        self.joined = False
        self._endpoint = endpoint
        self._interval_ns = int(heartbeat_ms * 1e6)
        self._member = member
        self._make_join = make_join
        self._make_heartbeat = make_heartbeat
        self._holder = holder
        self._journal = journal
        self._on_members = on_members
        self._on_in_force = on_in_force
        self._on_prepare = on_prepare
        self._connected = False
        self._join_ns = 0
        self._sequence = 0
        self._accused: dict[tuple[str, int], int] = {}
        self._foreign = 0
        self._real_time = real_time
        self._context: zmq.Context[Any] = zmq.Context()
        if real_time:
            realtime.raise_context(self._context)
        self._link = sockets.make(self._context, zmq.DEALER, wire.MAX_CONTROL_BYTES)
        self._monitor = self._link.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )

    def run(self) -> None:
        """Serve until Stop is posted."""
        if self._real_time:
            realtime.raise_thread()
        sockets.dial(self._link, self._endpoint)
        poller = zmq.Poller()
        for source in (self._link, self._monitor, self.mailbox.fd):
            poller.register(source, zmq.POLLIN)
        beat_ns = time.monotonic_ns()
        running = True
        while running:
            now = time.monotonic_ns()
            if now >= beat_ns:
                self._beat(now)
                # A fixed beat; beats that were missed are not made up for.
                beat_ns = max(beat_ns + self._interval_ns, now)
            wait_ms = max(0, -(-(beat_ns - time.monotonic_ns()) // 1_000_000))
            ready = dict(poller.poll(wait_ms))
            if self._monitor in ready:
                self._watch()
            if self._link in ready:
                self._receive()
            if self.mailbox.fd in ready:
                running = self._deliver()
        self._link.disable_monitor()
        self._context.destroy(linger=100)  # the goodbye may still be on its way out

    def _beat(self, now: int) -> None:
        if not self._connected:
            return
        if not self.joined:
            if now - self._join_ns >= REJOIN_NS:
                self._join(now)
            return
        self._sequence += 1
        self._send(self._make_heartbeat(self._sequence))

    def _join(self, now: int) -> None:
        self._join_ns = now
        self._send(self._make_join())

    def _watch(self) -> None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._connected = True
                self._join(time.monotonic_ns())
            elif self._connected:
                self._connected = self.joined = False
                self._journal.emit("coordinator_lost", coordinator=self._endpoint)

    def _receive(self) -> None:
        while True:
            try:
                frames = self._link.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                if len(frames) != 1:
                    raise WireError(f"{len(frames)} frames; expected 1")
                message = wire.decode(
                    frames[0], Refuse, Members, Prepare, NewPlan, Foresee, Activate
                )
            except WireError as error:
                self._foreign += 1
                self._journal.emit(
                    "foreign_bytes", socket="control", problem=str(error), dropped=self._foreign
                )
                continue
            self._obey(message)

    def _obey(self, message: Message) -> None:
        if isinstance(message, Activate):
            self._apply(self._holder.on_activate(message), str(message.version))
        elif isinstance(message, NewPlan):
            self._on_members(message.plan.members)
            self._apply(self._holder.on_plan(message.plan), str(message.plan.version))
        elif isinstance(message, Foresee):
            self._holder.on_foresee(message)
        elif isinstance(message, Members):
            if not self.joined:
                self.joined = True
                self._journal.emit("joined", coordinator=self._endpoint)
            self._on_members(message.members)
        elif isinstance(message, Prepare):
            self._on_prepare(message)
        elif isinstance(message, Refuse):
            self._refused(message)

    def _refused(self, message: Refuse) -> None:
        if message.code == "unknown":  # the coordinator has restarted
            if self.joined:
                self.joined = False
                self._join(time.monotonic_ns())
            return
        self.joined = False
        self._journal.emit("join_refused", code=message.code, problem=message.message)

    def _apply(self, outcome: InForce | Refused, version: str) -> None:
        if isinstance(outcome, InForce):
            self._on_in_force(outcome)  # the ingress reports Applied, then we acknowledge
            return
        held = self._holder.version
        self._journal.emit("plan_refused", version=version, held=str(held), problem=outcome.problem)
        if outcome.stale:
            self._send(Stale(self._member.node, self._member.incarnation, held))

    def _deliver(self) -> bool:
        member = self._member
        for item in self.mailbox.take():
            if isinstance(item, Applied):
                step = item.in_force
                self._send(Ack(member.node, member.incarnation, step.version, item.replayed))
                self._journal.emit(
                    "plan_accepted",
                    version=str(step.version),
                    technique=step.step.technique,
                    failed=sorted(step.failed),
                    replayed=item.replayed,
                )
            elif isinstance(item, Prepared):
                self._send(item)
            elif isinstance(item, Unreachable):
                self._accuse(item)
            else:
                self._send(Leave(member.node, member.incarnation))
                return False
        return True

    def _accuse(self, item: Unreachable) -> None:
        now = time.monotonic_ns()
        if now - self._accused.get(item.peer, -ACCUSE_EVERY_NS) < ACCUSE_EVERY_NS:
            return
        self._accused[item.peer] = now
        name, incarnation = item.peer
        reason = f"{item.dropped} messages could not be sent"
        own = self._member
        self._send(Accuse(own.node, own.incarnation, name, incarnation, reason))
        self._journal.emit("peer_unreachable", peer=name, dropped=item.dropped)

    def _send(self, message: Message) -> None:
        try:
            self._link.send(wire.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return  # no link: the join that follows a new one tells the coordinator anew
