"""The coordinator's deciding core: keeps a plan in force, whatever the nodes do. Sans-IO.

Events come in with ``now`` (ns of a monotonic clock), commands go out. A plan's life:

1. *Forming*: the layout is chosen, nodes are told what to hold (Prepare), and when all have
   it the plan goes out with a contingency for every failure (NewPlan).
2. *Failover*: nodes fail; the prepared contingency is looked up and named to everyone
   (Activate). If it has two steps, the first bridges while the second one's parts load.
3. *Settling*: some time after the last change a new plan is formed around what is in force,
   or around everybody once a returned node has been stable.
"""

from __future__ import annotations

import msgspec

from continuer.bundle import Bundle
from continuer.config import CoordinatorConfig
from continuer.journal import Event
from continuer.objectives import Metrics
from continuer.plan import Plan, Step, Technique, Version
from continuer.wire import (
    Accuse,
    Ack,
    Activate,
    Heartbeat,
    Join,
    Leave,
    Message,
    NewPlan,
    Prepare,
    Prepared,
    Stale,
)
from coordinator.commands import (
    MS,
    Command,
    Decided,
    Failover,
    Failure,
    NodeRecord,
    Send,
    StepTaken,
)
from coordinator.membership import Membership, links
from coordinator.planner import (
    Candidate,
    Decision,
    Layout,
    NodeFacts,
    Setting,
    Timings,
    decide,
    decide_all,
    full_layout,
    make_step,
    metrics_of,
    wanted_parts,
)

SETTLE_MS = 100
# Loading takes the CPU and the GIL from the requests that are being replayed over the bridge.
HEAL_AFTER_MS = 15
MERGE_MS = 100
RETURN_EVERY_MS = 1000
PREPARE_TIMEOUT_MS = 5000
RATE_EVERY_MS = 1000
RATE_CHANGE = 0.25
KEPT_FAILOVERS = 50
TELL_KEPT_MS = 10_000


class Preparing(msgspec.Struct):
    """Nodes are loading parts; when all are done, the candidate goes in force.

    ``heal`` is the step of the running failover that is prepared; None while a whole plan
    is being formed.
    """

    ticket: int
    candidate: Candidate
    waiting: set[str]
    begun_ns: int
    heal: int | None = None


