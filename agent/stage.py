"""The stage thread: receives work and has it executed. Reads the route, needs no plan."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from agent.executor import Executor
from agent.peers import PeerKey, Peers
from continuer import sockets, wire
from continuer.frames import NOBLOCK
from continuer.notify import Pulse
from continuer.plan import Member
from continuer.security import access

WAIT_MS = 200
# While something that could not be sent is to be tried again.
RETRY_MS = 1
RING = [b""]
Order = tuple[Member, ...] | None


class Doorbell:
    """What other threads tell the stage. An empty message at the data socket says that they have.

    So the stage waits at that one socket. Waiting at two takes a poller, and more of its time than
    it takes to receive.
    """

    def __init__(self, context: zmq.Context[Any], endpoint: str) -> None:
        self._orders: deque[Order] = deque()
        self._bell = sockets.make(context, zmq.PUSH, wire.MAX_HEADER_BYTES)
        self._bell.connect(endpoint)
        self._rung = 0
        self._lock = threading.Lock()

    def post(self, order: Order) -> None:
        """Leave something for the stage; any thread."""
        self._orders.append(order)
        with self._lock:
            if self._bell.closed:
                return  # the stage has ended
            try:
                self._bell.send(b"", NOBLOCK)
            except zmq.Again:
                return  # so much lies before it that the stage will look soon enough
            self._rung += 1

    def answered(self) -> bool:
        """An empty message has come; False where it is not ours."""
        with self._lock:
            ours = self._rung > 0
            self._rung -= ours
            return ours

    def take(self) -> list[Order]:
        """Everything that was left so far, oldest first."""
        orders = []
        while self._orders:
            orders.append(self._orders.popleft())
        return orders

    def close(self) -> None:
        """The stage ends."""
        with self._lock:
            self._bell.close(linger=0)


class Stage(threading.Thread):
    """Owns the data socket (tensors in) and its executor's links (tensors and answers out)."""

    def __init__(
        self,
        data: sockets.Socket,
        inproc: str,
        executor: Executor,
        links: tuple[Peers, Peers],
        on_unreachable: Callable[[PeerKey, int], None],
    ) -> None:
        super().__init__(name="stage", daemon=True)
        self.mailbox = Doorbell(data.context, inproc)
        self.pulse = Pulse("stage")
        self._data = data
        self._gate = access.gate("data")
        self._executor = executor
        self._links = links
        self._on_unreachable = on_unreachable

    def run(self) -> None:
        """Serve until None is posted to the mailbox."""
        self.pulse.adopt()
        waited_ms = 0
        running = True
        while running:
            self.pulse.beat()
            waiting = self._executor.waiting
            wait_ms = RETRY_MS if waiting else WAIT_MS
            if wait_ms != waited_ms:
                self._data.set(zmq.RCVTIMEO, wait_ms)
                waited_ms = wait_ms
            running = self._receive()
            if waiting:
                for key, count in self._executor.flush().items():
                    self._on_unreachable(key, count)
        for link in self._links:
            link.close()
        self.mailbox.close()
        self._data.close(linger=0)

    def _obey(self) -> bool:
        for members in self.mailbox.take():
            if members is None:
                return False
            for link in self._links:
                link.update(members)
        return True

    def _receive(self) -> bool:
        """Wait for a message and see to it; False where it is to be the last one."""
        try:
            frames, _ = self._gate.receive(self._data, flags=0)
        except zmq.Again:
            return self._obey()
        if frames == RING and self.mailbox.answered():
            return self._obey()
        self._executor.receive(frames)
        return True
