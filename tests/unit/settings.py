"""Settings and shorthands for the tests of the planner."""

from __future__ import annotations

from typing import Any

import msgspec

from continuer.objectives import Metrics, Objectives
from coordinator.layouts import Layout
from coordinator.planner import (
    Candidate,
    Decision,
    NodeFacts,
    Setting,
    candidates,
    decide,
    make_step,
    metrics_of,
)
from tests.unit.harness import BUNDLE

EVERYTHING = frozenset(range(len(BUNDLE.part_names)))
PARTS = BUNDLE.manifest.parts
NAMES = ("n1", "n2", "n3", "n4", "n5")
FIVE: Layout = {
    "n1": (0, 1, 2, 3),
    "n2": (4, 5, 6),
    "n3": (7, 8, 9),
    "n4": (10, 11, 12),
    "n5": (13, 14, 15, 16),
}
MIB = 1 << 20


def setting_of(count: int = 5, *, node: dict[str, Any] | None = None, **changes: Any) -> Setting:
    """Equal nodes n1, n2, ... with everything in memory but for the changes."""
    facts: dict[str, Any] = {"loaded": EVERYTHING, **(node or {})}
    nodes = tuple(NodeFacts(f"n{i}", i, **facts) for i in range(1, count + 1))
    return Setting(**{"bundle": BUNDLE, "nodes": nodes, "objectives": Objectives(), **changes})


def with_node(setting: Setting, name: str, **changes: Any) -> Setting:
    """The setting with other facts of one node."""
    nodes = tuple(
        msgspec.structs.replace(n, **changes) if n.name == name else n for n in setting.nodes
    )
    return msgspec.structs.replace(setting, nodes=nodes)


def holding(setting: Setting, held: dict[str, tuple[int, ...]]) -> Setting:
    """The setting with these parts in the nodes' memory."""
    for name, parts in held.items():
        setting = with_node(setting, name, loaded=frozenset(parts))
    return setting


def full_metrics(setting: Setting, layout: Layout = FIVE) -> Metrics:
    whole = make_step(setting, layout, "none")
    assert whole is not None
    return metrics_of(whole.step)


def found(setting: Setting, *failed: str, layout: Layout = FIVE) -> tuple[Candidate, ...]:
    return candidates(setting, layout, frozenset(failed), full_metrics(setting, layout))


def decided(setting: Setting, *failed: str, layout: Layout = FIVE) -> Decision:
    decision = decide(setting, layout, frozenset(failed), full_metrics(setting, layout))
    assert decision is not None
    return decision


def the(technique: str, options: tuple[Candidate, ...]) -> Candidate:
    """The only candidate of a technique."""
    (candidate,) = [c for c in options if c.step.technique == technique]
    return candidate


def exits_of(options: tuple[Candidate, ...]) -> set[str | None]:
    return {c.step.exit for c in options if c.step.technique == "early_exit"}


def path_of(candidate: Candidate) -> tuple[str, ...]:
    return tuple(BUNDLE.part_names[part] for part in candidate.step.parts)


def blocks(first: int, last: int) -> list[str]:
    return [f"block{i:02}" for i in range(first, last + 1)]
