"""Events as operators read them: a line each, and as ``journalctl -o json`` hands them back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from continuer.event_fields import FIELDS
from continuer.events import EVENTS, journal_name

# On every line; the rest is an event's own.
COMMON = ("timestamp", "level", "event", "role", "cursor", "host")
COLOURS = {"warning": "33", "error": "31", "critical": "31;1"}
NUMERIC = ("ms", "MiB", "count", "number", "fraction", "1/s")
LISTS = ("names", "keys")


def concerns(event: Mapping[str, Any], *, failures: bool, node: str | None) -> bool:
    """Whether an event is asked for: part of a failure's story, and about that node."""
    kind = EVENTS.get(str(event["event"]))
    if failures and not (kind is not None and kind.failure):
        return False
    return node is None or node == event.get("node") or node in (event.get("nodes") or ())


def line(event: Mapping[str, Any], *, colour: bool) -> str:
    """An event for people: when, how bad, what, and its fields."""
    name, level = str(event["event"]), str(event["level"])
    head = f"{level:<8} {name}"
    if colour and level in COLOURS:
        head = f"\033[{COLOURS[level]}m{head}\033[0m"
    fields = [f"{key}={_shown(value)}" for key, value in event.items() if key not in COMMON]
    return " ".join([str(event["timestamp"]), head, *fields])


def wants_colour(stream: TextIO) -> bool:
    """A terminal, unless its user has set NO_COLOR (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return json.dumps(value)
    text = "-" if value is None else str(value)
    # What a daemon says of a stranger may hold the stranger's bytes: no escapes to a terminal.
    text = "".join(c if c.isprintable() else "?" for c in text)
    return json.dumps(text, ensure_ascii=False) if " " in text else text


def from_journald(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """An entry of ``journalctl -o json`` in the form of our lines of JSON; None for others'."""
    name = entry.get("CONTINUER_EVENT")
    kind = EVENTS.get(name) if isinstance(name, str) else None
    if name is None or kind is None:
        return None
    moment = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, timezone.utc)
    event: dict[str, Any] = {
        "event": name,
        "level": kind.level,
        "timestamp": moment.isoformat().replace("+00:00", "Z"),
        "role": entry.get("ROLE", ""),
        "host": entry.get("_HOSTNAME", ""),
    }
    if "nodes" not in kind.fields and isinstance(entry.get("NODE"), str):
        event["node"] = entry["NODE"]
    for field in sorted(kind.fields - event.keys()):
        event[field] = _value(field, entry.get(journal_name(field)))
    return event


def _value(field: str, found: Any) -> Any:
    unit = FIELDS[field].unit
    if unit in LISTS:
        return [] if found is None else found if isinstance(found, list) else [found]
    if unit in NUMERIC and isinstance(found, str):
        try:
            return json.loads(found)
        except ValueError:
            return found
    return found
