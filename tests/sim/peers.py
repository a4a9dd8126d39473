"""Data links of one thread of an agent: what ``agent.peers.Peers`` is, on simulated connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from agent.peers import KEEP_NS, PeerKey
from continuer.plan import Member
from tests.sim.clock import MS
from tests.sim.network import Connection, Network
from tests.sim.process import Found, Process

REDIAL_MS = 50
INPROC_MS = 0.02


class SimPeers:
    """One connection per life of a peer; what cannot be sent waits for a while, then is dropped."""

    def __init__(
        self, network: Network, own: Process, key: PeerKey, port: str, find: Found
    ) -> None:
        self._network = network
        self._own = own
        self._key = key
        self._port = port
        self._find = find
        self._links: dict[PeerKey, Connection | None] = {}
        self._waiting: dict[PeerKey, deque[tuple[int, Sequence[Any]]]] = {}

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def update(self, members: Iterable[Member]) -> None:
        wanted = {(m.node, m.incarnation) for m in members}
        for key in self._links.keys() - wanted:
            link = self._links.pop(key)
            self._waiting.pop(key, None)
            if link is not None:
                link.close()
        for key in sorted(wanted - self._links.keys()):
            self._links[key] = None
            self._dial(key)

    def _dial(self, key: PeerKey) -> None:
        """Try until the connection is there, or the peer is a member no more."""
        if key not in self._links or key == self._key:
            return
        target = self._find(key[0])
        here, there = self._own.name, key[0]
        network = self._network
        way = target is not None and network.passes(here, there) and network.passes(there, here)
        if target is not None and target.listens and way:
            life = target.life
            round_trip = network.delay(here, there) + network.delay(there, here)
            self._own.after(round_trip, lambda: self._connected(key, target, life))
        else:
            self._own.after(REDIAL_MS * MS, lambda: self._dial(key))

    def _connected(self, key: PeerKey, target: Process, life: int) -> None:
        if key not in self._links:
            return
        if not target.listens or target.life != life:
            self._dial(key)
            return
        link = Connection(self._network, self._own, target)
        link.on_message[1] = getattr(target, f"on_{self._port}")
        link.on_closed[0] = lambda: self._lost(key)
        self._links[key] = link

    def _lost(self, key: PeerKey) -> None:
        if key in self._links:
            self._links[key] = None
            self._own.after(REDIAL_MS * MS, lambda: self._dial(key))

    def unwritable(self, keys: Iterable[PeerKey]) -> list[PeerKey]:
        return sorted(k for k in keys if k in self._links and self._links[k] is None)

    def send(self, key: PeerKey, frames: Sequence[Any]) -> None:
        if key not in self._links or (key not in self._waiting and self._try(key, frames)):
            return
        queue = self._waiting.setdefault(key, deque())
        queue.append((self._network.clock.now + KEEP_NS, frames))

    def flush(
        self, on_dropped: Callable[[PeerKey, Sequence[Any]], None] | None = None
    ) -> dict[PeerKey, int]:
        dropped: dict[PeerKey, int] = {}
        now = self._network.clock.now
        for key, queue in list(self._waiting.items()):
            while queue and self._try(key, queue[0][1]):
                queue.popleft()
            while queue and queue[0][0] <= now:
                _, frames = queue.popleft()
                dropped[key] = dropped.get(key, 0) + 1
                if on_dropped is not None:
                    on_dropped(key, frames)
            if not queue:
                self._waiting.pop(key, None)
        return dropped

    def _try(self, key: PeerKey, frames: Sequence[Any]) -> bool:
        raw = [bytes(frame) for frame in frames]
        if key == self._key:
            deliver = getattr(self._own, f"on_{self._port}")
            self._own.after(INPROC_MS * MS, lambda: deliver(raw))
            return True
        link = self._links.get(key)
        if link is None:
            return False
        pair = (self._own.name, key[0])
        havoc, luck = self._network.havoc.get(pair), self._network.chance(pair)
        if havoc and luck.random() < 0.3:
            if havoc == "double":
                link.send(0, raw)
            elif havoc == "overtake":
                self._own.after(20 * MS * luck.random(), lambda: link.send(0, raw))
                return True
            else:
                return True  # dropped
        link.send(0, raw)
        return True
