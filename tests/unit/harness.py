"""A world of fake agents around a real coordinator core, in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.plan_holder import InForce, PlanHolder
from continuer import bundle as bundles
from continuer.config import CoordinatorConfig
from continuer.journal import EVENTS, Event
from continuer.plan import Member, Step, Version
from continuer.wire import (
    Ack,
    Activate,
    Foresee,
    Heartbeat,
    Join,
    Members,
    Message,
    NewPlan,
    PartTiming,
    Prepare,
    Prepared,
    Refuse,
    Stale,
)
from coordinator.commands import Command, Probe, Send
from coordinator.core import Coordinator

MS = 1_000_000
BUNDLE = bundles.load(Path(__file__).parents[2] / "models" / "bundles" / "resnet32-cifar10")
BEAT_MS = 10


class FakeAgent:
    """Answers as an agent would: loads what it is told to, obeys newer plans, acknowledges."""

    def __init__(self, name: str, incarnation: int, standby: str) -> None:
        self.name = name
        self.link = f"{name}/{incarnation}".encode()
        self.member = Member(name, incarnation, *(f"tcp://{name}:{p}" for p in (1, 2, 3)))
        self.standby = standby
        self.loaded: set[int] = set()
        self.holder = PlanHolder(BUNDLE.hash)
        self.in_force: InForce | None = None
        self.received: list[Message] = []
        self.alive = True
        self.silent = False
        self.slow_to_load = False
        self.cannot_load: set[int] = set()
        self.sequence = 0

    def join(self, **changes: Any) -> Join:
        """The agent's request to be taken in."""
        fields = {
            "cluster": "continuer",
            "member": self.member,
            "model": BUNDLE.name,
            "bundle": BUNDLE.hash,
            "held": self.holder.version,
            "memory_bytes": 0,
            "standby": self.standby,
            "loaded": self.timings(),
        }
        return Join(**{**fields, **changes})

    def timings(self) -> tuple[PartTiming, ...]:
        """What is in memory."""
        return tuple(PartTiming(part, 100.0, 400.0) for part in sorted(self.loaded))

    def beat(self) -> Heartbeat:
        """The next heartbeat."""
        self.sequence += 1
        return Heartbeat(
            self.name, self.member.incarnation, self.sequence, self.holder.version, 0, 0, 0, 0
        )

    def receive(self, message: Message) -> list[Message]:
        """Obey, and answer."""
        self.received.append(message)
        identity = (self.name, self.member.incarnation)
        if isinstance(message, Prepare) and not self.slow_to_load:
            self.loaded |= set(message.parts) - self.cannot_load
            problem = "damaged file" if self.cannot_load & set(message.parts) else ""
            return [Prepared(*identity, message.ticket, self.timings(), problem)]
        if isinstance(message, Foresee):
            self.holder.on_foresee(message)
            return []
        if isinstance(message, NewPlan):
            outcome = self.holder.on_plan(message.plan)
        elif isinstance(message, Activate):
            outcome = self.holder.on_activate(message)
        else:
            return []
        if isinstance(outcome, InForce):
            self.in_force = outcome
            return [Ack(*identity, outcome.version, 0)]
        return [Stale(*identity, self.holder.version)] if outcome.stale else []


