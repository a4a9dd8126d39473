"""What the coordinator tells Prometheus and health checks, read from its status."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from continuer.events import Kind
from continuer.journal import Journal
from continuer.metrics import (
    EventCounts,
    Family,
    Health,
    MetricsServer,
    common,
    gauge,
    hung,
    new_registry,
)
from continuer.notify import Pulse

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

MIB = 1 << 20
TRIES = 5
TECHNIQUES = ("none", "repartition", "early_exit", "skip", "mixed")
STATES = ("absent", "joined", "active", "suspect", "dead", "left", "draining", "drained")
# Of a failover: from the last sign of life to the last acknowledgement.
OUTAGE_BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


def health(state: Mapping[str, Any], hanging: list[str]) -> Health:
    """How the cluster is. ``state``: as ``coordinator/status.py`` says it, in brief."""
    word = state["health"]
    ready = word in ("full", "reduced", "degraded")
    problem = {
        "full": "",
        "reduced": "a node is missing; accuracy is full",
        "degraded": "blocks are left out: answers are less accurate",
        "isolated": "no node is heard",
        "no_plan": "the nodes that are here cannot serve",
    }[word]
    if hanging:
        problem = f"hangs: {', '.join(hanging)}"
    return Health(not hanging, ready and not hanging, word == "degraded", word, problem)


def families(state: Mapping[str, Any], health: Health, events: EventCounts) -> list[Family]:
    """Everything that is counted or measured; at most a few samples a configured node."""
    plan = state["plan"]
    term, _, number = state["version"].partition(".")
    technique = plan["technique"] if plan else None
    return [
        *common("coordinator", health),
        events.family(),
        gauge("continuer_plan_term", "Term of the plan in force.", int(term)),
        gauge("continuer_plan_number", "Number of the plan in force within its term.", int(number)),
        Family(
            "continuer_plan_technique",
            "gauge",
            "1 for the technique in force.",
            [((name,), name == technique) for name in TECHNIQUES],
            ("technique",),
        ),
        *(_plan(plan) if plan else ()),
        gauge("continuer_request_rate", "Requests a second that arrive.", state["rate_per_s"]),
        *_nodes(state["nodes"]),
    ]


def _plan(plan: Mapping[str, Any]) -> list[Family]:
    found = [
        gauge(
            "continuer_plan_latency_seconds",
            "Predicted latency of a request.",
            plan["latency_ms"] / 1000,
        ),
        gauge(
            "continuer_plan_capacity",
            "Requests a second that the plan can answer.",
            plan["capacity_per_s"],
        ),
    ]
    if plan["accuracy"] is not None:
        meaning = "Share of right answers to expect."
        found.append(gauge("continuer_plan_accuracy_ratio", meaning, plan["accuracy"]))
    return found


def _nodes(nodes: list[Mapping[str, Any]]) -> list[Family]:
    states = Counter(node["state"] for node in nodes)
    present = [node for node in nodes if node["incarnation"] is not None]

    def each(of: list[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float]) -> Any:
        return [((node["node"],), value(node)) for node in of]

    label = ("node",)
    up = each(nodes, lambda node: node["state"] in ("active", "joined", "draining", "drained"))
    return [
        Family(
            "continuer_nodes",
            "gauge",
            "Nodes by state.",
            [((name,), states[name]) for name in STATES],
            ("state",),
        ),
        Family("continuer_node_up", "gauge", "1 while a node is heard.", up, label),
        Family(
            "continuer_node_requests_accepted_total",
            "counter",
            "Requests that a node has accepted from clients since it started.",
            each(present, lambda node: node["accepted"]),
            label,
        ),
        Family(
            "continuer_node_stages_total",
            "counter",
            "Stages of requests that a node has run since it started.",
            each(present, lambda node: node["done"]),
            label,
        ),
        Family(
            "continuer_node_requests_queued",
            "gauge",
            "Requests that came in through a node and have no outcome yet.",
            each(present, lambda node: node["queued"]),
            label,
        ),
        Family(
            "continuer_node_resident_memory_bytes",
            "gauge",
            "Resident memory of a node's agent.",
            each(present, lambda node: node["rss_mib"] * MIB),
            label,
        ),
        Family(
            "continuer_node_silence_seconds",
            "gauge",
            "Time since a node was last heard.",
            each(present, lambda node: node["silence_ms"] / 1000),
            label,
        ),
    ]


class Outages:
    """Distribution of what failovers took; a listener of ``Journal``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Histogram

        self._seconds = Histogram(
            "continuer_failover_outage_seconds",
            "From the last sign of life of a failed node to the last acknowledgement.",
            buckets=OUTAGE_BUCKETS_S,
            registry=registry,
        )

    def __call__(self, name: str, kind: Kind, fields: Mapping[str, Any]) -> None:
        """Note a failover that every survivor has acknowledged."""
        del kind
        if name == "failover_told":
            self._seconds.observe(fields["outage_ms"] / 1000)


def serve(
    address: str | None,
    journal: Journal,
    state: Callable[[], Mapping[str, Any]],
    pulses: Sequence[Pulse],
) -> MetricsServer | None:
    """Answer at ``address``, if there is one. ``state``: the status in brief, from any thread.

    Raises ConfigError where that cannot be.
    """
    if address is None:
        return None
    registry = new_registry(address)
    events = EventCounts()
    journal.listeners += [events, Outages(registry)]

    def now() -> tuple[Mapping[str, Any], Health]:
        found = steady(state)
        return found, health(found, hung(pulses, time.monotonic_ns()))

    def collect() -> list[Family]:
        found, well = now()
        return families(found, well, events)

    server = MetricsServer(address, lambda: now()[1], collect, registry)
    server.start()
    return server


def steady(state: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """The status, read beside the thread that changes it: a table that grows is read again."""
    for _ in range(TRIES):
        try:
            return state()
        except RuntimeError:  # changed size during iteration
            continue
    return state()
