"""Steps, decisions and request classes as the CLI's JSON shows them. Pure functions."""

from __future__ import annotations

from typing import Any

import msgspec

from continuer.bundle import Bundle
from continuer.objectives import Objectives
from continuer.plan import Step
from coordinator.commands import feasible_first
from coordinator.planner import ClassRoutes, Decision


def step_report(bundle: Bundle, step: Step, sources: dict[str, str]) -> dict[str, Any]:
    """A step as the CLI's JSON shows it; ``sources`` says what was measured and what was not."""
    return {
        "technique": step.technique,
        "exit": step.exit,
        "accuracy": step.reported_accuracy,
        "latency_ms": round(step.latency_ms, 3),
        "capacity_per_s": round(step.capacity_per_s, 1),
        **sources,
        "route": [
            {"node": hop.node, "parts": [bundle.part_names[part] for part in hop.parts]}
            for hop in step.route
        ],
    }


def class_report(objectives: Objectives, redundancy: int) -> dict[str, Any]:
    """A request class's objectives and redundancy, as the CLI's JSON shows them."""
    return {**msgspec.to_builtins(objectives), "redundancy": redundancy}


def class_routes_report(bundle: Bundle, routes: ClassRoutes) -> dict[str, Any]:
    """What is done for a request class; no routes of its own: it goes by the plan's."""
    return {
        "class": routes.name,
        "routes": [step_report(bundle, c.step, c.sources) for c in routes.own],
        "masked": routes.second is not None,
        "problem": routes.problem,
    }


def decision_report(bundle: Bundle, decision: Decision) -> dict[str, Any]:
    """What is decided for a failure set, and what it was chosen from."""
    return {
        "nodes": list(decision.failed),
        "steps": [step_report(bundle, c.step, c.sources) for c in decision.chosen],
        "feasible": decision.chosen[-1].feasible,
        "why": decision.why,
        "candidates": [c.report() for c in feasible_first(decision.candidates)],
    }
