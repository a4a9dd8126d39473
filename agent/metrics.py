"""What an agent tells Prometheus and health checks, read from the counters that it keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from continuer.journal import Journal
from continuer.metrics import (
    DEGRADED,
    EventCounts,
    Family,
    Health,
    MetricsServer,
    common,
    counter,
    gauge,
    hung,
    new_registry,
)
from continuer.notify import Pulse
from continuer.plan import Version


class Sight(msgspec.Struct, frozen=True):
    """An agent at one moment; totals count since it started.

    ``technique``: of the plan in force, None while there is none.
    """

    joined: bool
    technique: str | None
    version: Version
    failed_nodes: int
    accepted: int
    answered: int
    failed: int
    refused: int
    resent: int
    inflight: int
    stages: int
    foreign: int
    parts: int
    rss_bytes: int


def health(sight: Sight, hanging: list[str]) -> Health:
    """How the agent is. Without the coordinator it goes on answering, but nobody watches."""
    ready = sight.technique is not None and not hanging
    degraded = sight.technique in DEGRADED or (sight.technique is not None and not sight.joined)
    if hanging:
        return Health(False, False, degraded, "hangs", f"hangs: {', '.join(hanging)}")
    if sight.technique is None:
        return Health(True, False, degraded, "waiting", "no plan yet; is the coordinator up?")
    if not sight.joined:
        problem = "no link to the coordinator: the plan held is obeyed, failures are not answered"
        return Health(True, ready, degraded, "unwatched", problem)
    if degraded:
        problem = f"{sight.technique}: answers are less accurate"
        return Health(True, ready, degraded, "degraded", problem)
    return Health(True, ready, degraded, "full")


def families(sight: Sight, health: Health, events: EventCounts) -> list[Family]:
    """Everything that is counted or measured."""
    outcomes = [(("answered",), sight.answered), (("failed",), sight.failed)]
    return [
        *common("agent", health),
        events.family(),
        gauge("continuer_joined", "1 while the coordinator is heard.", sight.joined),
        gauge("continuer_plan_term", "Term of the plan obeyed.", sight.version.term),
        gauge("continuer_plan_number", "Number of that plan in its term.", sight.version.number),
        gauge("continuer_nodes_failed", "Nodes the plan does without.", sight.failed_nodes),
        counter(
            "continuer_requests_accepted_total", "Requests taken in from clients.", sight.accepted
        ),
        Family(
            "continuer_requests_finished_total",
            "counter",
            "Requests that came in here and have their outcome.",
            outcomes,
            ("outcome",),
        ),
        counter("continuer_requests_refused_total", "Requests turned away at once.", sight.refused),
        counter("continuer_requests_resent_total", "Requests sent anew.", sight.resent),
        gauge("continuer_requests_inflight", "Requests without an outcome.", sight.inflight),
        counter("continuer_stages_total", "Stages of requests run here.", sight.stages),
        counter("continuer_foreign_messages_total", "Messages dropped.", sight.foreign),
        gauge("continuer_parts_loaded", "Parts of the model in memory.", sight.parts),
        gauge("continuer_resident_memory_bytes", "Resident memory.", sight.rss_bytes),
    ]


def serve(
    address: str | None, journal: Journal, look: Callable[[], Sight], pulses: Sequence[Pulse]
) -> MetricsServer | None:
    """Answer at ``address``, if there is one. Raises ConfigError where that cannot be."""
    if address is None:
        return None
    events = EventCounts()
    journal.listeners.append(events)

    def well(sight: Sight) -> Health:
        return health(sight, hung(pulses, time.monotonic_ns()))

    def collect() -> list[Family]:
        sight = look()
        return families(sight, well(sight), events)

    server = MetricsServer(address, lambda: well(look()), collect, new_registry(address))
    server.start()
    return server