class Coordinator:
    """Feeds on messages, closed links, probe results and ticks; returns commands."""

    def __init__(self, config: CoordinatorConfig, bundle: Bundle, stored_term: int = 0) -> None:
        self.config = config
        self.bundle = bundle
        self.version = Version(stored_term, 0)
        self.plan: Plan | None = None
        self.layout: Layout = {}
        self.step: Step | None = None
        self.target: Step | None = None  # where the running failover is to end
        self.decisions: dict[frozenset[str], Decision] = {}
        self.failed: frozenset[str] = frozenset()
        self.failovers: list[Failover] = []
        self.rate_per_s = config.expected_rate_per_s
        self.timings = Timings()
        self.membership = Membership(config, bundle, self._failure)
        self._full: Metrics | None = None
        self._ticket = 0
        self._preparing: Preparing | None = None
        self._settle_ns: int | None = None
        self._heal_ns: int | None = None
        self._first_join_ns: int | None = None
        self._returned_ns = 0
        self._held_term = stored_term
        self._rate_mark: tuple[int, int] | None = None
        self._planned_rate = config.expected_rate_per_s
        self._telling: dict[Version, tuple[int, set[str]]] = {}
        self._tightest_per_s = float("inf")

    # --- events -----------------------------------------------------------------------

    def on_message(self, link: bytes, message: Message, now: int) -> list[Command]:
        """A message from an agent's control link."""
        if isinstance(message, Heartbeat):
            return self.membership.heartbeat(link, message, now)
        if isinstance(message, Join):
            return self._join(link, message, now)
        node = self.membership.by_link(link)
        if node is None:
            return []
        self.membership.detector.heard(node.name, now)
        if isinstance(message, Ack):
            return self._acked(node, message, now)
        if isinstance(message, Prepared):
            return self._prepared(node, message, now)
        if isinstance(message, Stale):
            return [Send(link, NewPlan(self._whole_plan()))] if self.plan else []
        if isinstance(message, Accuse):
            return self.membership.accused(message.accused, message.accused_incarnation, now)
        if isinstance(message, Leave):
            return self.membership.leave(link, now)
        return []

    def on_link_closed(self, link: bytes, now: int) -> list[Command]:
        """A control link was closed by the other side."""
        return self.membership.link_closed(link, now)

    def on_probe(self, node: str, incarnation: int, refused: bool, now: int) -> list[Command]:
        """The outcome of a Probe."""
        return self.membership.probed(node, incarnation, refused, now)

    def on_tick(self, now: int) -> list[Command]:
        """Time has passed; call when ``due`` after reading everything that has arrived."""
        commands = self.membership.tick(now)
        preparing = self._preparing
        if preparing and now - preparing.begun_ns > PREPARE_TIMEOUT_MS * MS:
            self._preparing = None
            self._settle_ns = now + SETTLE_MS * MS
        self._measure_rate(now)
        if self._heal_ns is not None and now >= self._heal_ns:
            self._heal_ns = None
            best = self.decisions[self.failed].chosen[1]
            commands += self._prepare(now, best, self._holdings(best), 1)
        return commands + self._settle(now)

    def due(self, now: int) -> int:
        """When ``on_tick`` is to be called next, in ns."""
        due = self.membership.due(now)
        return due if self._heal_ns is None else min(due, self._heal_ns)

    def decided(self, version: Version, now: int) -> None:
        """The shell's clock when the decision for a version had been made."""
        for taken in self.failovers[-1].steps if self.failovers else ():
            if taken.version == version:
                taken.decided_ns = now

    # --- joining and settling ---------------------------------------------------------

    def _join(self, link: bytes, join: Join, now: int) -> list[Command]:
        commands = self.membership.join(link, join, now)
        node = self.membership.by_link(link)
        if node is None:
            return commands
        self._held_term = max(self._held_term, join.held.term)
        if self._first_join_ns is None:
            self._first_join_ns = now
        if self.plan is not None and node.state == "active":
            commands.append(Send(link, NewPlan(self._whole_plan())))
        return commands

    def _settle(self, now: int) -> list[Command]:
        """Form a plan when there is reason to, and nothing more urgent is under way."""
        if self._preparing is not None or self._heal_ns is not None:
            return []
        if self.plan is None:
            return self._first_plan(now)
        if self._settle_ns is not None:
            if now < self._settle_ns:
                return []
            self._settle_ns = None
            return self._form(now, self._settled_candidate())
        returning = [n for n in self.membership.live() if n.state == "joined"]
        ready = [
            n
            for n in returning
            if now - n.since_ns >= (self.config.return_stable_ms if n.was_dead else 0) * MS
        ]
        if ready and now - self._returned_ns >= RETURN_EVERY_MS * MS:
            self._returned_ns = now
            return self._form(now, self._full_candidate(ready))
        if self._rate_matters():
            return self._form(now, self._settled_candidate())
        return []

    def _rate_matters(self) -> bool:
        """The arrival rate has changed, and some candidate's capacity is near enough to care."""
        changed = abs(self.rate_per_s - self._planned_rate)
        if changed <= RATE_CHANGE * max(self._planned_rate, 1.0):
            return False
        return max(self.rate_per_s, self._planned_rate) > self._tightest_per_s / 2

    def _first_plan(self, now: int) -> list[Command]:
        live = self.membership.live()
        if not live or self._first_join_ns is None:
            return []
        waited = now - self._first_join_ns >= self.config.form_timeout_ms * MS
        if len(live) < len(self.config.nodes) and not waited:
            return []
        # A new term outranks every plan that an earlier coordinator has given out.
        self.version = Version(self._held_term + 1, 0)
        return self._form(now, self._full_candidate(live))

    def _full_candidate(self, joining: list[NodeRecord]) -> Candidate | None:
        """All blocks over the nodes of the plan and the joining ones."""
        chosen = [n for n in self.membership.live() if n.state == "active" or n in joining]
        everyone = len(chosen) == len(self.config.nodes)
        setting = self._setting(chosen)
        layout = full_layout(setting)
        technique: Technique = "none" if everyone else "repartition"
        return make_step(setting, layout, technique) if layout is not None else None

    def _settled_candidate(self) -> Candidate | None:
        """What is in force now, or was to come into force, as the base of a new plan."""
        assert self.target is not None
        setting = self._setting([n for n in self.membership.live() if n.state == "active"])
        layout = {hop.node: hop.parts for hop in self.target.route}
        if not layout.keys() <= {facts.name for facts in setting.nodes}:
            return None
        return make_step(setting, layout, self.target.technique)

    def _form(self, now: int, candidate: Candidate | None) -> list[Command]:
        """Have the nodes hold what the candidate and its contingencies need."""
        self._planned_rate = self.rate_per_s
        if candidate is None:
            if self.plan is not None:
                return []
            nodes = [n.name for n in self.membership.live()]
            self._first_join_ns = now  # say it again after the next form timeout
            problem = "the model does not fit the memory budgets of these nodes"
            return [Event("no_plan", {"nodes": nodes, "problem": problem})]
        setting = self._setting(self._nodes_with(candidate))
        full = self._full or metrics_of(candidate.step)
        layout = {hop.node: hop.parts for hop in candidate.step.route}
        wanted = wanted_parts(setting, layout, full)
        return self._prepare(now, candidate, wanted, heal=None)

    def _nodes_with(self, candidate: Candidate) -> list[NodeRecord]:
        return [
            n
            for n in self.membership.live()
            if n.state == "active" or n.name in candidate.step.nodes
        ]

    def _prepare(
        self, now: int, candidate: Candidate, wanted: dict[str, tuple[int, ...]], heal: int | None
    ) -> list[Command]:
        self._ticket += 1
        nodes = self.membership.nodes
        lacking = {n: p for n, p in wanted.items() if not set(p) <= nodes[n].loaded.keys()}
        self._preparing = Preparing(self._ticket, candidate, set(lacking), now, heal)
        commands: list[Command] = []
        for name, parts in lacking.items():
            link = nodes[name].link
            if link is not None:
                commands.append(Send(link, Prepare(self._ticket, parts, urgent=heal == 0)))
        return commands + self._when_prepared(now)

    def _prepared(self, node: NodeRecord, message: Prepared, now: int) -> list[Command]:
        node.loaded = {timing.part: timing for timing in message.loaded}
        preparing = self._preparing
        if preparing is None or preparing.ticket != message.ticket:
            return []
        if message.problem:
            # The plan in force stays; the agent has said in its journal what is wrong.
            self._preparing = None
            return []
        preparing.waiting.discard(node.name)
        return self._when_prepared(now)

    def _when_prepared(self, now: int) -> list[Command]:
        preparing = self._preparing
        if preparing is None or preparing.waiting:
            return []
        self._preparing = None
        if preparing.heal is not None:
            return self._activate(preparing.heal, now)
        return self._install(preparing.candidate, now)

    def _install(self, candidate: Candidate, now: int) -> list[Command]:
        """Put a whole plan in force, with fresh contingencies."""
        nodes = self._nodes_with(candidate)
        returned = [n.name for n in nodes if n.state == "joined" and self.plan is not None]
        for node in nodes:
            node.state, node.was_dead = "active", False
        setting = self._setting(nodes)
        layout = {hop.node: hop.parts for hop in candidate.step.route}
        again = make_step(setting, layout, candidate.step.technique)
        assert again is not None  # its accuracy was known a moment ago
        self.step = self.target = again.step
        self.layout = layout
        if again.step.exit is None and not self.bundle.variant_of(self._path(again.step))[1]:
            self._full = metrics_of(again.step)
        full = self._full or metrics_of(again.step)
        self.decisions = decide_all(setting, layout, full)
        capacities = [c.step.capacity_per_s for d in self.decisions.values() for c in d.candidates]
        self._tightest_per_s = self.config.max_utilisation * min(capacities, default=float("inf"))
        self.failed = frozenset()
        self._raise_version()
        self.plan = self._make_plan(again.step)
        commands: list[Command] = self._send_all(NewPlan(self.plan), now)
        commands += [Event("node_returned", {"node": name}) for name in returned]
        commands.append(
            Event(
                "plan_formed",
                {
                    "version": str(self.version),
                    "technique": again.step.technique,
                    "nodes": [hop.node for hop in again.step.route],
                    "accuracy": again.step.reported_accuracy,
                    "latency_ms": round(again.step.latency_ms, 3),
                    "capacity_per_s": round(again.step.capacity_per_s, 1),
                },
            )
        )
        return commands + self._warn_of_violations()

    def _warn_of_violations(self) -> list[Command]:
        """Say in advance which failures no candidate covers within the thresholds."""
        return [
            Event(
                "objectives_violated",
                {
                    "nodes": list(decision.failed),
                    "technique": decision.chosen[-1].step.technique,
                    "violations": sorted(decision.chosen[-1].problems),
                },
            )
            for decision in self.decisions.values()
            if len(decision.failed) == 1 and not decision.chosen[-1].feasible
        ]

    # --- failover ---------------------------------------------------------------------

    def _failure(self, failure: Failure, now: int) -> list[Command]:
        """A node has failed: look the contingency up and put its first step in force."""
        if self.plan is None or failure.node not in {m.node for m in self.plan.members}:
            self._drop_preparation(failure.node, now)
            return []
        self._preparing = self._heal_ns = None
        self.failed |= {failure.node}
        self._settle_ns = now + SETTLE_MS * MS
        decision = self.decisions.get(self.failed) or self._decide_now()
        if decision is None:
            problem = "no node is left that can run the model"
            return [Event("no_plan", {"nodes": sorted(self.failed), "problem": problem})]
        self.decisions[self.failed] = decision
        last = self.failovers[-1] if self.failovers else None
        if last is not None and now - last.begun_ns < MERGE_MS * MS and last.healed_ns is None:
            last.failures.append(failure)
            last.decision = decision
        else:
            self.failovers = [*self.failovers, Failover([failure], decision, now)][-KEPT_FAILOVERS:]
        commands: list[Command] = []
        if decision.chosen[0].missing:
            return self._prepare(now, decision.chosen[0], self._holdings(decision.chosen[0]), 0)
        commands += self._activate(0, now)
        if len(decision.chosen) > 1:
            self._heal_ns = now + HEAL_AFTER_MS * MS
        if decision.fell_back:
            forced, technique = self.config.technique, decision.chosen[-1].step.technique
            fields = {"nodes": sorted(self.failed), "forced": forced, "technique": technique}
            commands.append(Event("technique_fell_back", fields))
        return commands

    def _drop_preparation(self, node: str, now: int) -> None:
        """A node failed that the plan being formed may count on: form it anew."""
        if self._preparing is not None and node in self._preparing.candidate.step.nodes:
            self._preparing = None
            if self.plan is not None:
                self._settle_ns = now + SETTLE_MS * MS

    def _decide_now(self) -> Decision | None:
        """A failure set that was not foreseen: plan on the spot."""
        nodes = [n for n in self.membership.nodes.values() if n.state == "active"]
        assert self._full is not None
        left = [n.name for n in nodes]
        setting = self._setting(nodes)
        failed = frozenset(name for name in self.layout if name not in left)
        found = decide(setting, self.layout, failed, self._full)
        return msgspec.structs.replace(found, failed=tuple(sorted(self.failed))) if found else None

    def _holdings(self, candidate: Candidate) -> dict[str, tuple[int, ...]]:
        """What nodes that lack something should hold: what they have, and what is missing."""
        nodes = self.membership.nodes
        return {
            name: (*parts, *(p for p in nodes[name].loaded if p not in parts))
            for name, parts in candidate.missing.items()
        }

    def _activate(self, index: int, now: int) -> list[Command]:
        """Put a step of the current failure set's contingency in force everywhere."""
        assert self.plan is not None
        decision = self.decisions[self.failed]
        step = decision.chosen[index].step
        self._raise_version()
        self.step, self.target = step, decision.chosen[-1].step
        failover = self.failovers[-1]
        failover.steps.append(StepTaken(self.version, step, now))
        if self.plan.contingency(self.failed) is not None:
            failed = tuple(sorted(self.failed))
            message: Message = Activate(self.version, self.plan.version, failed, index)
        else:
            message = NewPlan(self._whole_plan())
        commands: list[Command] = [Decided(self.version), *self._send_all(message, now)]
        final = index == len(decision.chosen) - 1
        if index > 0:
            failover.healed_ns = now
            name, extra = "healed", {}
        else:
            name = "failover"
            extra = {
                "exit": step.exit,
                "downtime_ms": round(step.downtime_ms, 2),
                "why": decision.why,
            }
        commands.append(
            Event(
                name,
                {
                    "version": str(self.version),
                    "nodes": sorted(self.failed),
                    "technique": step.technique,
                    "accuracy": step.reported_accuracy,
                    "latency_ms": round(step.latency_ms, 3),
                    **extra,
                },
            )
        )
        if final:
            self._settle_ns = now + SETTLE_MS * MS
        return commands

    # --- telling and measuring --------------------------------------------------------

    def _send_all(self, message: Message, now: int) -> list[Command]:
        recipients = [n for n in self.membership.live() if n.state == "active"]
        self._telling = {v: t for v, t in self._telling.items() if now - t[0] < TELL_KEPT_MS * MS}
        self._telling[self.version] = (now, {n.name for n in recipients})
        return [Send(link, message) for link in links(recipients)]

    def _acked(self, node: NodeRecord, ack: Ack, now: int) -> list[Command]:
        told_ns, waiting = self._telling.get(ack.version, (now, {""}))
        waiting.discard(node.name)
        if not waiting:
            tell_ms = (now - told_ns) / MS
            smoothed = 0.8 * self.timings.tell_ms + 0.2 * tell_ms
            self.timings = msgspec.structs.replace(self.timings, tell_ms=smoothed)
            del self._telling[ack.version]
        for failover in reversed(self.failovers):
            for taken in failover.steps:
                if taken.version == ack.version:
                    failover.replayed += ack.replayed
                    taken.first_ack_ns = taken.first_ack_ns or now
                    taken.last_ack_ns = now
                    return [] if waiting else [told_event(failover, taken)]
        return []

    def _measure_rate(self, now: int) -> None:
        total = sum(node.arrived for node in self.membership.nodes.values())
        if self._rate_mark is None:
            self._rate_mark = (now, total)
        elapsed = now - self._rate_mark[0]
        if elapsed >= RATE_EVERY_MS * MS:
            seen = (total - self._rate_mark[1]) * 1e9 / elapsed
            self.rate_per_s = max(seen, self.config.expected_rate_per_s)
            self._rate_mark = (now, total)

    def _raise_version(self) -> None:
        self.version = Version(self.version.term, self.version.number + 1)

    def _path(self, step: Step) -> list[str]:
        return [self.bundle.part_names[part] for part in step.parts]

    def _setting(self, nodes: list[NodeRecord]) -> Setting:
        config = self.config
        return Setting(
            bundle=self.bundle,
            nodes=tuple(_facts(node) for node in nodes),
            objectives=config.objectives,
            forced=config.technique,
            rate_per_s=max(self.rate_per_s, config.expected_rate_per_s),
            max_utilisation=config.max_utilisation,
            hop_us=config.hop_us,
            timings=self.timings,
        )

    def _make_plan(self, step: Step) -> Plan:
        """The plan as agents get it, naming only nodes that may be connected to."""
        return Plan(
            version=self.version,
            deployment=self.config.deployment,
            bundle=self.bundle.hash,
            members=self.membership.members(),
            failed=tuple(n.name for n in self.membership.nodes.values() if not n.live),
            step=step,
            contingencies=tuple(decision.contingency() for decision in self.decisions.values()),
        )

    def _whole_plan(self) -> Plan:
        """What is in force now, for an agent that does not hold its base."""
        assert self.step is not None
        return msgspec.structs.replace(self._make_plan(self.step), contingencies=())


def _facts(node: NodeRecord) -> NodeFacts:
    assert node.member is not None
    return NodeFacts(
        name=node.name,
        incarnation=node.member.incarnation,
        loaded=frozenset(node.loaded),
        latency_us={part: timing.latency_us for part, timing in node.loaded.items()},
        load_us={part: timing.load_us for part, timing in node.loaded.items()},
        memory_bytes=node.memory_bytes,
        standby=node.standby,
    )


def told_event(failover: Failover, taken: StepTaken) -> Event:
    """The account of telling, once every survivor has acknowledged a step."""
    first = failover.failures[0]
    decided_ns = taken.decided_ns or taken.begun_ns
    last_ack_ns = taken.last_ack_ns or decided_ns
    return Event(
        "failover_told",
        {
            "version": str(taken.version),
            "nodes": [failure.node for failure in failover.failures],
            "silence_ms": round((first.evidence_ns - first.last_heard_ns) / MS, 3),
            "detect_ms": round((failover.begun_ns - first.evidence_ns) / MS, 3),
            "decide_ms": round((decided_ns - taken.begun_ns) / MS, 3),
            "tell_ms": round((last_ack_ns - decided_ns) / MS, 3),
            "replayed": failover.replayed,
        },
    )
