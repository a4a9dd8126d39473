"""What is done for each request class: in the plan, and after each failure. Pure functions.

A class whose objectives choose what the deployment's choose goes by the plan's own step, and costs
nothing. Others have a route of their own, or two (``coordinator/masking.py``).
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from continuer.objectives import Metrics, RequestClass
from continuer.plan import Technique
from coordinator.arrangements import split_failures
from coordinator.layouts import Layout
from coordinator.masking import RESTORING, Pair, two_routes
from coordinator.planner import (
    Candidate,
    ClassRoutes,
    Decision,
    Setting,
    decide,
    make_step,
    merged,
)

T = TypeVar("T")
Before = tuple[ClassRoutes, ...]


# --- the plan -----------------------------------------------------------------------------


def routes_in_plan(
    setting: Setting, base: Candidate, reference: Layout, full: Metrics, before: Before
) -> tuple[ClassRoutes, ...]:
    """The routes of all classes in a plan whose own step is ``base``.

    ``reference`` is the layout of the last plan that ran every block; ``before`` what classes
    had until now: two routes that use the very nodes there are stay as they are.
    """
    had = {routes.name: routes for routes in before}
    return tuple(
        _in_plan(setting, wanted, base, reference, full, had.get(wanted.name))
        for wanted in setting.classes
    )


def _in_plan(
    setting: Setting,
    wanted: RequestClass,
    base: Candidate,
    reference: Layout,
    full: Metrics,
    before: ClassRoutes | None,
) -> ClassRoutes:
    names = {node.name for node in setting.nodes}
    gone = frozenset(reference) - names
    own = _for_class(setting, wanted, failing=bool(gone))
    first = base
    if wanted.objectives != setting.objectives:
        decision = decide(own, reference or base.layout, gone, full)
        # Every block runs either way: then by the plan's own step.
        if decision is not None and decision.chosen[-1].step.parts != base.step.parts:
            first = decision.chosen[-1]
    plain = ClassRoutes(wanted.name, None if first is base else first)
    if not wanted.masked:
        return plain
    technique: Technique = "none" if base.step.technique == "none" else "repartition"
    if before is not None and before.second is not None:
        used = {name for candidate in before.own for name in candidate.step.nodes}
        kept = refreshed(own, before)
        if kept is not None and used == names:
            return kept
    anyway = frozenset(first.problems)
    found = two_routes(own, full, technique, base.layout, anyway=anyway)
    if isinstance(found, str):
        return msgspec.structs.replace(plain, problem=found)
    return ClassRoutes(wanted.name, *found)


def settled_routes(
    setting: Setting, prepared: tuple[ClassRoutes, ...], fresh: tuple[ClassRoutes, ...]
) -> tuple[ClassRoutes, ...]:
    """The routes once their parts are loaded.

    Chosen anew, with what is measured now, where that needs nothing more in memory; else those
    that were prepared.
    """
    had = {routes.name: refreshed(setting, routes) for routes in prepared}
    return tuple(had.get(each.name) or each if each.missing else each for each in fresh)


def refreshed(setting: Setting, routes: ClassRoutes) -> ClassRoutes | None:
    """The same routes with what is known of their nodes now; None where they cannot be used."""
    names = {node.name for node in setting.nodes}
    if not all(candidate.step.nodes <= names for candidate in routes.own):
        return None
    again = [make_step(setting, c.layout, c.step.technique) for c in routes.own]
    found = [
        msgspec.structs.replace(
            new,
            score=old.score,
            step=msgspec.structs.replace(new.step, downtime_ms=old.step.downtime_ms),
        )
        for new, old in zip(again, routes.own, strict=True)
        if new is not None and not new.step.uses(setting.broken)
    ]
    if len(found) < len(routes.own):
        return None
    first, second = (*found, None, None)[:2]
    return ClassRoutes(routes.name, first, second, routes.problem)


def hold_routes(
    setting: Setting,
    base: Candidate,
    classes: tuple[ClassRoutes, ...],
    wanted: dict[str, tuple[int, ...]],
) -> dict[str, tuple[int, ...]]:
    """What nodes are to have in memory, with the routes of classes before what is only spare."""
    own = [candidate.layout for routes in classes for candidate in routes.own]
    if not own:
        return wanted
    parts = setting.bundle.manifest.parts
    needed = merged(base.layout, *own)
    result = {}
    for node in setting.nodes:
        kept = list(needed.get(node.name, ()))
        used = float(sum(parts[part].memory_bytes for part in kept))
        for part in wanted.get(node.name, ()):
            if part in kept or used + parts[part].memory_bytes > node.memory_bytes:
                continue
            kept.append(part)
            used += parts[part].memory_bytes
        result[node.name] = tuple(kept)
    return result


# --- failures -----------------------------------------------------------------------------


def decide_for_all(
    setting: Setting,
    current: Layout,
    failed: frozenset[str],
    full: Metrics,
    before: Before,
    *,
    restore: bool = True,
) -> Decision | None:
    """``decide``, and for the same failures what is done for every request class.

    ``before`` is what classes do in the plan in force. Where a class needs loading and the
    deployment does not, the last step is given twice: the second time it heals the class.
    Without ``restore`` masked classes get no new second route yet, which takes time to find.
    """
    decision = decide(setting, current, failed, full)
    if decision is None or not setting.classes:
        return decision
    had = {routes.name: routes for routes in before}
    each = [
        _after(setting, wanted, current, failed, full, had.get(wanted.name), decision, restore)
        for wanted in setting.classes
    ]
    count = max(len(decision.chosen), *map(len, each))
    chosen = _padded(decision.chosen, count)
    padded = [_padded(steps, count) for steps in each]
    classes = tuple(
        tuple(_unless_same(steps[index], chosen[index]) for steps in padded)
        for index in range(count)
    )
    return msgspec.structs.replace(decision, chosen=chosen, classes=classes)


def _for_class(setting: Setting, wanted: RequestClass, *, failing: bool) -> Setting:
    """The setting with the class's objectives; a downtime only counts where something fails."""
    objectives = wanted.objectives
    if not failing:
        objectives = msgspec.structs.replace(objectives, max_downtime_ms=None)
    return msgspec.structs.replace(setting, objectives=objectives)


