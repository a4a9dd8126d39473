"""What each node should have in memory before anything fails. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from continuer.objectives import Metrics
from coordinator.layouts import Layout
from coordinator.planner import Candidate, NodeFacts, Setting, candidates


def wanted_parts(setting: Setting, layout: Layout, full: Metrics) -> dict[str, tuple[int, ...]]:
    """What each node should hold: its blocks, the bridges of single failures, then spares.

    Bridges are chosen as if everything were in memory, so that at least one is: a node that
    dies must not leave a gap that lasts as long as loading. ``standby = "neighbours"`` adds
    what the nodes before and behind it run, ``"all"`` the rest of the model, both as far as the
    memory budget goes.
    """
    bundle = setting.bundle
    parts = bundle.manifest.parts
    everything = frozenset(range(len(parts)))
    hot = msgspec.structs.replace(
        setting,
        nodes=tuple(msgspec.structs.replace(n, loaded=everything) for n in setting.nodes),
    )
    wanted = {node.name: list(layout.get(node.name, ())) for node in setting.nodes}
    for name in layout:  # without a spare everything goes on as it is
        bridge = _best_bridge(setting, candidates(hot, layout, frozenset({name}), full))
        for hop in bridge.step.route if bridge else ():
            wanted[hop.node] += [p for p in hop.parts if p not in wanted[hop.node]]
    result = {}
    for node in setting.nodes:
        chosen = wanted[node.name]
        spares = _spares(node, layout, everything)
        chosen = chosen + [p for p in spares if p not in chosen]
        own = set(layout.get(node.name, ()))
        used, kept = 0.0, []
        for part in chosen:
            if part in node.refused or not setting.obtainable(node, part):
                continue
            if part in own or used + parts[part].memory_bytes <= node.memory_bytes:
                used += parts[part].memory_bytes
                kept.append(part)
        result[node.name] = tuple(kept)
    return result


def _spares(node: NodeFacts, layout: Layout, everything: frozenset[int]) -> Sequence[int]:
    """What the node's ``standby`` asks for beyond what the plan and its bridges need."""
    if node.standby == "all":
        return sorted(everything)
    if node.standby != "neighbours" or node.name not in layout:
        return ()
    names = list(layout)
    place = names.index(node.name)
    beside = [*names[max(0, place - 1) : place], *names[place + 1 : place + 2]]
    return [part for name in beside for part in layout[name]]


def _best_bridge(setting: Setting, options: Sequence[Candidate]) -> Candidate | None:
    """What to hold in memory against a failure: a degraded candidate, which needs least.

    Where none of those is feasible, one that is; the forced technique, where it is possible.
    """
    usable = [c for c in options if setting.forced in ("auto", c.step.technique)] or options
    degraded = [c for c in usable if c.step.technique != "repartition"]
    for group in ([c for c in degraded if c.feasible], [c for c in usable if c.feasible], degraded):
        if group:
            return max(group, key=lambda c: c.score)
    return max(usable, key=lambda c: c.score, default=None)
