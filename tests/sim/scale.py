"""How the coordinator's work grows with the number of agents: ``python -m tests.sim --scale``.

Counts are exact, times are this machine's: best of several, in this process alone, without sockets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from continuer.config import CoordinatorConfig
from continuer.plan import Member, Version
from continuer.wire import Heartbeat, PartTiming
from coordinator.commands import Command, NodeState, Send
from coordinator.core import Coordinator
from tests.sim.clock import MS
from tests.sim.model import BUNDLE, LATENCY_US, LOAD_US

COUNTS = (10, 100, 1000, 10_000)
ROUNDS = 5
AT_WORK = 8
BEAT_MS = 10


class Crowd:
    """A coordinator core with so many idle agents, a plan in force, and its clock.

    Eight agents work, which is as many as the model has blocks; the others are spare, and are put
    into the records once the plan is in force. Joining, and planning with spares, are other work.
    """

    def __init__(self, count: int) -> None:
        self.now = 1_000 * MS
        self.names = [f"n{i}" for i in range(1, count + 1)]
        self.core = Coordinator(CoordinatorConfig(bundle="-", nodes=tuple(self.names)), BUNDLE)
        for name in self.names[:AT_WORK]:
            self._add(name, "joined")
        self.core._first_join_ns = self.now - 10_000 * MS  # nobody else is waited for
        self.core.on_tick(self.now)
        while self.core.busy:
            self.core.on_idle(self.now)
        assert self.core.plan is not None
        for name in self.names[AT_WORK:]:
            self._add(name, "active")

    def _add(self, name: str, state: NodeState) -> None:
        node = self.core.membership.nodes[name]
        node.member = Member(name, 1, *(f"tcp://{name}:{port}" for port in (2, 3, 1)))
        node.link, node.state = name.encode(), state
        parts = range(len(BUNDLE.part_names))
        node.loaded = {part: PartTiming(part, LATENCY_US, LOAD_US) for part in parts}
        self.core.membership._by_link[node.link] = name
        self.core.membership.detector.watch(name, self.now)

    def beat(self) -> None:
        """A heartbeat of every agent."""
        self.now += BEAT_MS * MS
        for name in self.names:
            beat = Heartbeat(name, 1, 1, Version(1, 1), 0, 0, 0, 0)
            self.core.on_message(name.encode(), beat, self.now)

    def tick(self) -> None:
        """Silence is judged, and the next time for it found."""
        self.core.on_tick(self.now)
        self.core.due(self.now)

    def die(self) -> Sequence[Command]:
        """The link of a node at work closes."""
        assert self.core.step is not None
        victim = self.core.step.route[1].node
        return self.core.on_link_closed(victim.encode(), self.now)


def measure(count: int) -> dict[str, float]:
    """Times in us and counts, for so many agents."""
    crowd = Crowd(count)
    beats_us, ticks_us = [], []
    for _ in range(ROUNDS):
        beats_us.append(_timed(crowd.beat) / count)
        ticks_us.append(_timed(crowd.tick))
    begun = time.perf_counter_ns()
    commands = crowd.die()
    failover_us = (time.perf_counter_ns() - begun) / 1000
    told = sum(isinstance(command, Send) for command in commands)
    return {
        "agents": count,
        "us_per_heartbeat": round(min(beats_us), 2),
        "us_per_tick": round(min(ticks_us), 1),
        "us_per_failover": round(failover_us, 1),
        "told": told,
    }


def _timed(act: Callable[[], None]) -> float:
    begun = time.perf_counter_ns()
    act()
    return (time.perf_counter_ns() - begun) / 1000


def main() -> int:
    """Print a table."""
    rows = [measure(count) for count in COUNTS]
    print("  ".join(f"{key:>16}" for key in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>16g}" for value in row.values()))
    return 0