def _padded(steps: tuple[T, ...], count: int) -> tuple[T, ...]:
    """So many steps, the last one as often as it takes."""
    return (*steps, *(steps[-1:] * (count - len(steps))))


def _unless_same(routes: ClassRoutes, default: Candidate) -> ClassRoutes:
    """Without a route of its own, where it is the plan's."""
    same = routes.first is not None and routes.first.layout == default.layout
    if routes.second is None and same:
        return msgspec.structs.replace(routes, first=None)
    return routes


def _after(
    setting: Setting,
    wanted: RequestClass,
    current: Layout,
    failed: frozenset[str],
    full: Metrics,
    before: ClassRoutes | None,
    default: Decision,
    restore: bool,
) -> tuple[ClassRoutes, ...]:
    """What is done for a class, step by step; each has a first route here."""
    nodes, links = split_failures(failed)
    own = _for_class(setting, wanted, failing=True)
    plain = _plain(setting, wanted, current, failed, full, before, default)
    if not wanted.masked:
        return plain
    kept: tuple[Candidate, ...] = ()
    if before is not None and before.second is not None:
        kept = tuple(c for c in before.own if not c.step.uses(failed))
        if len(kept) == 2:
            return (before,)
    left = msgspec.structs.replace(
        own,
        nodes=tuple(node for node in own.nodes if node.name not in nodes),
        failed=failed,
        broken=own.broken | links,
    )
    found: Pair | str = RESTORING
    if restore:
        found = two_routes(
            left,
            full,
            "repartition",
            default.chosen[-1].layout,
            anyway=frozenset(plain[-1].first.problems if plain[-1].first else ()),
            keep=kept[0] if kept else None,
        )
    problem = found if isinstance(found, str) else RESTORING
    bridges = tuple(ClassRoutes(wanted.name, c, problem=problem) for c in kept) or tuple(
        msgspec.structs.replace(routes, problem=problem) for routes in plain
    )
    if isinstance(found, str):
        last = msgspec.structs.replace(plain[-1], problem=problem)
        return (bridges[0], last) if kept else bridges
    pair = ClassRoutes(wanted.name, *found)
    return (bridges[0], pair) if pair.missing else (pair,)


def _plain(
    setting: Setting,
    wanted: RequestClass,
    current: Layout,
    failed: frozenset[str],
    full: Metrics,
    before: ClassRoutes | None,
    default: Decision,
) -> tuple[ClassRoutes, ...]:
    """One route, by the class's objectives."""
    decision: Decision | None = default
    own = _for_class(setting, wanted, failing=True)
    alone = before.first if before is not None and before.second is None else None
    if alone is not None and not alone.step.uses(failed):
        return (ClassRoutes(wanted.name, alone),)
    if own.objectives != setting.objectives:
        decision = decide(own, current, failed, full)
    assert decision is not None  # the deployment's objectives found something
    steps = tuple(ClassRoutes(wanted.name, candidate) for candidate in decision.chosen)
    if steps[0].missing:
        # Nothing of its own is in memory: as the deployment does, until it is.
        return (ClassRoutes(wanted.name, default.chosen[0]), steps[-1])
    return steps
