"""What could be done when nodes fail, and which of it is best. Pure functions.

Everything here takes a ``Setting`` (what is known of bundle, nodes and objectives) and
returns candidates, steps and contingencies; nothing is remembered.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from continuer.bundle import Bundle
from continuer.config import ForcedTechnique
from continuer.objectives import Metrics, Objectives, RequestClass, score, violations
from continuer.placement import INFINITE, Link, place
from continuer.plan import ClassStep, Contingency, Hop, Step, Technique
from coordinator.accuracies import KnownAccuracy, variant_accuracy
from coordinator.arrangements import arrangements, split_failures, victims
from coordinator.downtimes import Timings
from coordinator.layouts import Layout, exit_layouts, mixed_layouts, skip_layout
from coordinator.predictions import Predictions


class NodeFacts(msgspec.Struct, frozen=True):
    """What is known of one live node: measured timings where it has reported them.

    ``refused`` are parts that it could not load; it is given none of them. ``stored`` are those
    on its disk, None where all are; others it fetches first.
    """

    name: str
    incarnation: int
    loaded: frozenset[int] = frozenset()
    latency_us: dict[int, float] = {}
    load_us: dict[int, float] = {}
    memory_bytes: float = float("inf")
    standby: str = "all"
    refused: frozenset[int] = frozenset()
    stored: frozenset[int] | None = None

    def has(self, part: int) -> bool:
        """The part is on the node's disk."""
        return self.stored is None or part in self.stored


class Setting(msgspec.Struct, frozen=True):
    """Everything that a decision depends on. ``nodes`` in pipeline order, live ones only.

    ``failed`` are the nodes whose failure is being decided on. ``links`` says what hops cost
    where it is not ``hop_us``; ``shelf`` which parts the coordinator hands out, None for all.
    ``broken`` are links that no route may use; ``classes`` request classes to decide for as well.
    ``predictions``: a table's, for what was not measured.
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
    links: dict[tuple[str, str], Link] = {}
    shelf: frozenset[int] | None = None
    broken: frozenset[str] = frozenset()
    classes: tuple[RequestClass, ...] = ()
    predictions: Predictions | None = None

    def obtainable(self, node: NodeFacts, part: int) -> bool:
        """The node has the part on disk, or somebody has it from whom it can be fetched."""
        if node.has(part) or self.shelf is None or part in self.shelf:
            return True
        return any(other.has(part) for other in self.nodes)

    def hop(self, sender: str, receiver: str, nbytes: int) -> tuple[float, float]:
        """Microseconds that a hop takes, and for how long it uses the link."""
        link = self.links.get((sender, receiver), Link(self.hop_us))
        used = link.us_per_byte * nbytes
        return link.hop_us + used, used


class Candidate(msgspec.Struct, frozen=True):
    """One way to go on, what is predicted of it, and what speaks against it.

    ``missing`` names the parts that nodes would have to load first; ``problems`` the
    thresholds broken, by what share; ``accuracy`` says where
    the step's accuracy comes from; ``timed`` that every latency in it was measured by its node.
    """

    step: Step
    score: float
    missing: dict[str, tuple[int, ...]]
    problems: dict[str, float]
    accuracy: KnownAccuracy
    timed: bool

    @property
    def layout(self) -> Layout:
        """Which node runs which parts."""
        return {hop.node: hop.parts for hop in self.step.route}

    @property
    def feasible(self) -> bool:
        """No threshold is broken and the capacity suffices."""
        return not self.problems

    @property
    def sources(self) -> dict[str, str]:
        """Where accuracy and latency come from, as reports show it."""
        return {
            "accuracy_source": self.accuracy.source,
            "latency_source": "measured" if self.timed else "predicted",
        }

    def report(self) -> dict[str, Any]:
        """The candidate as the demo's and the CLI's JSON show it."""
        return {
            "technique": self.step.technique,
            "exit": self.step.exit,
            "accuracy": self.step.reported_accuracy,
            "latency_ms": round(self.step.latency_ms, 3),
            **self.sources,
            "downtime_ms": round(self.step.downtime_ms, 3),
            "capacity_per_s": round(self.step.capacity_per_s, 1),
            "feasible": self.feasible,
            "score": round(self.score, 4),
        }


class ClassRoutes(msgspec.Struct, frozen=True):
    """What is done for one request class. ``first`` is None where it goes by the plan's own step.

    ``second``: the other route of a masked class; ``problem`` says why it has none.
    """

    name: str
    first: Candidate | None = None
    second: Candidate | None = None
    problem: str = ""

    @property
    def own(self) -> tuple[Candidate, ...]:
        """The routes that are not the plan's."""
        return tuple(c for c in (self.first, self.second) if c is not None)

    @property
    def missing(self) -> dict[str, tuple[int, ...]]:
        """The parts that nodes would have to load for it."""
        return merged(*(candidate.missing for candidate in self.own))

    def as_step(self) -> ClassStep:
        """As agents hold it."""
        first, second = (c.step if c is not None else None for c in (self.first, self.second))
        return ClassStep(self.name, first, second)


