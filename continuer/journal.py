"""The events that CONTINUER reports, by name and field, and how they are written.

One line of JSON per event on standard error, which systemd puts in the journal. Names and
fields are a public interface: operators alert on them. Anything not listed in ``EVENTS``
cannot be emitted.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import msgspec
import structlog


class Event(msgspec.Struct, frozen=True):
    """An event as deciding code returns it; the shell writes it with ``Journal.emit``."""

    name: str
    fields: dict[str, Any]


class Kind(msgspec.Struct, frozen=True):
    """Level, fields and meaning of an event."""

    level: str
    fields: frozenset[str]
    meaning: str


def _kind(level: str, fields: str, meaning: str) -> Kind:
    return Kind(level, frozenset(fields.split()), meaning)


EVENTS: dict[str, Kind] = {
    # both daemons
    "daemon_started": _kind(
        "info", "role endpoints bundle version realtime", "The daemon listens."
    ),
    "daemon_stopped": _kind("info", "role reason", "The daemon ends on purpose."),
    "foreign_bytes": _kind("warning", "socket problem dropped", "Bytes that are no message."),
    # agent
    "joined": _kind("info", "coordinator", "The coordinator has taken this agent in."),
    "join_refused": _kind("error", "code problem", "The coordinator turned this agent away."),
    "coordinator_lost": _kind("warning", "coordinator", "No link to it; work goes on."),
    "parts_loaded": _kind("info", "parts load_ms rss_mib", "Parts came into memory."),
    "parts_failed": _kind("error", "parts problem", "Parts could not be loaded."),
    "plan_accepted": _kind("info", "version technique failed replayed", "A plan is in force here."),
    "plan_refused": _kind("warning", "version held problem", "A plan was not put in force."),
    "peer_unreachable": _kind("warning", "peer dropped", "Work for a peer could not be sent."),
    "request_failed": _kind("warning", "code problem attempt", "A request got an error."),
    # coordinator
    "node_joined": _kind("info", "node incarnation", "A node asks for work."),
    "node_refused": _kind("error", "node code problem", "A node was turned away."),
    "node_suspect": _kind("warning", "node reason silence_ms", "A node is avoided for now."),
    "node_dead": _kind("error", "node reason", "A node is held dead."),
    "node_trusted": _kind("info", "node suspect_ms", "A suspect node is heard again."),
    "node_returned": _kind("info", "node", "A node was taken back in."),
    "node_left": _kind("info", "node", "A node stopped on purpose."),
    "observer_late": _kind("warning", "late_ms", "We stalled ourselves; nobody is suspected."),
    "suspicion_held": _kind("warning", "nodes", "Most fell silent at once; we wait a moment."),
    "plan_formed": _kind(
        "info", "version technique nodes accuracy latency_ms capacity_per_s", "A plan is in force."
    ),
    "failover": _kind(
        "error",
        "version nodes technique exit accuracy latency_ms downtime_ms why",
        "Nodes failed; another way of computing is in force.",
    ),
    "healed": _kind("info", "version nodes technique accuracy latency_ms", "The best is in force."),
    "objectives_changed": _kind("info", "changed", "The operator has set other objectives."),
    "node_draining": _kind("info", "node", "A node's work moves elsewhere, by order."),
    "node_resumed": _kind("info", "node", "A drained node may work again."),
    "no_plan": _kind("critical", "nodes problem", "The survivors cannot serve."),
    "objectives_violated": _kind(
        "warning", "nodes technique violations", "No candidate meets the thresholds."
    ),
    "technique_fell_back": _kind(
        "warning", "nodes forced technique", "The forced technique is impossible here."
    ),
    "failover_told": _kind(
        "info",
        "version nodes silence_ms detect_ms decide_ms tell_ms replayed",
        "Every survivor has acknowledged.",
    ),
}  # fmt: skip


class Journal:
    """Writes events; ``bound`` fields (role, node) go on every line."""

    def __init__(self, **bound: Any) -> None:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
            cache_logger_on_first_use=True,
        )
        self._log = structlog.get_logger(**bound)

    def emit(self, name: str, /, **fields: Any) -> None:
        """Write one event. Raises ValueError for a name or fields not in ``EVENTS``."""
        kind = EVENTS.get(name)
        if kind is None or kind.fields != fields.keys():
            wanted = sorted(kind.fields) if kind else "a name in EVENTS"
            raise ValueError(f"event {name!r} with {sorted(fields)}: expected {wanted}")
        getattr(self._log, kind.level)(name, **fields)

    def write(self, event: Event) -> None:
        """Write an event that deciding code returned."""
        self.emit(event.name, **event.fields)
