"""What the coordinator says of itself: plan, nodes, contingencies, failovers, as plain data."""

from __future__ import annotations

from typing import Any

import msgspec

from coordinator.commands import MS, NodeRecord
from coordinator.core import Coordinator
from coordinator.explain import warnings
from coordinator.reports import class_routes_report, decision_report, step_report

MIB = 1 << 20


def status(core: Coordinator, now: int, *, brief: bool) -> dict[str, Any]:
    """The whole state, for ``continuer status``. ``now``: ns of the coordinator's clock.

    ``brief`` leaves the contingencies out, which are nine tenths of the work.
    """
    return {
        "schema": 1,
        "cluster": core.config.cluster,
        "deployment": core.config.deployment,
        "model": core.bundle.name,
        "model_version": core.bundle.manifest.version,
        "bundle": core.bundle.hash.hex(),
        "health": health(core),
        "version": str(core.version),
        "clock_ns": now,
        "rate_per_s": round(core.planning.rate.per_s, 1),
        "objectives": msgspec.to_builtins(core.planning.objectives),
        "plan": _in_force(core),
        "predictions": core.planning.table.report(),
        "classes": [class_routes_report(core.bundle, r) for r in core.planning.routes],
        "warnings": _warnings(core),
        "nodes": [_node(core, node, now) for node in core.membership.nodes.values()],
        "contingencies": []
        if brief
        else [decision_report(core.bundle, d) for d in core.decisions.values()],
        "failovers": [failover.report() for failover in core.failovers],
    }


def health(core: Coordinator) -> str:
    """``full``, ``reduced`` (full accuracy, but without some node), ``degraded``, ``no_plan``.

    ``isolated``: no node is heard, so nobody here knows.
    """
    if core.membership.isolated:
        return "isolated"
    if core.step is None or core.plan is None:
        return "no_plan"
    lost = {n.name for n in core.membership.nodes.values() if not n.live}
    if lost & core.step.nodes:
        return "no_plan"
    if core.step.technique in ("early_exit", "skip", "mixed"):
        return "degraded"
    # A node that is back is missing until it has its blocks again.
    return "full" if core.step.technique == "none" and not lost else "reduced"


def _warnings(core: Coordinator) -> list[str]:
    planning = core.planning
    base = planning.settled_candidate(core.target) if core.target is not None else None
    # While something is failed, what is prepared is for the time before that.
    decisions = {} if core.failed else core.decisions
    nodes = [] if core.failed else [node.name for node in planning.usable()]
    return warnings(base, planning.routes, decisions, nodes, planning.broken)


def _in_force(core: Coordinator) -> dict[str, Any] | None:
    if core.step is None:
        return None
    return step_report(core.bundle, core.step, core.planning.sources(core.step))


def _node(core: Coordinator, node: NodeRecord, now: int) -> dict[str, Any]:
    watched = node.live
    return {
        "node": node.name,
        "state": _state(node),
        "reason": node.reason if not node.live else "",
        "incarnation": node.member.incarnation if node.member else None,
        "ingress": node.member.ingress if node.member else None,
        "data": node.member.data if node.member else None,
        "answers": node.member.answers if node.member else None,
        "parts_loaded": len(node.loaded),
        "accepted": node.accepted,
        "done": node.done,
        "queued": node.queued,
        "rss_mib": round(node.rss_bytes / MIB, 1),
        "local_repairs": node.repairs,
        "silence_ms": round(core.membership.detector.silence_ns(node.name, now) / MS, 1),
        "timeout_ms": round(core.membership.detector.timeout_ns(node.name) / MS, 1)
        if watched
        else None,
        "beacons": core.membership.beacons_come(node.name, now) if watched else None,
    }


def _state(node: NodeRecord) -> str:
    """The node's state, and what has become of an order to drain it."""
    if not node.drained or not node.live:
        return node.state
    return "draining" if node.state == "active" else "drained"
