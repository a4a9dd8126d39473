"""What the coordinator knows for planning, and the candidates it forms plans from. Sans-IO.

The planner's functions are pure; this holds what they are given: objectives, rate, learned
timings, the full plan's metrics and layout, and which nodes may be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from continuer.bundle import Bundle
from continuer.config import CoordinatorConfig
from continuer.objectives import Metrics, RequestClass
from continuer.plan import ClassStep, Plan, Step, Technique, Version
from coordinator.accuracies import accuracy_of
from coordinator.arrangements import split_failures
from coordinator.classes import decide_for_all, routes_in_plan
from coordinator.commands import MS, NodeRecord
from coordinator.contingencies import Contingencies
from coordinator.downtimes import Timings
from coordinator.layouts import Layout
from coordinator.membership import Membership
from coordinator.orders import Orders
from coordinator.planner import (
    Candidate,
    ClassRoutes,
    Decision,
    NodeFacts,
    Setting,
    arranged_settings,
    full_layout,
    make_step,
    metrics_of,
)
from coordinator.predictions import TableInUse
from coordinator.telling import RateMeter

RATE_CHANGE = 0.25


class Planning:
    """``full`` and ``reference``: metrics and layout of the last plan that ran every block.

    ``planned_rate`` is the rate of requests that the plan in force was made for,
    ``tightest_per_s`` the least capacity among all that is prepared.
    ``routes`` are what request classes do now, ``broken`` the links that no route may use,
    ``table`` where predictions come from; the shell sets it.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        bundle: Bundle,
        membership: Membership,
        orders: Orders,
    ) -> None:
        self.objectives = orders.objectives or config.objectives.own
        self.class_orders = dict(orders.classes)
        self.timings = Timings()
        self.rate = RateMeter(config.expected_rate_per_s)
        self.planned_rate = config.expected_rate_per_s
        self.tightest_per_s = float("inf")
        self.full: Metrics | None = None
        self.reference: Layout = {}
        self.routes: tuple[ClassRoutes, ...] = ()
        self.broken: frozenset[str] = frozenset()
        self._config = config
        self._links = config.slow_links
        self.shelf: frozenset[int] = frozenset()  # parts that the coordinator hands out
        self.table = TableInUse()
        self._bundle = bundle
        self._membership = membership

    def configure(self, config: CoordinatorConfig) -> None:
        """The configuration was read anew."""
        self._config = config

    @property
    def classes(self) -> tuple[RequestClass, ...]:
        """The request classes, with the objectives that hold for each."""
        said = {**self._config.objectives.classes}
        said.update({name: own for name, own in self.class_orders.items() if name in said})
        return tuple(
            RequestClass(name, own.over(self.objectives), own.redundancy)
            for name, own in said.items()
        )

    def usable(self) -> list[NodeRecord]:
        """Nodes at work that are to stay at work."""
        return [n for n in self._membership.live() if n.state == "active" and not n.drained]

    def nodes_for(self, candidate: Candidate) -> list[NodeRecord]:
        """The nodes that a plan around this candidate counts on."""
        names = {node.name for node in self.usable()} | candidate.step.nodes
        return [n for n in self._membership.live() if n.name in names]

    def returning(self, now: int) -> list[NodeRecord]:
        """Nodes that wait to be taken in and have been stable for long enough."""
        return [
            n
            for n in self._membership.live()
            if n.state == "joined"
            and not n.drained
            and now - n.since_ns >= (self._config.return_stable_ms if n.was_dead else 0) * MS
        ]

    def rate_matters(self) -> bool:
        """The arrival rate has changed, and some candidate's capacity is near enough to care."""
        rate = self.rate.per_s
        changed = abs(rate - self.planned_rate)
        if changed <= RATE_CHANGE * max(self.planned_rate, 1.0):
            return False
        return max(rate, self.planned_rate) > self.tightest_per_s / 2

    def setting(self, nodes: list[NodeRecord]) -> Setting:
        """Everything a decision over these nodes depends on."""
        config = self._config
        return Setting(
            bundle=self._bundle,
            nodes=tuple(facts(node) for node in nodes),
            objectives=self.objectives,
            forced=config.technique,
            rate_per_s=max(self.rate.per_s, config.expected_rate_per_s),
            max_utilisation=config.max_utilisation,
            hop_us=config.hop_us,
            links=self._links,
            shelf=self.shelf,
            timings=self.timings,
            broken=self.broken,
            classes=self.classes,
            predictions=self.table.predictions,
        )

    def sources(self, step: Step) -> dict[str, str]:
        """Where a step's accuracy and latency come from, as ``Candidate.sources``."""
        path = [self._bundle.part_names[part] for part in step.parts]
        known = accuracy_of(self._bundle, path, self.table.predictions)
        nodes = self._membership.nodes
        timed = all(part in nodes[hop.node].loaded for hop in step.route for part in hop.parts)
        return {
            "accuracy_source": "unknown" if known is None else known.source,
            "latency_source": "measured" if timed else "predicted",
        }

    def full_candidate(self, joining: list[NodeRecord]) -> Candidate | None:
        """All blocks over the nodes at work and the joining ones."""
        names = {node.name for node in (*self.usable(), *joining)}
        chosen = [n for n in self._membership.live() if n.name in names]
        whole = len(chosen) == len(self._config.nodes) and not self.broken
        technique: Technique = "none" if whole else "repartition"
        setting = self.setting(chosen)
        for arranged in arranged_settings(setting):
            layout = full_layout(arranged)
            candidate = make_step(setting, layout, technique) if layout else None
            if candidate is not None and not candidate.step.uses(self.broken):
                return candidate
        return None

    def routes_beside(self, base: Candidate) -> tuple[ClassRoutes, ...]:
        """What request classes do in a plan whose own step is ``base``."""
        setting = self.setting(self.nodes_for(base))
        return routes_in_plan(setting, base, self.reference, self.measure(base.step), self.routes)

    def class_steps(self) -> tuple[ClassStep, ...]:
        """Every request class, as agents are told of it."""
        own = {routes.name: routes.as_step() for routes in self.routes}
        return tuple(own.get(each.name, ClassStep(each.name)) for each in self.classes)

    def make_plan(self, version: Version, step: Step, decisions: Iterable[Decision]) -> Plan:
        """The plan as agents get it, naming only nodes that may be connected to."""
        nodes = self._membership.nodes.values()
        return Plan(
            version=version,
            deployment=self._config.deployment,
            bundle=self._bundle.hash,
            members=self._membership.members(),
            failed=(*(n.name for n in nodes if not n.live), *sorted(self.broken)),
            step=step,
            contingencies=tuple(decision.contingency() for decision in decisions),
            draining=tuple(n.name for n in nodes if n.drained),
            classes=self.class_steps(),
        )

    def foresight(
        self,
        base: Candidate,
        routes: tuple[ClassRoutes, ...],
        failures_of: Callable[[str], int],
    ) -> Contingencies:
        """The failures to prepare for while that plan is in force."""
        setting = self.setting(self.nodes_for(base))
        return Contingencies(setting, base.layout, self.measure(base.step), failures_of, routes)

    def settled_candidate(self, target: Step) -> Candidate | None:
        """What is in force now, or was to come into force, as the base of a new plan."""
        setting = self.setting(self.usable())
        layout = {hop.node: hop.parts for hop in target.route}
        if not layout.keys() <= {node.name for node in setting.nodes}:
            return None
        return make_step(setting, layout, target.technique)

    def reconsidered_candidate(self) -> Candidate | None:
        """The best way to serve with the nodes there are, decided anew.

        With every node of the last full plan at work that is the full network; otherwise
        whatever the objectives now make of the nodes that have failed since.
        """
        if frozenset(self.reference) <= {node.name for node in self.usable()}:
            return self.full_candidate([])
        decision = self.decide_without(frozenset())
        return decision.chosen[-1] if decision else None

    def decide_without(self, failed: frozenset[str]) -> Decision | None:
        """Plan on the spot: what to do without these nodes and those that are gone already."""
        full = self._full_now()
        if full is None:
            return None
        nodes = [node for node in self.usable() if node.name not in failed]
        gone = frozenset(self.reference) - {node.name for node in nodes}
        unusable = gone | split_failures(failed)[1]
        found = decide_for_all(
            self.setting(nodes),
            self.reference,
            unusable,
            full,
            self.routes,
            restore=False,  # the plan that is formed once this is settled brings it
        )
        return msgspec.structs.replace(found, failed=tuple(sorted(failed))) if found else None

    def measure(self, step: Step) -> Metrics:
        """What scores are relative to: the last full plan, or this step where there was none."""
        return self._full_now() or metrics_of(step)

    def _full_now(self) -> Metrics | None:
        """The last full plan's metrics, by what its nodes' parts take now.

        A busy box slows every candidate; measured against a full plan of quieter days, those
        that leave blocks out would look better than they are.
        """
        nodes = [self._membership.nodes[name] for name in self.reference]
        if self.full is None or any(node.member is None for node in nodes):
            return self.full
        now = make_step(self.setting(nodes), self.reference, "none")
        if now is None:
            return self.full
        return msgspec.structs.replace(self.full, latency_ms=now.step.latency_ms)

    def remember_full(self, step: Step) -> None:
        """Take a plan that runs every block as the measure of all others."""
        path = [self._bundle.part_names[part] for part in step.parts]
        if self._bundle.variant_of(path) == (None, ()):
            self.full = metrics_of(step)
            self.reference = {hop.node: hop.parts for hop in step.route}


def facts(node: NodeRecord) -> NodeFacts:
    """What the planner needs to know of a node that has joined."""
    assert node.member is not None
    return NodeFacts(
        name=node.name,
        incarnation=node.member.incarnation,
        loaded=frozenset(node.loaded),
        latency_us={p: node.slowness * timing.latency_us for p, timing in node.loaded.items()},
        load_us={part: timing.load_us for part, timing in node.loaded.items()},
        memory_bytes=node.memory_bytes,
        standby=node.standby,
        refused=node.refused,
        stored=node.stored,
    )
