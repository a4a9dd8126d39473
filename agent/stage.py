"""The stage thread: receives work and has it executed. Reads the route, needs no plan."""

from __future__ import annotations

import threading
from collections.abc import Callable

import zmq

from agent.executor import Executor
from agent.peers import PeerKey, Peers
from continuer import sockets
from continuer.mailbox import Mailbox
from continuer.notify import Pulse
from continuer.plan import Member
from continuer.security import access

POLL_MS = 200


class Stage(threading.Thread):
    """Owns the data socket (tensors in) and its executor's links (tensors and answers out)."""

    def __init__(
        self,
        data: sockets.Socket,
        executor: Executor,
        links: tuple[Peers, Peers],
        on_unreachable: Callable[[PeerKey, int], None],
    ) -> None:
        super().__init__(name="stage", daemon=True)
        self.mailbox: Mailbox[tuple[Member, ...] | None] = Mailbox()
        self.pulse = Pulse("stage")
        self._data = data
        self._gate = access.gate("data")
        self._executor = executor
        self._links = links
        self._on_unreachable = on_unreachable

    def run(self) -> None:
        """Serve until None is posted to the mailbox."""
        self.pulse.adopt()
        poller = zmq.Poller()
        poller.register(self._data, zmq.POLLIN)
        poller.register(self.mailbox.fd, zmq.POLLIN)
        while True:
            self.pulse.beat()
            waiting = self._executor.waiting
            ready = dict(poller.poll(1 if waiting else POLL_MS))
            if self.mailbox.fd in ready and not self._obey():
                break
            if self._data in ready:
                self._receive()
            if waiting:
                for key, count in self._executor.flush().items():
                    self._on_unreachable(key, count)
        for link in self._links:
            link.close()
        self._data.close(linger=0)

    def _obey(self) -> bool:
        for members in self.mailbox.take():
            if members is None:
                return False
            for link in self._links:
                link.update(members)
        return True

    def _receive(self) -> None:
        try:
            frames, _ = self._gate.receive(self._data)
        except zmq.Again:
            return
        self._executor.receive(frames)
