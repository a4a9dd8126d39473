"""What could be done when nodes fail, and which of it is best. Pure functions.

Everything here takes a ``Setting`` (what is known of bundle, nodes and objectives) and
returns candidates, steps and contingencies; nothing is remembered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from continuer.bundle import Bundle
from continuer.config import ForcedTechnique
from continuer.objectives import Metrics, Objectives, score, violations
from continuer.placement import place
from continuer.plan import Contingency, Hop, Step, Technique
from coordinator.accuracies import accuracy_of
from coordinator.downtimes import Timings
from coordinator.layouts import Layout, exit_layouts, mixed_layouts, skip_layout


class NodeFacts(msgspec.Struct, frozen=True):
    """What is known of one live node: measured timings where it has reported them.

    ``refused`` are parts that it could not load; it is given none of them.
    """

    name: str
    incarnation: int
    loaded: frozenset[int] = frozenset()
    latency_us: dict[int, float] = {}
    load_us: dict[int, float] = {}
    memory_bytes: float = float("inf")
    standby: str = "all"
    refused: frozenset[int] = frozenset()


class Setting(msgspec.Struct, frozen=True):
    """Everything that a decision depends on. ``nodes`` in pipeline order, live ones only.

    ``failed`` are the nodes whose failure is being decided on.
    """

    bundle: Bundle
    nodes: tuple[NodeFacts, ...]
    objectives: Objectives
    forced: ForcedTechnique = "auto"
    rate_per_s: float = 1.0
    max_utilisation: float = 0.8
    hop_us: float = 300.0
    timings: Timings = Timings()
    failed: frozenset[str] = frozenset()


class Candidate(msgspec.Struct, frozen=True):
    """One way to go on, what is predicted of it, and what speaks against it.

    ``missing`` names the parts that nodes would have to load first; ``problems`` the
    thresholds broken, by what share; ``measured`` is False where the accuracy is an estimate.
    """

    step: Step
    score: float
    missing: dict[str, tuple[int, ...]]
    problems: dict[str, float]
    measured: bool

    @property
    def layout(self) -> Layout:
        """Which node runs which parts."""
        return {hop.node: hop.parts for hop in self.step.route}

    @property
    def feasible(self) -> bool:
        """No threshold is broken and the capacity suffices."""
        return not self.problems

    def report(self) -> dict[str, Any]:
        """The candidate as the demo's and the CLI's JSON show it."""
        return {
            "technique": self.step.technique,
            "exit": self.step.exit,
            "accuracy": self.step.reported_accuracy,
            "latency_ms": round(self.step.latency_ms, 3),
            "downtime_ms": round(self.step.downtime_ms, 3),
            "capacity_per_s": round(self.step.capacity_per_s, 1),
            "feasible": self.feasible,
            "score": round(self.score, 4),
        }


class Decision(msgspec.Struct, frozen=True):
    """All candidates for a failure set, the steps chosen among them, and why.

    ``fell_back`` is True where the forced technique is impossible for this failure.
    """

    failed: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    chosen: tuple[Candidate, ...]
    why: str
    fell_back: bool = False

    def contingency(self) -> Contingency:
        """The decision as agents hold it."""
        return Contingency(self.failed, tuple(candidate.step for candidate in self.chosen))


def full_layout(setting: Setting) -> Layout | None:
    """All blocks over all nodes of the setting; None where memory does not suffice."""
    bundle = setting.bundle
    blocks = [bundle.part_ids[name] for name in bundle.block_names]
    return place(
        blocks,
        [node.name for node in setting.nodes],
        {n.name: {b: part_latency_us(setting, n, b) for b in blocks} for n in setting.nodes},
        {b: bundle.manifest.parts[b].memory_bytes for b in blocks},
        {node.name: node.memory_bytes for node in setting.nodes},
    )


def part_latency_us(setting: Setting, node: NodeFacts, part: int) -> float:
    """As the node measured it; else the builder's figure times the node's relative speed.

    Infinite for a part that the node could not load.
    """
    if part in node.refused:
        return float("inf")
    if part in node.latency_us:
        return node.latency_us[part]
    parts = setting.bundle.manifest.parts
    built = sum(parts[known].latency_us for known in node.latency_us)
    factor = sum(node.latency_us.values()) / built if built else 1.0
    return parts[part].latency_us * factor


def make_step(setting: Setting, layout: Layout, technique: Technique) -> Candidate | None:
    """Predict a layout's metrics.

    None where its accuracy can be neither known nor estimated, or a node cannot run its part.
    """
    bundle = setting.bundle
    facts = {node.name: node for node in setting.nodes}
    path = [bundle.part_names[part] for parts in layout.values() for part in parts]
    known = accuracy_of(bundle, path)
    if known is None:
        return None
    accuracy, measured = known
    stages = [
        sum(part_latency_us(setting, facts[name], part) for part in parts)
        for name, parts in layout.items()
    ]
    if not all(map(math.isfinite, stages)):
        return None
    # Ingress to first stage, between stages, and the answer: one hop more than stages.
    latency_ms = (sum(stages) + (len(stages) + 1) * setting.hop_us) / 1e3
    capacity = 1e6 / (max(stages) + setting.hop_us)
    missing = {
        name: lacking
        for name, parts in layout.items()
        if (lacking := tuple(p for p in parts if p not in facts[name].loaded))
    }
    exit_name, _ = bundle.variant_of(path)
    route = tuple(Hop(name, facts[name].incarnation, parts) for name, parts in layout.items())
    step = Step(
        technique,
        exit_name,
        route,
        accuracy,
        latency_ms,
        _downtime_ms(setting, facts, missing),
        capacity,
    )
    problems = _broken(setting.objectives, step, step.downtime_ms)
    if setting.rate_per_s > capacity * setting.max_utilisation:
        problems["capacity"] = setting.rate_per_s / (capacity * setting.max_utilisation) - 1
    return Candidate(step, 0.0, missing, problems, measured)


def _downtime_ms(
    setting: Setting, facts: Mapping[str, NodeFacts], missing: Mapping[str, Sequence[int]]
) -> float:
    """Detect, decide, tell; and where parts are missing, the slowest node's loading.

    Nodes load side by side; telling them to, and hearing that they are done, is one more
    exchange.
    """
    timings = setting.timings
    downtime = timings.detect(setting.failed) + timings.decide_ms + timings.tell_ms
    if missing:
        loads = {name: load_alone_ms(setting.bundle, facts[name], p) for name, p in missing.items()}
        downtime += timings.tell_ms + max(timings.load(*load) for load in loads.items())
    return downtime


def load_alone_ms(bundle: Bundle, node: NodeFacts, parts: Iterable[int]) -> float:
    """How long a node that does nothing else takes to load parts, by what it has measured."""
    built = bundle.manifest.parts
    return sum(node.load_us.get(part, built[part].load_us) for part in parts) / 1e3


def candidates(
    setting: Setting, current: Layout, failed: frozenset[str], full: Metrics
) -> tuple[Candidate, ...]:
    """Every candidate for going on without ``failed``, best score first.

    ``current`` is the layout in force before the failure; ``full`` the metrics of the full
    plan, the measure of all scores. ``setting.nodes`` are all nodes of the plan; the failed
    ones are left out here.
    """
    left = tuple(node for node in setting.nodes if node.name not in failed)
    if not left:
        return ()
    setting = msgspec.structs.replace(setting, nodes=left, failed=failed)
    found: list[Candidate | None] = []
    whole = full_layout(setting)
    if whole is not None:
        found.append(make_step(setting, whole, "repartition"))
    found += [
        make_step(setting, layout, "early_exit")
        for layout in exit_layouts(setting.bundle, current, failed)
    ]
    skipping = skip_layout(setting.bundle, current, failed)
    if skipping is not None:
        found.append(make_step(setting, skipping, "skip"))
        found += [
            make_step(setting, layout, "mixed")
            for layout in mixed_layouts(setting.bundle, skipping)
        ]
    scored = [
        msgspec.structs.replace(c, score=score(setting.objectives, metrics_of(c.step), full))
        for c in found
        if c is not None
    ]
    return tuple(sorted(scored, key=lambda c: -c.score))


def metrics_of(step: Step, downtime_ms: float | None = None) -> Metrics:
    """The step's metrics for scoring, or with another downtime.

    An unknown accuracy counts as 1: scores are relative to the full plan's, and only paths
    of all blocks have an unknown one.
    """
    return Metrics(
        1.0 if step.accuracy is None else step.accuracy,
        step.latency_ms,
        step.downtime_ms if downtime_ms is None else downtime_ms,
    )


def _broken(objectives: Objectives, step: Step, downtime_ms: float) -> dict[str, float]:
    """Violations by the step; an accuracy that nobody knows cannot be promised either."""
    broken = violations(objectives, metrics_of(step, downtime_ms))
    if step.accuracy is None and objectives.min_accuracy is not None:
        broken["min_accuracy"] = 1.0
    return broken


def decide(
    setting: Setting, current: Layout, failed: frozenset[str], full: Metrics
) -> Decision | None:
    """Choose for a failure set: a bridge where it helps, then the best. None: nothing is left.

    Feasible candidates come before others; among infeasible ones the least violation wins.
    The bridge is the feasible candidate of least downtime that needs no loading. It answers
    while a better one loads, so that one is not judged by its own downtime: a few milliseconds
    in the background would else outweigh a percent of accuracy for good.
    """
    found = candidates(setting, current, failed, full)
    if not found:
        return None
    allowed = [c for c in found if setting.forced in ("auto", c.step.technique)]
    fell_back = not allowed
    bridge = _bridge(allowed or found)
    if bridge is not None:
        found = tuple(_bridged(c, bridge, setting.objectives, full) for c in found)
        found = tuple(sorted(found, key=lambda c: -c.score))
    allowed = [c for c in found if fell_back or setting.forced in ("auto", c.step.technique)]
    feasible = [c for c in allowed if c.feasible]
    if feasible:
        best = max(feasible, key=lambda c: c.score)
        why = f"highest score of {len(feasible)} feasible candidates"
    else:
        best = min(allowed, key=lambda c: (sum(c.problems.values()), -c.score))
        broken = ", ".join(sorted(best.problems))
        why = f"no candidate meets the objectives; least violation ({broken})"
    if setting.forced != "auto" and not fell_back:
        why += f"; technique {setting.forced} is forced"
    elif fell_back:
        why += f"; the forced technique {setting.forced} is impossible here"
    steps: tuple[Candidate, ...] = (best,)
    if best.missing and bridge is not None:
        steps = (bridge, best)
        why += "; bridged by what is in memory while its blocks load"
    return Decision(tuple(sorted(failed)), found, steps, why, fell_back)


def _bridge(allowed: Sequence[Candidate]) -> Candidate | None:
    """The feasible candidate of least downtime among those that need no loading."""
    ready = [c for c in allowed if c.feasible and not c.missing]
    return min(ready, key=lambda c: (c.step.downtime_ms, -c.score)) if ready else None


def _bridged(
    candidate: Candidate, bridge: Candidate, objectives: Objectives, full: Metrics
) -> Candidate:
    """The candidate judged by the interruption that is felt: while it loads, the bridge answers.

    Its own downtime stays in its step, as the prediction of when it will be in force.
    """
    if candidate.step.downtime_ms <= bridge.step.downtime_ms:
        return candidate
    felt = metrics_of(candidate.step, bridge.step.downtime_ms)
    problems = _broken(objectives, candidate.step, bridge.step.downtime_ms)
    if "capacity" in candidate.problems:
        problems["capacity"] = candidate.problems["capacity"]
    return msgspec.structs.replace(
        candidate, score=score(objectives, felt, full), problems=problems
    )