class World:
    """Time, agents and the coordinator. Messages arrive at once, in order."""

    def __init__(self, count: int = 5, *, standby: str = "none", **config: Any) -> None:
        names = tuple(f"n{i}" for i in range(1, count + 1))
        self.config = CoordinatorConfig(bundle="-", nodes=names, **config)
        self.core = Coordinator(self.config, BUNDLE)
        self.standby = standby
        self.now = 1_000 * MS
        self.due = self.core.due(self.now)
        self.agents: dict[str, FakeAgent] = {}
        self.events: list[Event] = []
        self.probes: list[Probe] = []
        self.refusals: list[Refuse] = []
        self.versions: list[Version] = []
        self.routes_seen: list[tuple[Step, frozenset[str]]] = []
        self._lives = 0

    # --- what happens -----------------------------------------------------------------

    def join(self, *names: str, **changes: Any) -> None:
        """New agents of these names join."""
        for name in names:
            self._lives += 1
            agent = FakeAgent(name, self._lives, self.standby)
            self.agents[name] = agent
            self.perform(self.core.on_message(agent.link, agent.join(**changes), self.now))

    def form(self) -> None:
        """Everybody joins, and a plan is formed."""
        self.join(*self.config.nodes)
        self.run(50)
        assert self.core.plan is not None

    def kill(self, *names: str) -> None:
        """Processes die: their control links close."""
        for name in names:
            self.agents[name].alive = False
        for name in names:
            self.perform(self.core.on_link_closed(self.agents[name].link, self.now))

    def unload_spares(self) -> None:
        """Everybody has only what the plan needs in memory; nothing can bridge any more."""
        for name, parts in self.core.layout.items():
            self.agents[name].loaded &= set(parts)
            node = self.core.membership.nodes[name]
            node.loaded = {part: known for part, known in node.loaded.items() if part in parts}
        self.core.decisions.clear()

    def silence(self, *names: str) -> None:
        """Processes are stopped: nothing more is heard."""
        for name in names:
            self.agents[name].silent = True

    def wake(self, *names: str) -> None:
        """Stopped processes go on."""
        for name in names:
            self.agents[name].silent = False

    def refuse_probes(self) -> None:
        """Whoever is knocked at and dead refuses the connection."""
        probes, self.probes = self.probes, []
        for probe in probes:
            refused = not self.agents[probe.node].alive
            self.perform(self.core.on_probe(probe.node, probe.incarnation, refused, self.now))

    def run(self, ms: float) -> None:
        """Let time pass in steps of a millisecond, with heartbeats."""
        for _ in range(int(ms)):
            self.now += MS
            if (self.now // MS) % BEAT_MS == 0:
                for agent in self.agents.values():
                    if agent.alive and not agent.silent:
                        beat = agent.beat()
                        self.perform(self.core.on_message(agent.link, beat, self.now))
            if self.now >= self.due:
                self.perform(self.core.on_tick(self.now))
                self.due = self.core.due(self.now)
            while self.core.busy:
                self.perform(self.core.on_idle(self.now))
            self.refuse_probes()

    # --- what comes of it -------------------------------------------------------------

    def perform(self, commands: list[Command]) -> None:
        """Deliver messages and their answers; keep events and probes."""
        for command in commands:
            if isinstance(command, Send):
                self._deliver(command)
            elif isinstance(command, Probe):
                self.probes.append(command)
            elif isinstance(command, Event):
                assert EVENTS[command.name].fields == command.fields.keys(), command
                self.events.append(command)

    def _deliver(self, command: Send) -> None:
        message = command.message
        if isinstance(message, Refuse):
            self.refusals.append(message)
        if isinstance(message, NewPlan):
            self.versions.append(message.plan.version)
            failed = frozenset(message.plan.failed)
            self.routes_seen.append((message.plan.step, failed))
        elif isinstance(message, Activate):
            self.versions.append(message.version)
        receiver = next((a for a in self.agents.values() if a.link == command.link), None)
        if receiver is None or not receiver.alive or receiver.silent:
            return
        for answer in receiver.receive(message):
            self.perform(self.core.on_message(receiver.link, answer, self.now))

    @property
    def step(self) -> Step:
        """The step in force at the coordinator."""
        assert self.core.step is not None
        return self.core.step

    # Methods, not properties: mypy would hold what was asserted of them for true for ever.
    def technique(self) -> str:
        """Technique of the step in force."""
        return self.step.technique

    def state(self, node: str) -> str:
        """What the coordinator holds of a node."""
        return self.core.membership.nodes[node].state

    @property
    def path(self) -> tuple[str, ...]:
        """Part names of the step in force."""
        return tuple(BUNDLE.part_names[part] for part in self.step.parts)

    def said(self, name: str) -> list[Event]:
        """Events of a name so far."""
        return [event for event in self.events if event.name == name]

    def knows_of(self, agent: str) -> tuple[str, ...]:
        """Members that an agent was last told of."""
        last = [m for m in self.agents[agent].received if isinstance(m, Members)][-1]
        return tuple(member.node for member in last.members)
