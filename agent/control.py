"""The control thread: the link to the coordinator, heartbeats, knocks, and what arrives there.

It has a ZeroMQ context of its own, so that no tensor can stand before a heartbeat. What to say
and to do is decided in ``agent/control_core.py``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from agent import drill
from agent.beacons import Beacons
from agent.control_core import Adopt, Command, ControlCore, Meet, Say, Shine
from agent.knocking import Knocking
from agent.plan_holder import InForce, PlanHolder
from agent.repairs import Accused, Answer, Knock, Load, Slow, Unwritable
from agent.standstill import Standstill
from continuer import beacon, realtime, sockets, wire
from continuer.errors import WireError
from continuer.journal import Event, Journal
from continuer.mailbox import Mailbox
from continuer.notify import Pulse
from continuer.plan import Member
from continuer.security import access, start
from continuer.security.identity import split
from continuer.wire import (
    Activate,
    Drill,
    Foresee,
    Heartbeat,
    Join,
    Keyring,
    Members,
    NewPlan,
    Offer,
    Pace,
    Prepare,
    Prepared,
    Refuse,
    Staged,
    Unstage,
)


class Applied(msgspec.Struct, frozen=True):
    """The ingress has put a step in force and resent so many requests for it."""

    in_force: InForce
    replayed: int


class Unreachable(msgspec.Struct, frozen=True):
    """Work for a peer was dropped."""

    peer: tuple[str, int]
    dropped: int


class HandOver(msgspec.Struct, frozen=True):
    """Ask the coordinator that others take the work over."""


class Stop(msgspec.Struct, frozen=True):
    """End the thread after saying goodbye."""


Report = Applied | Prepared | Staged | Unreachable | Unwritable | Slow | Accused | HandOver | Stop


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
        on_bundle: Callable[[Offer | Unstage | Adopt], None],
        standstill: Standstill,
        *,
        real_time: bool,
    ) -> None:
        super().__init__(name="control", daemon=True)
        self.mailbox: Mailbox[Report] = Mailbox()
        self._core = ControlCore(member, endpoint, make_join, make_heartbeat, holder)
        self.pulse = Pulse("control")
        self._endpoint = endpoint
        self._interval_ns = int(heartbeat_ms * 1e6)
        self._journal = journal
        self._on_members = on_members
        self._on_in_force = on_in_force
        self._on_prepare = on_prepare
        self._on_bundle = on_bundle
        self._standstill = standstill
        self._hung: list[str] = []
        self._foreign = 0
        self._real_time = real_time
        self._context: zmq.Context[Any] = zmq.Context()
        if real_time:
            realtime.raise_context(self._context)
        self._link = sockets.make(self._context, zmq.DEALER, wire.MAX_CONTROL_BYTES)
        self._monitor = self._link.get_monitor_socket(
            zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._beacons = Beacons()
        self._poller = zmq.Poller()
        self._knocking = Knocking(self._poller)

    @property
    def joined(self) -> bool:
        """The coordinator has taken this agent in, and the link to it stands."""
        return self._core.joined

    @property
    def retire_refusal(self) -> str:
        """Why nobody can take this agent's work over; empty unless that was asked for."""
        return self._core.retire_refusal

    @property
    def repairs(self) -> int:
        """How often this agent has acted on a contingency by itself."""
        return self._core.repairs.count

    def run(self) -> None:
        """Serve until Stop is posted."""
        self.pulse.adopt()
        if self._real_time:
            realtime.raise_thread()
        sockets.dial(self._link, self._endpoint)
        for source in (self._link, self._monitor, self.mailbox.fd):
            self._poller.register(source, zmq.POLLIN)
        beat_ns = time.monotonic_ns()
        running = True
        while running:
            self.pulse.beat()
            now = time.monotonic_ns()
            if now >= beat_ns:
                self._beat(now)
                # A fixed beat; beats that were missed are not made up for.
                beat_ns = max(beat_ns + self._interval_ns, now)
            wait_ms = max(0, -(-(beat_ns - time.monotonic_ns()) // 1_000_000))
            ready = dict(self._poller.poll(wait_ms))
            if self._monitor in ready:
                self._watch()
            if self._link in ready:
                self._receive()
            if self.mailbox.fd in ready:
                running = self._deliver()
            self._hear_knocks(ready)
        self._knocking.close()
        self._beacons.close()
        self._link.disable_monitor()
        self._context.destroy(linger=100)  # the goodbye may still be on its way out

    def _beat(self, now: int) -> None:
        """A sign of life, unless the work stands still."""
        hung = self._standstill.hung(now)
        if hung and not self._hung:
            self._journal.emit("thread_hung", threads=hung)
        self._hung = hung
        if not hung:
            self._perform(self._core.on_beat(now))

    def _watch(self) -> None:
        while self._monitor.poll(0):
            found = recv_monitor_message(self._monitor)
            event = found["event"]
            if event == zmq.EVENT_CONNECTED:
                self._beacons.aim(int(found["value"]))
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._perform(self._core.on_connected(time.monotonic_ns()))
            else:
                self._perform(self._core.on_disconnected())
                self._dial_anew()

    def _dial_anew(self) -> None:
        """Whoever was not answered under one key of the coordinator tries its other one."""
        following = start.next_endpoint(self._endpoint)
        if following != self._endpoint:
            self._link.disconnect(split(self._endpoint)[0])
            self._endpoint = following
            sockets.dial(self._link, following)

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
                    *(frames[0], Refuse, Keyring, Members, Prepare, NewPlan, Foresee, Activate),
                    *(Drill, Pace, Offer, Unstage),
                )
            except WireError as error:
                self._foreign += 1
                self._journal.emit(
                    "foreign_bytes", socket="control", problem=str(error), dropped=self._foreign
                )
                continue
            if isinstance(message, Drill):
                self._journal.emit("drill_begun", away_ms=message.away_ms)
                drill.fall_down(message.away_ms / 1000)
            if isinstance(message, Keyring):
                self._learn(message)
                continue
            self._perform(self._core.on_message(message, time.monotonic_ns()))

    def _learn(self, message: Keyring) -> None:
        own = access.installed()
        if own is None:
            return  # we use no keys: the coordinator may be on its way to use them
        try:
            own.learn(message.keys)
            own.keep()
        except OSError as error:  # known now, but not after a restart
            self._journal.emit("state_unwritable", problem=str(error))

    def _hear_knocks(self, ready: dict[Any, int]) -> None:
        now = time.monotonic_ns()
        for fd in {*(fd for fd in ready if fd in self._knocking), *self._knocking.expired(now)}:
            self._answered(*self._knocking.finish(fd))

    def _answered(self, knock: Knock, answer: Answer) -> None:
        self._perform(self._core.on_knocked(knock, answer, time.monotonic_ns()))

    def _deliver(self) -> bool:
        core = self._core
        for item in self.mailbox.take():
            now = time.monotonic_ns()
            if isinstance(item, Applied):
                self._perform(core.on_applied(item.in_force, item.replayed))
            elif isinstance(item, Prepared):
                self._perform(core.on_prepared(item))
            elif isinstance(item, Staged):
                self._perform(core.on_staged(item))
            elif isinstance(item, Unreachable):
                self._perform(core.on_unreachable(item.peer, item.dropped, now))
            elif isinstance(item, Unwritable):
                self._perform(core.on_unwritable(item.node, now))
            elif isinstance(item, Slow):
                self._perform(core.on_slow(item.nodes, item.waited_ms, now))
            elif isinstance(item, Accused):
                self._perform(core.on_accused(item.node, item.by, now))
            elif isinstance(item, HandOver):
                self._perform(core.retire())
            else:
                self._perform(core.leave())
                return False
        return True

    def _perform(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Say | Shine):
                self._send(command)
            elif isinstance(command, Meet):
                self._on_members(command.members)
            elif isinstance(command, Load):
                self._on_prepare(command.order)
            elif isinstance(command, Knock):
                answer = self._knocking.start(command, time.monotonic_ns())
                if answer is not None:
                    self._answered(command, answer)
            elif isinstance(command, Event):
                self._journal.write(command)
            elif isinstance(command, Offer | Unstage | Adopt):
                self._on_bundle(command)
                if isinstance(command, Adopt):
                    self._perform(self._core.on_adopted(time.monotonic_ns()))
            else:
                self._on_in_force(command)  # the ingress reports Applied, then we acknowledge

    def _send(self, command: Say | Shine) -> None:
        if isinstance(command, Shine):
            made = beacon.seal(
                command.session, command.key, command.sequence, self._interval_ns // 1000
            )
            self._beacons.send(made)
            return
        try:
            self._link.send(wire.encode(command.message), zmq.NOBLOCK)
        except zmq.Again:
            return  # no link: the join that follows a new one tells the coordinator anew
