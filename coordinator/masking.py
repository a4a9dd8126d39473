"""Two routes that share no node, for classes that ask for ``redundancy = 2``. Pure functions.

A copy of each request enters by the first node of either route, so the crash of any one box,
ingresses included, leaves one copy untouched: nothing is detected, decided or sent again before the
answer comes. Each route carries all requests of its classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from continuer.objectives import Metrics, score
from continuer.plan import Technique
from coordinator.layouts import Layout
from coordinator.planner import (
    Candidate,
    Setting,
    arranged_settings,
    full_layout,
    make_step,
    merged,
    metrics_of,
)

# Up to so many nodes every way to cut them in two runs is tried, else only cuts in the middle.
TRY_ALL_CUTS = 6
RESTORING = "its other route has failed; a new one is being prepared"

Pair = tuple[Candidate, Candidate]


def two_routes(
    setting: Setting,
    full: Metrics,
    technique: Technique,
    beside: Layout,
    *,
    anyway: frozenset[str] = frozenset(),
    keep: Candidate | None = None,
) -> Pair | str:
    """The best two routes over disjoint nodes of the setting, or why there are none.

    ``technique`` names routes that run every block. ``beside`` is what the nodes must hold
    besides; ``anyway`` are thresholds that one route breaks as well; ``keep`` is one of the
    routes, where the rest of the nodes can carry another one.
    """
    names = [node.name for node in setting.nodes]
    if len(names) < 2:
        return "one node is at work; two routes need two"
    if keep is not None:
        other = _route(setting, [n for n in names if n not in keep.step.nodes], technique, full)
        if other is not None and not _problem(setting, (keep, other), beside, anyway):
            return keep, other
    pairs = []
    for left, right in _cuts(names):
        found = [_route(setting, group, technique, full) for group in (left, right)]
        if found[0] is not None and found[1] is not None:
            pairs.append((found[0], found[1]))
    if not pairs:
        return "no two groups of nodes can hold the model each"
    fitting = [pair for pair in pairs if not _problem(setting, pair, beside, anyway)]
    if not fitting:
        return _problem(setting, max(pairs, key=_worth), beside, anyway)
    return max(fitting, key=_worth)


def _cuts(names: Sequence[str]) -> list[tuple[Sequence[str], Sequence[str]]]:
    """Ways to share nodes out to two routes: runs of them, and every other one."""
    middle = len(names) // 2
    places = range(1, len(names)) if len(names) <= TRY_ALL_CUTS else (middle, middle + 1)
    return [*((names[:cut], names[cut:]) for cut in places), (names[::2], names[1::2])]


def _route(
    setting: Setting, group: Sequence[str], technique: Technique, full: Metrics
) -> Candidate | None:
    """A route over some of the nodes: every block, or as many as fit, up to an exit."""
    chosen = tuple(node for node in setting.nodes if node.name in group)
    if not chosen:
        return None
    bundle = setting.bundle
    exits = [i for i, b in enumerate(bundle.manifest.blocks, 1) if b.exit is not None]
    for arranged in arranged_settings(msgspec.structs.replace(setting, nodes=chosen)):
        for count in (None, *reversed(exits)):
            layout = full_layout(arranged, count=count)
            if not layout:
                continue
            name: Technique = technique
            if count is not None:
                layout = _left_at_exit(setting, layout, count)
                name = "early_exit"
            candidate = make_step(setting, layout, name)
            if candidate is not None and not candidate.step.uses(setting.broken):
                # A crash of its nodes is not felt: the other route's answer is on its way.
                step = msgspec.structs.replace(candidate.step, downtime_ms=0.0)
                problems = {k: v for k, v in candidate.problems.items() if k != "max_downtime_ms"}
                worth = score(setting.objectives, metrics_of(step), full)
                return msgspec.structs.replace(candidate, step=step, problems=problems, score=worth)
    return None


def _left_at_exit(setting: Setting, layout: Layout, count: int) -> Layout:
    bundle = setting.bundle
    name = bundle.manifest.blocks[count - 1].exit
    assert name is not None
    last = next(reversed(layout))
    return {**layout, last: (*layout[last], bundle.part_ids[name])}


def _worth(pair: Pair) -> tuple[bool, bool, float, float]:
    """The worse of the two counts; routes that answer alike come before others."""
    return (
        all(candidate.feasible for candidate in pair),
        pair[0].step.exit == pair[1].step.exit,
        min(candidate.score for candidate in pair),
        min(candidate.step.capacity_per_s for candidate in pair),
    )


def _problem(setting: Setting, pair: Pair, beside: Layout, anyway: frozenset[str]) -> str:
    """What speaks against two routes; empty where nothing does."""
    capacity = min(candidate.step.capacity_per_s for candidate in pair)
    limit = capacity * setting.max_utilisation
    if setting.rate_per_s > limit:
        return (
            f"{setting.rate_per_s:.0f} requests/s arrive; two routes can take up to {limit:.0f}/s"
        )
    broken = sorted({key for candidate in pair for key in candidate.problems} - anyway)
    if broken:
        return f"two routes would break {', '.join(broken)}"
    parts = setting.bundle.manifest.parts
    wanted = merged(beside, *(candidate.layout for candidate in pair))
    for node in setting.nodes:
        needed = sum(parts[part].memory_bytes for part in wanted.get(node.name, ()))
        if needed > node.memory_bytes:
            return (
                f"{node.name} would need {needed / 2**20:.1f} MiB for the plan and a second route; "
                f"its budget is {node.memory_bytes / 2**20:.1f} MiB"
            )
    return ""
