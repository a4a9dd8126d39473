"""Sending to other agents: one socket per life of a peer, connected before it is needed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import zmq

from continuer import sockets, wire
from continuer.frames import send
from continuer.plan import Member

KEEP_NS = 100_000_000
MAX_WAITING = 1000
HIGH_WATER = 256

PeerKey = tuple[str, int]


class Peers:
    """Outgoing links of one thread to one kind of endpoint of every member.

    What cannot be sent at once (the connection is being made, or the peer is gone) waits for
    at most 100 ms and is then dropped: the ingress that accepted the request still has it.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        own: PeerKey,
        inproc: str,
        endpoint_of: Callable[[Member], str],
    ) -> None:
        self._context = context
        self._own = own
        self._inproc = inproc
        self._endpoint_of = endpoint_of
        self._sockets: dict[PeerKey, tuple[str, sockets.Socket]] = {}
        self._waiting: dict[PeerKey, deque[tuple[int, Sequence[Any]]]] = {}

    @property
    def waiting(self) -> bool:
        """True while ``flush`` has something to try again."""
        return bool(self._waiting)

    def update(self, members: Iterable[Member]) -> None:
        """Connect to members that are new, drop those that are gone."""
        wanted = {(m.node, m.incarnation): self._endpoint_of(m) for m in members}
        if self._own in wanted:
            wanted[self._own] = self._inproc
        for key, (endpoint, sock) in list(self._sockets.items()):
            if wanted.get(key) != endpoint:
                sock.close(linger=0)
                del self._sockets[key]
                self._waiting.pop(key, None)
        for key, endpoint in wanted.items():
            if key not in self._sockets:
                sock = sockets.make(
                    self._context, zmq.PUSH, wire.MAX_TENSOR_BYTES, high_water=HIGH_WATER
                )
                sockets.dial(sock, endpoint)
                self._sockets[key] = (endpoint, sock)

    def send(self, key: PeerKey, frames: Sequence[Any]) -> None:
        """Send now if possible, else keep for ``flush``; to strangers nothing is sent."""
        if key not in self._sockets or (key not in self._waiting and self._try(key, frames)):
            return
        queue = self._waiting.setdefault(key, deque(maxlen=MAX_WAITING))
        queue.append((time.monotonic_ns() + KEEP_NS, frames))

    def unwritable(self, keys: Iterable[PeerKey]) -> list[PeerKey]:
        """Those of the peers to which nothing can be sent now: no connection, or a full queue."""
        known = [key for key in keys if key in self._sockets]
        return [key for key in known if not self._sockets[key][1].poll(0, zmq.POLLOUT)]

    def flush(
        self, on_dropped: Callable[[PeerKey, Sequence[Any]], None] | None = None
    ) -> dict[PeerKey, int]:
        """Try again what waits. Returns how much was dropped, per peer."""
        dropped: dict[PeerKey, int] = {}
        now = time.monotonic_ns()
        for key, queue in list(self._waiting.items()):
            while queue and self._try(key, queue[0][1]):
                queue.popleft()
            while queue and queue[0][0] <= now:
                _, frames = queue.popleft()
                dropped[key] = dropped.get(key, 0) + 1
                if on_dropped is not None:
                    on_dropped(key, frames)
            if not queue:
                del self._waiting[key]
        return dropped

    def _try(self, key: PeerKey, frames: Sequence[Any]) -> bool:
        try:
            send(self._sockets[key][1], frames)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Close all links."""
        self.update(())
