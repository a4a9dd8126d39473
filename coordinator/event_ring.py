"""The coordinator's latest events, for operators who sit elsewhere (``continuer logs``).

A reader keeps a cursor and asks for what came after it: nothing here knows who reads, a slow
reader holds nothing up, and one that comes too late is told how many events it has missed.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Callable
from datetime import datetime, timezone
from itertools import islice
from typing import Any

from continuer.events import Kind

MAX_EVENTS = 2000
MAX_BYTES = 4 << 20
# What one answer holds; the cap of a control message is 1 MiB.
MAX_ANSWER_BYTES = 256 << 10


def utc_now() -> str:
    """The time of day in the form that the journal's lines have."""
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


class EventRing:
    """Bounded in number and bytes; the oldest go first.

    ``life`` tells this coordinator from its predecessors: their cursors mean nothing here.
    """

    def __init__(
        self,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], str] = utc_now,
    ) -> None:
        self.life = uuid.uuid4().hex[:12]
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: deque[tuple[dict[str, Any], int]] = deque()
        self._bytes = 0
        self._next = 0

    def add(self, name: str, kind: Kind, fields: dict[str, Any]) -> None:
        """Keep an event, in the form of the journal's lines of JSON. A ``Journal`` listener."""
        own = {"event": name, "level": kind.level, "timestamp": self._clock()}
        text = json.dumps({**fields, **own, "role": "coordinator"}, default=str)
        self._kept.append((json.loads(text), len(text)))
        self._bytes += len(text)
        self._next += 1
        while len(self._kept) > self._max_events or self._bytes > self._max_bytes:
            self._bytes -= self._kept.popleft()[1]

    def since(self, life: object, cursor: object) -> dict[str, Any]:
        """Events from a cursor on, oldest first; from the oldest for another life's cursor.

        ``cursor`` of the answer is where to go on, ``missed`` how many events had been dropped
        before they could be told, ``more`` whether others wait already.
        """
        oldest = self._next - len(self._kept)
        begin = oldest
        if life == self.life and isinstance(cursor, int):
            begin = min(max(cursor, 0), self._next)
        start = max(begin, oldest)
        told: list[dict[str, Any]] = []
        size = 0
        for event, length in islice(self._kept, start - oldest, None):
            if told and size + length > MAX_ANSWER_BYTES:
                break
            told.append(event)
            size += length
        end = start + len(told)
        return {
            "schema": 1,
            "life": self.life,
            "cursor": end,
            "missed": start - begin,
            "more": end < self._next,
            "events": told,
        }