def steps_of(candidate: Candidate, routes: Iterable[ClassRoutes]) -> list[Step]:
    """All steps that are in force together: the plan's own, and those of request classes."""
    return [candidate.step, *(own.step for each in routes for own in each.own)]


def merged(*parts_of: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """For each node the parts that any of these names, each once, in order."""
    found: dict[str, tuple[int, ...]] = {}
    for layout in parts_of:
        for node, parts in layout.items():
            known = found.get(node, ())
            found[node] = (*known, *(p for p in parts if p not in known))
    return found


class Decision(msgspec.Struct, frozen=True):
    """All candidates for a failure set, the steps chosen among them, and why.

    ``fell_back`` is True where the forced technique is impossible for this failure.
    ``classes``: for each chosen step, what is done for every request class.
    """

    failed: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    chosen: tuple[Candidate, ...]
    why: str
    fell_back: bool = False
    classes: tuple[tuple[ClassRoutes, ...], ...] = ()

    def classes_at(self, index: int) -> tuple[ClassRoutes, ...]:
        """What is done for request classes at a step."""
        return self.classes[index] if self.classes else ()

    def missing(self, index: int) -> dict[str, tuple[int, ...]]:
        """The parts that nodes would have to load for a step, request classes included."""
        return merged(self.chosen[index].missing, *(r.missing for r in self.classes_at(index)))

    def contingency(self) -> Contingency:
        """The decision as agents hold it."""
        own = [tuple(r.as_step() for r in at if r.own) for at in self.classes]
        steps = tuple(candidate.step for candidate in self.chosen)
        return Contingency(self.failed, steps, tuple(own) if any(own) else ())


def full_layout(
    setting: Setting, *, loaded_only: bool = False, count: int | None = None
) -> Layout | None:
    """All blocks over the nodes of the setting, as the objectives' ``optimise`` wants it.

    With ``loaded_only``, each where it is in memory already; with ``count``, only so many
    blocks from the first one on. None where that is impossible.
    """
    bundle = setting.bundle
    blocks = [bundle.part_ids[name] for name in bundle.block_names[:count]]

    def costs_us(node: NodeFacts) -> dict[int, float]:
        costs = latencies_us(setting, node, blocks)
        if loaded_only:
            costs |= {block: INFINITE for block in blocks if block not in node.loaded}
        return costs

    # A stage may take so long that the rate fits into the share of it that may be used.
    slowest_us = 1e6 * setting.max_utilisation / max(setting.rate_per_s, 1e-6) - setting.hop_us
    return place(
        blocks,
        [node.name for node in setting.nodes],
        {node.name: costs_us(node) for node in setting.nodes},
        {b: bundle.manifest.parts[b].memory_bytes for b in blocks},
        {node.name: node.memory_bytes for node in setting.nodes},
        optimise=setting.objectives.optimise,
        links=setting.links,
        hop_us=setting.hop_us,
        input_bytes=dict(enumerate(bundle.input_bytes)),
        slowest_us=slowest_us,
    )


def part_latency_us(setting: Setting, node: NodeFacts, part: int) -> float:
    """As the node measured it; else as predicted for it, times what it is slower than predicted.

    Predicted by the table for the node's kind, or where that says nothing by the builder's
    figure; how much slower the node is shows where it did measure. Infinite for a part that
    the node could not load, or cannot get.
    """
    return latencies_us(setting, node, (part,))[part]


def _stage_us(setting: Setting, node: NodeFacts, parts: Sequence[int]) -> float:
    """How long a node takes for these parts."""
    known = node.latency_us
    if node.stored is None and not node.refused and all(map(known.__contains__, parts)):
        return sum(map(known.__getitem__, parts))
    return sum(latencies_us(setting, node, parts).values())


def latencies_us(setting: Setting, node: NodeFacts, parts: Iterable[int]) -> dict[int, float]:
    """``part_latency_us`` of several parts; what they have in common is worked out once."""
    found: dict[int, float] = {}
    expected, factor = None, 1.0
    for part in parts:
        lacks = node.stored is not None and not setting.obtainable(node, part)
        if lacks or part in node.refused:
            found[part] = INFINITE
        elif part in node.latency_us:
            found[part] = node.latency_us[part]
        else:
            if expected is None:
                predicted = setting.predictions
                expected = predicted.latency_us(node.name) if predicted else None
                expected = setting.bundle.built_latency_us if expected is None else expected
                for_known = sum(expected[known] for known in node.latency_us)
                factor = sum(node.latency_us.values()) / for_known if for_known else 1.0
            found[part] = expected[part] * factor
    return found


def make_step(setting: Setting, layout: Layout, technique: Technique) -> Candidate | None:
    """Predict a layout's metrics.

    None where its accuracy can be neither known nor estimated, or a node cannot run its part.
    """
    bundle = setting.bundle
    facts = {node.name: node for node in setting.nodes}
    path = [bundle.part_names[part] for parts in layout.values() for part in parts]
    exit_name, skipped = bundle.variant_of(path)
    accuracy = variant_accuracy(bundle, exit_name, skipped, setting.predictions)
    if accuracy is None:
        return None
    stages = [_stage_us(setting, facts[name], parts) for name, parts in layout.items()]
    if not all(map(math.isfinite, stages)):
        return None
    hops = [
        setting.hop(sender, receiver, bundle.input_bytes[parts[0]])
        for (sender, _), (receiver, parts) in itertools.pairwise(layout.items())
    ]
    # Ingress to first stage, between stages, and the answer: one hop more than stages.
    latency_ms = (sum(stages) + sum(delay for delay, _ in hops) + 2 * setting.hop_us) / 1e3
    capacity = 1e6 / max([max(stages) + setting.hop_us, *(used for _, used in hops)])
    missing = {
        name: lacking
        for name, parts in layout.items()
        if (lacking := tuple(p for p in parts if p not in facts[name].loaded))
    }
    if technique == "skip" and exit_name is not None:
        technique = "mixed"  # blocks of a route that ended at an exit already were left out
    route = tuple(Hop(name, facts[name].incarnation, parts) for name, parts in layout.items())
    step = Step(
        technique,
        exit_name,
        route,
        accuracy.accuracy,
        latency_ms,
        _downtime_ms(setting, facts, missing, technique),
        capacity,
    )
    problems = _broken(setting.objectives, step, accuracy, step.downtime_ms)
    if setting.rate_per_s > capacity * setting.max_utilisation:
        problems["capacity"] = setting.rate_per_s / (capacity * setting.max_utilisation) - 1
    timed = all(p in facts[name].latency_us for name, parts in layout.items() for p in parts)
    return Candidate(step, 0.0, missing, problems, accuracy, timed)


def _downtime_ms(
    setting: Setting,
    facts: Mapping[str, NodeFacts],
    missing: Mapping[str, Sequence[int]],
    technique: Technique,
) -> float:
    """Detect, decide, tell; and where parts are missing, the slowest node's loading.

    Nodes load side by side; telling them to, and hearing that they are done, is one more
    exchange.
    """
    timings = setting.timings
    tell_ms = timings.tell(technique)
    downtime = timings.detect(setting.failed) + timings.decide_ms + tell_ms
    if missing:
        bundle = setting.bundle
        downtime += tell_ms + max(
            timings.load(name, load_alone_ms(bundle, facts[name], parts))
            + timings.fetch(name, fetch_bytes(bundle, facts[name], parts))
            for name, parts in missing.items()
        )
    return downtime


def load_alone_ms(bundle: Bundle, node: NodeFacts, parts: Iterable[int]) -> float:
    """How long a node that does nothing else takes to load parts, by what it has measured."""
    built = bundle.manifest.parts
    return sum(node.load_us.get(part, built[part].load_us) for part in parts) / 1e3


def fetch_bytes(bundle: Bundle, node: NodeFacts, parts: Iterable[int]) -> int:
    """How much a node must fetch before it can load these parts."""
    return sum(bundle.manifest.parts[part].bytes for part in parts if not node.has(part))


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
    nodes, links = split_failures(failed)
    broken = setting.broken | links
    setting = msgspec.structs.replace(setting, nodes=left, failed=failed, broken=broken)
    found: list[Candidate | None] = []
    for arranged in arranged_settings(setting):
        whole = full_layout(arranged)
        best = make_step(setting, whole, "repartition") if whole else None
        found.append(best)
        if best is not None and best.missing:
            # Slower, but at once: the blocks where neighbours and spares have them in memory.
            hot = full_layout(arranged, loaded_only=True)
            found.append(make_step(setting, hot, "repartition") if hot else None)
    found += [
        make_step(setting, layout, "early_exit")
        for layout in exit_layouts(setting.bundle, current, nodes)
    ]
    order = [name for name in current if name not in nodes]
    for avoided in victims(order, broken) or [frozenset()]:
        skipping = skip_layout(setting.bundle, current, nodes | avoided)
        if skipping is not None:
            found.append(make_step(setting, skipping, "skip"))
            found += [
                make_step(setting, layout, "mixed")
                for layout in mixed_layouts(setting.bundle, skipping)
            ]
    scored = [
        msgspec.structs.replace(c, score=score(setting.objectives, metrics_of(c.step), full))
        for c in found
        if c is not None and not (broken and c.step.uses(broken))
    ]
    return tuple(sorted(scored, key=lambda c: -c.score))


def arranged_settings(setting: Setting) -> list[Setting]:
    """The setting with its nodes in orders that need no broken link, the best one first."""
    by_name = {node.name: node for node in setting.nodes}
    return [
        msgspec.structs.replace(setting, nodes=tuple(by_name[name] for name in order))
        for order in arrangements(list(by_name), setting.broken)
    ]


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


def _broken(
    objectives: Objectives, step: Step, accuracy: KnownAccuracy, downtime_ms: float
) -> dict[str, float]:
    """Violations by the step; of a predicted accuracy, only its lower bound can be promised.

    An accuracy that nobody knows cannot be promised either.
    """
    metrics = metrics_of(step, downtime_ms)
    if accuracy.least is not None:
        metrics = msgspec.structs.replace(metrics, accuracy=accuracy.least)
    broken = violations(objectives, metrics)
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
    problems = _broken(objectives, candidate.step, candidate.accuracy, bridge.step.downtime_ms)
    if "capacity" in candidate.problems:
        problems["capacity"] = candidate.problems["capacity"]
    return msgspec.structs.replace(
        candidate, score=score(objectives, felt, full), problems=problems
    )
