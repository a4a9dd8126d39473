"""The ingress thread: clients on one side, the first stage and the answers on the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import zmq

from agent.executor import Executor
from agent.ingress_core import Command, Forward, IngressCore, ToClient
from agent.peers import PeerKey, Peers
from agent.plan_holder import InForce
from agent.repairs import Accused, Slow, Unwritable
from continuer import sockets, wire
from continuer.errors import WireError
from continuer.events import Event
from continuer.frames import has_mail, send
from continuer.mailbox import Mailbox
from continuer.notify import Pulse
from continuer.plan import Member
from continuer.security import access
from continuer.security.identity import Identity
from continuer.wire import Hello, Problem, Result, Submit

TICK_MS = 10

Handler = Callable[[list[bytes], Identity | None], list[Command]]
Order = tuple[Member, ...] | InForce | None


class Ingress(threading.Thread):
    """Owns the client socket, the answers socket and links to every first stage."""

    def __init__(
        self,
        clients: sockets.Socket,
        answers: sockets.Socket,
        own: PeerKey,
        core: IngressCore,
        executor: Executor,
        links: tuple[Peers, Peers],
        on_event: Callable[[Event], None],
        on_in_force: Callable[[InForce, int], None],
        on_unreachable: Callable[[PeerKey, int], None],
        on_foreign: Callable[[str, str, int], None],
        on_report: Callable[[Unwritable | Slow | Accused], None],
    ) -> None:
        super().__init__(name="ingress", daemon=True)
        self.mailbox: Mailbox[Order] = Mailbox()
        self.pulse = Pulse("ingress")
        self._clients = clients
        self._answers = answers
        self._core = core
        self._on_event = on_event
        self._on_in_force = on_in_force
        self._on_unreachable = on_unreachable
        self._on_foreign = on_foreign
        self._on_report = on_report
        self._own = own
        self._executor = executor
        self._links = links
        self._peers = links[0]
        self._foreign = 0
        self._gates = {clients: access.gate("ingress"), answers: access.gate("answers")}

    def run(self) -> None:
        """Serve until None is posted to the mailbox."""
        self.pulse.adopt()
        poller = zmq.Poller()
        for source in (self._clients, self._answers, self.mailbox.fd):
            poller.register(source, zmq.POLLIN)
        ticked = time.monotonic_ns()
        while True:
            self.pulse.beat()
            busy = self._executor.waiting
            ready = dict(poller.poll(1 if busy else TICK_MS if self._core.inflight else 200))
            if self.mailbox.fd in ready and not self._obey():
                for link in self._links:
                    link.close()
                self._clients.close(linger=0)
                self._answers.close(linger=0)
                return
            if self._answers in ready:
                self._read(self._answers, self._on_answer)
            if self._clients in ready:
                self._read(self._clients, self._on_client)
            if busy:
                for key, count in self._executor.flush().items():
                    self._on_unreachable(key, count)
            now = time.monotonic_ns()
            if now - ticked >= TICK_MS * 1_000_000:
                ticked = now
                self._tick(now)

    def _tick(self, now: int) -> None:
        self._perform(self._core.on_tick(now))
        # A connection that has gone shows before the coordinator has spoken.
        for node, _ in self._peers.unwritable(self._core.route_peers):
            self._on_report(Unwritable(node))

    def _obey(self) -> bool:
        for order in self.mailbox.take():
            if order is None:
                return False
            if isinstance(order, InForce):
                before = self._core.counters.resent
                now = time.monotonic_ns()
                self._perform(self._core.on_step(order, now))
                self._on_in_force(order, self._core.counters.resent - before)
            else:
                for link in self._links:
                    link.update(order)
                self._core.on_members(order)
        return True

    def _read(self, sock: sockets.Socket, handle: Handler) -> None:
        """Receive one message. To find that there is no other takes longer than to poll again."""
        try:
            frames, sender = self._gates[sock].receive(sock)
        except zmq.Again:
            return
        try:
            self._perform(handle(frames, sender))
        except WireError as error:
            self._foreign += 1
            name = "ingress" if sock is self._clients else "answers"
            self._on_foreign(name, str(error), self._foreign)

    def _on_client(self, frames: list[bytes], sender: Identity | None) -> list[Command]:
        if len(frames) < 2:
            raise WireError("an empty message")
        try:
            message = wire.decode(frames[1], Submit, Hello)
        except wire.ProtocolMismatchError as error:
            return [ToClient(frames[0], wire.Refuse("protocol", str(error)))]
        self._gates[self._clients].check(sender, message)
        if isinstance(message, Submit):
            return self._core.on_submit(frames[0], message, frames[2:], time.monotonic_ns())
        return self._core.on_hello(frames[0], message) if isinstance(message, Hello) else []

    def _on_answer(self, frames: list[bytes], sender: Identity | None) -> list[Command]:
        message = wire.decode(frames[0], Result, Problem)
        self._gates[self._answers].check(sender, message)
        if isinstance(message, Result):
            return self._core.on_result(message, frames[1:])
        if isinstance(message, Problem):
            return self._core.on_problem(message, time.monotonic_ns())
        return []

    def _perform(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Forward):
                self._forward(command)
            elif isinstance(command, ToClient):
                self._tell(command)
            elif isinstance(command, Event):
                self._on_event(command)
            else:
                self._on_report(command)

    def _forward(self, command: Forward) -> None:
        """Send work to the first stage. If that is us, and short, waking a thread costs more.

        Not while other clients wait at the door: who is not let in soon goes to another ingress,
        and then his request is run twice.
        """
        key = (command.node, command.incarnation)
        here = key == self._own and not has_mail(self._clients)
        if here and self._executor.try_inline(command.work, command.frames):
            return
        self._peers.send(key, [wire.encode(command.work), *command.frames])

    def _tell(self, command: ToClient) -> None:
        frames = [command.link, wire.encode(command.message), *command.frames]
        try:
            send(self._clients, frames)
        except zmq.ZMQError:
            # The client is gone, or so slow that its queue is full: only it suffers.
            self._core.forget_client(command.link)
