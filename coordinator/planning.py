"""What the coordinator knows for planning, and the candidates it forms plans from. Sans-IO.

The planner's functions are pure; this holds what they are given: objectives, rate, learned
timings, the full plan's metrics and layout, and which nodes may be used.
"""

from __future__ import annotations

import msgspec

from continuer.bundle import Bundle
from continuer.config import CoordinatorConfig
from continuer.objectives import Metrics, Objectives
from continuer.plan import Step, Technique
from coordinator.commands import NodeRecord
from coordinator.downtimes import Timings
from coordinator.layouts import Layout
from coordinator.membership import Membership
from coordinator.planner import (
    Candidate,
    Decision,
    NodeFacts,
    Setting,
    decide,
    full_layout,
    make_step,
    metrics_of,
)
from coordinator.telling import RateMeter


class Planning:
    """``full`` and ``reference``: metrics and layout of the last plan that ran every block."""

    def __init__(
        self,
        config: CoordinatorConfig,
        bundle: Bundle,
        membership: Membership,
        objectives: Objectives | None,
    ) -> None:
        self.objectives = objectives or config.objectives
        self.timings = Timings()
        self.rate = RateMeter(config.expected_rate_per_s)
        self.full: Metrics | None = None
        self.reference: Layout = {}
        self._config = config
        self._bundle = bundle
        self._membership = membership

    def usable(self) -> list[NodeRecord]:
        """Nodes at work that are to stay at work."""
        return [n for n in self._membership.live() if n.state == "active" and not n.drained]

    def nodes_for(self, candidate: Candidate) -> list[NodeRecord]:
        """The nodes that a plan around this candidate counts on."""
        names = {node.name for node in self.usable()} | candidate.step.nodes
        return [n for n in self._membership.live() if n.name in names]

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
            timings=self.timings,
        )

    def full_candidate(self, joining: list[NodeRecord]) -> Candidate | None:
        """All blocks over the nodes at work and the joining ones."""
        names = {node.name for node in (*self.usable(), *joining)}
        chosen = [n for n in self._membership.live() if n.name in names]
        everyone = len(chosen) == len(self._config.nodes)
        setting = self.setting(chosen)
        layout = full_layout(setting)
        technique: Technique = "none" if everyone else "repartition"
        return make_step(setting, layout, technique) if layout is not None else None

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
        if self.full is None:
            return None
        nodes = [node for node in self.usable() if node.name not in failed]
        gone = frozenset(self.reference) - {node.name for node in nodes}
        found = decide(self.setting(nodes), self.reference, gone, self.full)
        return msgspec.structs.replace(found, failed=tuple(sorted(failed))) if found else None

    def measure(self, step: Step) -> Metrics:
        """What scores are relative to: the last full plan, or this step where there was none."""
        return self.full or metrics_of(step)

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
        latency_us={part: timing.latency_us for part, timing in node.loaded.items()},
        load_us={part: timing.load_us for part, timing in node.loaded.items()},
        memory_bytes=node.memory_bytes,
        standby=node.standby,
        refused=node.refused,
    )
