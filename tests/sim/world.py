"""A cluster, its clients and its network in virtual time, and the faults that befall them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import agent.executor as executor_module
from continuer.config import CoordinatorConfig
from tests.sim.agents import SimAgent
from tests.sim.clock import MS, Clock
from tests.sim.faults import Fault
from tests.sim.network import Network, Pair
from tests.sim.process import Process
from tests.sim.service import Request, SimClient, SimCoordinator
from tests.sim.watch import ViolationError, Watch

CLIENTS = ("c1", "c2")
RATE_PER_S = 20.0
EXTRA_MS = 15.0
LOSS = 0.05
SLOWNESS = 20.0


class World:
    """``seed`` decides delays and luck of the network. Times in ms of virtual time."""

    def __init__(self, seed: int = 0, count: int = 5, **config: Any) -> None:
        self.clock = Clock()
        self.watch = Watch(self.clock)
        self.network = Network(self.clock, seed)
        self.names = [f"n{i}" for i in range(1, count + 1)]
        usual = {"return_stable_ms": 200, "form_timeout_ms": 1000, "expected_rate_per_s": 60}
        settings = CoordinatorConfig(bundle="-", nodes=tuple(self.names), **{**usual, **config})
        self._wall: Counter[str] = Counter()
        self._cuts: Counter[Pair] = Counter()
        self._everyone: dict[str, Process] = {}
        self.coordinator = SimCoordinator(settings, self.network, self.find, self.watch)
        self._everyone["coordinator"] = self.coordinator
        self.agents: dict[str, SimAgent] = {}
        for name in self.names:
            made = SimAgent(name, self.network, self.find, self.watch, self._now_of)
            self.agents[name] = self._everyone[name] = made
        self.clients: dict[str, SimClient] = {}
        for index, name in enumerate(CLIENTS):
            doors = self.names if index else self.names[:2]
            client = SimClient(name, self.network, self.find, self.watch, doors)
            self.clients[name] = self._everyone[name] = client

    def find(self, name: str) -> Process | None:
        """The process on a host."""
        return self._everyone.get(name)

    def _now_of(self, host: str) -> int:
        """A host's clock on the wall, which may be wrong."""
        return self.clock.now + self._wall[host]

    # --- time -------------------------------------------------------------------------

    def begin(self, rate_per_s: float = RATE_PER_S) -> None:
        """Everybody starts, a plan is formed, and requests flow."""
        for process in self._everyone.values():
            process.start()
        for _ in range(40):
            self.run(50)
            if self.coordinator.core.plan is not None and not self.coordinator.core.busy:
                break
        self.ask(rate_per_s)
        self.run(100)

    def ask(self, rate_per_s: float) -> None:
        """From now on each client sends so many requests a second."""
        for client in self.clients.values():
            flowing, client.rate_per_s = client.rate_per_s, rate_per_s
            if not flowing:
                client.stream()

    def run(self, ms: float = 0.0, *, s: float = 0.0, minutes: float = 0.0) -> None:
        """Let time pass."""
        self.clock.run(self.clock.now + int((ms + 1000 * s + 60_000 * minutes) * MS))

    @property
    def requests(self) -> list[Request]:
        """All requests of all clients, as they were sent."""
        found = [r for client in self.clients.values() for r in client.requests.values()]
        return sorted(found, key=lambda r: (r.sent_ns, r.client))

    def finish(self) -> None:
        """No more requests; those under way come to their end."""
        self.ask(0.0)
        self.run(max(client.budget_ms for client in self.clients.values()) + 100)
        for request in self.requests:
            if len(request.outcomes) != 1:
                text = f"{request.client}/{request.seq}: {request.outcomes}"
                raise ViolationError("one_outcome", text)
        for name, found in self.agents.items():
            if found.alive and found.ingress.inflight:
                text = f"{name} keeps {found.ingress.inflight} requests that are over"
                raise ViolationError("what_is_over_is_forgotten", text)

    # --- faults -----------------------------------------------------------------------

    def plan(self, faults: Sequence[Fault]) -> None:
        """Have faults happen, counted from now."""
        start = self.clock.now
        for fault in faults:
            self.clock.at(start + int(fault.at_ms * MS), lambda f=fault: self.strike(f))  # type: ignore[misc]
            self.clock.at(start + int(fault.end_ms * MS), lambda f=fault: self.end(f))  # type: ignore[misc]

    def strike(self, fault: Fault) -> None:
        """A fault begins."""
        self.watch.say(f"** {fault.kind} {fault.what} {' '.join(fault.nodes)}")
        if fault.kind in ("kill", "everything"):
            self.kill(*fault.nodes)
        if fault.kind in ("coordinator_kill", "everything"):
            self.kill("coordinator")
        elif fault.kind == "coordinator_pause":
            self.coordinator.pause()
        elif fault.kind == "pause":
            self.agents[fault.nodes[0]].pause()
        elif fault.kind == "power":
            self.unplug(fault.nodes[0])
        elif fault.kind == "slow":
            self.agents[fault.nodes[0]].slowness = SLOWNESS
        elif fault.kind == "clock":
            self._wall[fault.nodes[0]] += 3_600_000 * MS * (-1 if fault.for_ms < 1000 else 1)
        elif fault.kind in ("cut", "isolate", "deaf"):
            self.cut(*self._pairs(fault))
        elif fault.kind in ("delay", "loss", "havoc", "ghost"):
            self._disturb(fault)

    def end(self, fault: Fault) -> None:
        """A fault is over: what died is started again, what was cut is mended."""
        self.watch.say(f"** end of {fault.kind} {fault.what} {' '.join(fault.nodes)}")
        if fault.kind in ("coordinator_kill", "everything"):
            self.start("coordinator")
        if fault.kind in ("kill", "everything"):
            self.start(*fault.nodes)
        elif fault.kind in ("pause", "power", "slow", "coordinator_pause"):
            self._revive(fault)
        elif fault.kind in ("cut", "isolate", "deaf"):
            self.mend(*self._pairs(fault))
        elif fault.kind in ("delay", "loss", "havoc", "ghost"):
            self._calm(fault)

    def _calm(self, fault: Fault) -> None:
        for pair in self._around(fault):
            for disturbed in (self.network.extra_ms, self.network.loss, self.network.havoc):
                disturbed.pop(pair, None)

    def _revive(self, fault: Fault) -> None:
        if fault.kind == "coordinator_pause":
            self.coordinator.resume()
        elif fault.kind == "pause":
            self.agents[fault.nodes[0]].resume()
        elif fault.kind == "power":
            self.plug_in(fault.nodes[0])
        else:
            self.agents[fault.nodes[0]].slowness = 1.0

    def kill(self, *names: str) -> None:
        """SIGKILL, all at once."""
        for name in names:
            process = self._everyone[name]
            if process.alive:
                process.end()
                self.network.gone(process)

    def start(self, *names: str) -> None:
        """Start what is not running, on hosts that have power."""
        for name in names:
            process = self._everyone[name]
            if not process.alive and process.powered:
                process.start()

    def unplug(self, name: str) -> None:
        """The host loses its power: no packet says so."""
        process = self._everyone[name]
        if process.powered:
            process.powered = False
            process.end()
            self.cut(*self._to_and_from(name))

    def plug_in(self, name: str) -> None:
        """Power is back, and the daemon starts."""
        process = self._everyone[name]
        if not process.powered:
            process.powered = True
            self.mend(*self._to_and_from(name))
            self.network.gone(process)
            process.start()

    def cut(self, *pairs: Pair) -> None:
        """No packet passes in these directions."""
        for pair in pairs:
            self._cuts[pair] += 1
            self.network.cut.add(pair)

    def mend(self, *pairs: Pair) -> None:
        """Packets pass again, unless another fault is still in the way."""
        for pair in pairs:
            self._cuts[pair] -= 1
            if not self._cuts[pair]:
                self.network.mend(pair)

    def _pairs(self, fault: Fault) -> list[Pair]:
        if fault.kind == "cut":
            a, b = fault.nodes
            return [(a, b), (b, a)] if fault.what == "both" else [(a, b)]
        name = fault.nodes[0]
        if fault.what == "everyone":
            return self._to_and_from(name)
        return [p for p in self._to_and_from(name) if {*p} <= {*self.names}]

    def _to_and_from(self, name: str) -> list[Pair]:
        others = [other for other in self._everyone if other != name]
        return [pair for other in others for pair in ((name, other), (other, name))]

    def _around(self, fault: Fault) -> list[Pair]:
        if fault.kind == "havoc":
            return [fault.nodes[:2], fault.nodes[1::-1]]  # type: ignore[list-item]
        if fault.kind == "ghost":
            return [("coordinator", fault.nodes[0])]
        return self._to_and_from(fault.nodes[0])

    def _disturb(self, fault: Fault) -> None:
        for pair in self._around(fault):
            if fault.kind == "delay":
                self.network.extra_ms[pair] = EXTRA_MS
            elif fault.kind == "loss":
                self.network.loss[pair] = LOSS
            else:
                self.network.havoc[pair] = fault.what or fault.kind


@contextmanager
def virtual_time(world: World) -> Iterator[None]:
    """The executor asks for the time to reduce budgets by: give it the world's."""
    module: Any = executor_module
    real = module.time
    module.time = SimpleNamespace(perf_counter_ns=lambda: world.clock.now)
    try:
        yield
    finally:
        module.time = real
