"""How events are written; which ones there are is listed in ``continuer/events.py``.

In a service of systemd's each event is an entry of the journal with fields of its own
(``continuer/journald.py``); elsewhere one line of JSON on standard error.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import structlog

from continuer import journald
from continuer.events import EVENTS, Event, Kind

__all__ = ["EVENTS", "Event", "Journal", "Kind"]

Listener = Callable[[str, Kind, dict[str, Any]], None]


class Journal:
    """Writes events; ``bound`` fields (role, node) go on every line.

    ``listeners`` hear of every event before it is written: counters, the ring that the
    coordinator tells from. They must be quick, and are called by whichever thread emits.
    """

    def __init__(self, **bound: Any) -> None:
        self.listeners: list[Listener] = []
        self._least = logging.INFO
        native = journald.ToJournald(journald.make_send(), _message_id)
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                *([native] if journald.reaches() else []),
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
        for listener in self.listeners:
            listener(name, kind, fields)
        if logging.getLevelName(kind.level.upper()) >= self._least:
            getattr(self._log, kind.level)(name, **fields)

    def set_level(self, level: str) -> None:
        """Write only events of this level (``info``, ``warning``, ``error``, ...) and above.

        Listeners hear of all of them.
        """
        self._least = logging.getLevelName(level.upper())

    def write(self, event: Event) -> None:
        """Write an event that deciding code returned."""
        self.emit(event.name, **event.fields)


def _message_id(name: str) -> str | None:
    return EVENTS[name].message_id
