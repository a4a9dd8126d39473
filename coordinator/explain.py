"""What would happen if boxes failed, and what is wrong already. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from continuer.bundle import Bundle
from continuer.events import Event
from coordinator.commands import class_events, violation_events
from coordinator.planner import Candidate, ClassRoutes, Decision
from coordinator.reports import class_routes_report, decision_report

Decisions = Mapping[frozenset[str], Decision]


def consequence(
    bundle: Bundle, failed: frozenset[str], decision: Decision | None, max_utilisation: float
) -> dict[str, Any]:
    """What is done when these nodes or links fail, as plain data.

    ``rate_limit_per_s``: requests a second up to which what is chosen may be used;
    ``full_accuracy_up_to_per_s``: up to which every block could run, None where none can.
    """
    if decision is None:
        return {
            "nodes": sorted(failed),
            "steps": [],
            "feasible": False,
            "violations": [],
            "full_accuracy_up_to_per_s": None,
            "classes": [],
        }
    last = decision.chosen[-1]
    whole = [c for c in decision.candidates if c.step.technique == "repartition"]
    limits = [c.step.capacity_per_s * max_utilisation for c in whole]
    return {
        **decision_report(bundle, decision),
        "violations": sorted(last.problems),
        "gap_ms": round(decision.chosen[0].step.downtime_ms, 2),
        "rate_limit_per_s": round(last.step.capacity_per_s * max_utilisation, 1),
        "full_accuracy_up_to_per_s": round(max(limits), 1) if limits else None,
        "classes": [class_routes_report(bundle, routes) for routes in decision.classes_at(-1)],
    }


def single_point(decisions: Decisions, nodes: Collection[str]) -> tuple[str, str] | None:
    """The node most worth backing up, and why: its loss alone would do real harm.

    None where every node may fail without a threshold being broken.
    """
    worst: tuple[float, str, str] | None = None
    for node in nodes:
        decision = decisions.get(frozenset({node}))
        if decision is None:
            harm, problem = float("inf"), "nothing could serve without it"
        elif not decision.chosen[-1].feasible:
            problems = decision.chosen[-1].problems
            harm, problem = sum(problems.values()), f"its loss would break {_names(problems)}"
        else:
            continue
        if worst is None or harm > worst[0]:
            worst = (harm, node, problem)
    return worst[1:] if worst is not None else None


def single_point_events(decisions: Decisions, nodes: Collection[str]) -> list[Event]:
    """Say which box to back up first, where there is one."""
    found = single_point(decisions, nodes)
    if found is None:
        return []
    return [Event("single_point_of_failure", dict(zip(("node", "problem"), found, strict=True)))]


def plan_events(
    base: Candidate,
    decisions: Decisions,
    routes: Collection[ClassRoutes],
    nodes: Collection[str],
) -> list[Event]:
    """What is to be said, in advance too, when a plan comes into force."""
    return [
        *violation_events(base, decisions),
        *class_events(routes),
        *single_point_events(decisions, nodes),
    ]


def warnings(
    base: Candidate | None,
    routes: Collection[ClassRoutes],
    decisions: Decisions,
    nodes: Collection[str],
    broken: Collection[str],
) -> list[str]:
    """What an operator should know although requests are answered, a sentence each."""
    found = []
    if base is not None and not base.feasible:
        found.append(f"no plan meets the objectives: this one breaks {_names(base.problems)}")
    point = single_point(decisions, nodes)
    if point is not None:
        found.append(f"back up {point[0]} first: {point[1]}")
    for each in routes:
        if each.problem:
            found.append(f"class {each.name} has no second route: {each.problem}")
        own = {key for candidate in each.own for key in candidate.problems}
        if own:
            found.append(f"class {each.name} breaks {_names(own)}")
    found += [f"{link.replace('>', ' cannot reach ')}; routes avoid it" for link in sorted(broken)]
    return found


def _names(problems: Collection[str]) -> str:
    return ", ".join(sorted(problems))
