"""A client's connections: one socket for each ingress, and what comes in by them.

For one thread at a time; whose turn it is, ``continuer/turns.py`` decides. Waiting is done by the
system's epoll and not by ZeroMQ's poller, which asks all sockets and their monitors twice before it
waits and twice when it wakes: with five ingresses that took longer than all else a client does
for a request.
"""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from continuer import sockets, wire
from continuer.errors import ConfigError, UnreachableError
from continuer.frames import has_mail, receive, send
from continuer.security.keys import KeyPair

WATCHED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | sockets.TURNED_AWAY


class Links:
    """``bell``: a descriptor that ends a wait when it can be read."""

    def __init__(self, bell: int) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._links: dict[str, tuple[sockets.Socket, sockets.Socket]] = {}
        self._epoll = select.epoll()
        self._epoll.register(bell, select.EPOLLIN)
        self._bell = bell
        self._endpoint_of: dict[int, str] = {}
        self._monitor_of: dict[int, str] = {}
        # ZeroMQ's descriptors say once that something has happened, and only to who has looked
        # and found nothing. Whatever is done with a socket, sending too, may use the sign up.
        # So these are links by which something may have come, and monitors never looked at.
        self._stirred: set[str] = set()
        self._fresh: list[str] = []

    def connect(self, endpoint: str, pair: KeyPair | None) -> None:
        """Raises UnreachableError for what is no endpoint, ConfigError where a key is missing."""
        link = sockets.make(self._context, zmq.DEALER, wire.MAX_TENSOR_BYTES)
        monitor = link.get_monitor_socket(WATCHED)
        try:
            sockets.dial(link, endpoint, pair)
        except (zmq.ZMQError, ConfigError) as error:
            _close(link, monitor)
            if isinstance(error, ConfigError):
                raise
            raise UnreachableError(
                f"endpoint {endpoint!r}: {error.strerror}; give one such as tcp://10.0.0.2:7410"
            ) from error
        self._links[endpoint] = (link, monitor)
        for sock, known in ((link, self._endpoint_of), (monitor, self._monitor_of)):
            fd = int(sock.get(zmq.FD))
            known[fd] = endpoint
            self._epoll.register(fd, select.EPOLLIN)
        self._stirred.add(endpoint)
        self._fresh.append(endpoint)

    def send(self, endpoint: str, message: Sequence[Any]) -> bool:
        """False where there is no connection now, or its queue is full."""
        self._stirred.add(endpoint)
        try:
            send(self._links[endpoint][0], message)
        except zmq.Again:
            return False
        return True

    def wait(self, wait_ms: float) -> tuple[bool, list[str]]:
        """Until something may have come, or so long. True: the bell; and whose monitors stir."""
        rung, watched, self._fresh = False, self._fresh, []
        for endpoint in tuple(self._stirred):
            if not has_mail(self._links[endpoint][0]):
                self._stirred.discard(endpoint)
        ready = self._epoll.poll(0 if self._stirred or watched else wait_ms / 1000)
        for fd, _ in ready:
            if fd in self._endpoint_of:
                self._stirred.add(self._endpoint_of[fd])
            elif fd == self._bell:
                rung = True
            else:
                watched.append(self._monitor_of[fd])
        return rung, watched

    def received(self) -> Iterator[tuple[str, list[bytes]]]:
        """A message from each link by which one has come, with the link's endpoint."""
        for endpoint in tuple(self._stirred):
            try:
                message = receive(self._links[endpoint][0])
            except zmq.Again:  # something else has happened to the socket
                self._stirred.discard(endpoint)
            else:
                yield endpoint, message

    def happened(self, endpoint: str) -> Iterator[int]:
        """What the monitor of a link has seen: events of ZeroMQ."""
        monitor = self._links[endpoint][1]
        while has_mail(monitor):
            yield int(recv_monitor_message(monitor)["event"])

    def close(self) -> None:
        """End all connections; what is unsent is lost."""
        self._epoll.close()
        for link, monitor in self._links.values():
            _close(link, monitor)
        self._context.term()


def _close(link: sockets.Socket, monitor: sockets.Socket) -> None:
    link.disable_monitor()
    monitor.close(linger=0)
    link.close(linger=0)
