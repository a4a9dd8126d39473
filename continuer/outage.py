"""The outage of a fault, computed from a client's raw log alone.

A raw log is one JSON object a line: a ``meta`` line, one line per request, and one per fault.
For each request: completion minus *intended* send time minus the steady median. The outage of
a fault is the largest of these over all requests intended within 1 s around it; an error or a
missing answer counts as infinite. All times are ns of the client's monotonic clock.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from continuer.errors import UsageError

WINDOW_NS = 1_000_000_000
WARM_UP_NS = 500_000_000


class RequestRecord(msgspec.Struct, omit_defaults=True):
    """One request of a raw log. ``outcome``: ``ok``, ``error`` or ``lost`` (none at all).

    ``logits`` are float32 in hexadecimal, so that anyone can check them; ``outcomes`` counts
    how often the application was given one (more than 1 would be a duplicate). ``bundle`` is the
    beginning of the hash of the one that answered.
    """

    seq: int
    image: int
    intended_ns: int
    sent_ns: int
    done_ns: int | None = None
    outcome: str = "lost"
    outcomes: int = 0
    label: int | None = None
    answer: int | None = None
    technique: str | None = None
    exit: str | None = None
    path: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    version: str | None = None
    expected_accuracy: float | None = None
    attempts: int = 0
    logits: str = ""
    error: str = ""
    bundle: str = ""


class Fault(TypedDict):
    """One fault of a raw log: what was done to which nodes, and when."""

    fault: str
    nodes: list[str]
    at_ns: int


class RawLog(msgspec.Struct):
    """A raw log in memory."""

    meta: dict[str, Any]
    requests: list[RequestRecord]
    faults: list[Fault]


def check_writable(path: Path) -> None:
    """Raise UsageError where a raw log cannot be written: better before the run than after."""
    try:
        path.open("a").close()
    except OSError as error:
        raise UsageError(f"--raw-log {path}: {error.strerror}; give a file to write") from error


def read(path: Path) -> RawLog:
    """Read a raw log. Raises UsageError where it is none."""
    log = RawLog({}, [], [])
    try:
        for line in path.read_text().splitlines():
            raw = json.loads(line)
            if "meta" in raw:
                log.meta = msgspec.convert(raw["meta"], dict[str, Any])
            elif "fault" in raw:
                log.faults.append(msgspec.convert(raw, Fault))
            else:
                log.requests.append(msgspec.convert(raw, RequestRecord))
    except OSError as error:
        raise UsageError(f"raw log {path}: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError, msgspec.ValidationError) as error:
        raise UsageError(f"raw log {path}: not a raw log of 'continuer load': {error}") from error
    return log


def delays_ns(requests: Iterable[RequestRecord]) -> list[float]:
    """Completion minus intended send time of each request; infinite without a good answer."""
    return [
        r.done_ns - r.intended_ns if r.outcome == "ok" and r.done_ns is not None else math.inf
        for r in requests
    ]


def outage_ms(requests: list[RequestRecord], fault_ns: int) -> float | None:
    """Outage of a fault in milliseconds, by this module's definition.

    None where no request was intended around the fault or before it.
    """
    begun = min((r.intended_ns for r in requests), default=0)
    steady = [r for r in requests if begun + WARM_UP_NS <= r.intended_ns < fault_ns - WARM_UP_NS]
    near = [r for r in requests if abs(r.intended_ns - fault_ns) <= WINDOW_NS]
    if not steady or not near:
        return None
    return (max(delays_ns(near)) - statistics.median(delays_ns(steady))) / 1e6
