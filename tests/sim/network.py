"""Links between hosts, and connections over them, as far as TCP and ZeroMQ let them be seen.

A connection keeps the order of messages. While a direction is cut, what is sent waits; after a
second the sender gives the connection up. A process that dies closes its connections; a host that
loses its power does not. On the data plane messages may also be dropped, doubled or overtaken,
which is worse than a connection does and what resending has to stand.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.sim.clock import MS, Clock
from tests.sim.process import Process

GIVE_UP_MS = 1000
RETRANSMIT_MS = 200
BASE_MS = 0.2
Pair = tuple[str, str]


class Network:
    """Who can reach whom at present, how fast, and how badly."""

    def __init__(self, clock: Clock, seed: int) -> None:
        self.clock = clock
        self.cut: set[Pair] = set()
        self.extra_ms: dict[Pair, float] = {}
        self.loss: dict[Pair, float] = {}
        self.havoc: dict[Pair, str] = {}  # data plane: drop, double, overtake
        self.connections: list[Connection] = []
        self.made = 0
        self._seed = seed
        self._chances: dict[Pair, random.Random] = {}

    def chance(self, pair: Pair) -> random.Random:
        """Each direction has luck of its own: a fault elsewhere changes nothing here."""
        found = self._chances.get(pair)
        if found is None:
            found = self._chances[pair] = random.Random(f"{self._seed} {pair}")
        return found

    def passes(self, source: str, target: str) -> bool:
        """Packets get from one host to the other."""
        return (source, target) not in self.cut

    def delay(self, source: str, target: str) -> int:
        """How long one message takes, in ns."""
        pair = (source, target)
        luck = self.chance(pair)
        ms = BASE_MS * (0.5 + luck.random()) + self.extra_ms.get(pair, 0.0) * luck.random()
        if luck.random() < self.loss.get(pair, 0.0):
            ms += RETRANSMIT_MS
        return int(ms * MS)

    def datagram(self, source: str, receiver: Process, arrive: Callable[[], None]) -> None:
        """Send what is lost where a connection's data would be late."""
        pair = (source, receiver.name)
        luck = self.chance((source, f"{receiver.name} datagrams"))
        ms = BASE_MS * (0.5 + luck.random()) + self.extra_ms.get(pair, 0.0) * luck.random()
        if luck.random() < self.loss.get(pair, 0.0):
            return
        life = receiver.life

        def land() -> None:
            there = receiver.life == life and receiver.alive and receiver.powered
            if there and self.passes(*pair):
                arrive()

        self.clock.after(int(ms * MS), land)

    def mend(self, pair: Pair) -> None:
        """The direction works again: what waited is sent anew."""
        self.cut.discard(pair)
        for connection in list(self.connections):
            connection.mended(pair)

    def gone(self, process: Process) -> None:
        """A process has ended: its kernel closes what it had open."""
        for connection in list(self.connections):
            connection.process_ended(process)


class Connection:
    """One connection; ``on_up`` and ``on_closed`` are told to the process at each end."""

    def __init__(self, network: Network, dialer: Process, listener: Process) -> None:
        self.network = network
        self.ends = (dialer, listener)
        self.lives = (dialer.life, listener.life)
        self.open = [True, True]  # as each end sees it
        self.on_message: list[Callable[[Any], None]] = [_ignore, _ignore]
        self.on_closed: list[Callable[[], None]] = [_nothing, _nothing]
        self._arrival = [0, 0]
        self._stuck: tuple[list[Any], list[Any]] = ([], [])
        network.connections.append(self)
        network.made += 1
        self.label = b"%d" % network.made

    def send(self, end: int, message: Any) -> None:
        """Send from an end to the other one."""
        if not self.open[end]:
            return
        source, target = self.ends[end], self.ends[1 - end]
        if not self.network.passes(source.name, target.name):
            self._stick(end, message)
            return
        if self._stuck[end]:
            self._stuck[end].append(message)
            return
        self._fly(end, message, self.network.delay(source.name, target.name))

    def _fly(self, end: int, message: Any, delay: int) -> None:
        network = self.network
        pair = (self.ends[end].name, self.ends[1 - end].name)
        due = max(network.clock.now + delay, self._arrival[end])
        self._arrival[end] = due
        network.clock.at(due, lambda: self._arrive(1 - end, message, pair))

    def _arrive(self, end: int, message: Any, pair: Pair) -> None:
        receiver = self.ends[end]
        if receiver.life != self.lives[end] or not receiver.alive or not receiver.powered:
            return
        if not self.network.passes(*pair):
            self._stick(1 - end, message)
        elif self.open[end]:
            receiver.does(lambda: self.on_message[end](message))()

    def _stick(self, end: int, message: Any) -> None:
        if not self._stuck[end]:
            clock = self.network.clock
            clock.after(GIVE_UP_MS * MS, lambda: self._give_up(end))
        self._stuck[end].append(message)

    def _give_up(self, end: int) -> None:
        if self._stuck[end]:
            self._stuck[end].clear()
            self._close(end)

    def mended(self, pair: Pair) -> None:
        """A direction works again."""
        for end in (0, 1):
            if pair != (self.ends[end].name, self.ends[1 - end].name):
                continue
            waiting, self._stuck[end][:] = list(self._stuck[end]), []
            delay = int(RETRANSMIT_MS * MS * self.network.chance(pair).random())
            for message in waiting:
                self._fly(end, message, delay)
        if self.open[0] != self.open[1]:
            # The end that still believes in it is told as soon as its kernel asks.
            self.network.clock.after(RETRANSMIT_MS * MS, self.close)

    def process_ended(self, process: Process) -> None:
        """The process at an end has died; the other one hears of it if a packet gets through."""
        for end in (0, 1):
            if self.ends[end] is process and self.lives[end] == process.life:
                self.open[end] = False
                other = self.ends[1 - end]
                if process.powered and self.network.passes(process.name, other.name):
                    delay = self.network.delay(process.name, other.name)
                    due = max(self.network.clock.now + delay, self._arrival[end])
                    self.network.clock.at(due, lambda end=end: self._close(1 - end))  # type: ignore[misc]

    def close(self) -> None:
        """Close both ends."""
        self._close(0)
        self._close(1)

    def _close(self, end: int) -> None:
        if self.open[end]:
            self.open[end] = False
            process = self.ends[end]
            if process.life == self.lives[end] and process.alive and process.powered:
                process.does(self.on_closed[end])()
        if not any(self.open) and self in self.network.connections:
            self.network.connections.remove(self)


def _ignore(_: Any) -> None:
    return


def _nothing() -> None:
    return
