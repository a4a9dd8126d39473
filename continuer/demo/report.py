"""The account of a demo run: from raw log, coordinator's record and oracle to figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from continuer.bundle import Bundle
from continuer.outage import Fault, RawLog, RequestRecord, outage_ms
from continuer.runtime import PathRunner

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

DEGRADED = ("early_exit", "skip", "mixed")
# The oracle runs the same parts on the same machine: any difference at all would be rounding.
TOLERANCE = 1e-4
MS = 1e6


class Oracle:
    """Runs the path of an answer in one process and compares."""

    def __init__(self, bundle: Bundle, inputs: Sequence[Array | list[Array]]) -> None:
        self._bundle = bundle
        self._runner = PathRunner(bundle)
        self._inputs = inputs
        self._known: dict[tuple[int, tuple[str, ...]], Array] = {}

    def agrees(self, record: RequestRecord) -> bool:
        """True where the answer equals the oracle's for its path, and its tag fits the path."""
        left_out = self._bundle.variant_of(record.path) != (None, ())
        if left_out != (record.technique in DEGRADED):
            return False
        key = (record.image, record.path)
        if key not in self._known:
            sent = self._inputs[record.image]
            tensors = sent if isinstance(sent, list) else [sent]
            self._known[key] = self._runner.run(record.path, tensors)[0]
        logits = np.frombuffer(bytes.fromhex(record.logits), np.float32)
        wanted = self._known[key].reshape(-1)
        return logits.shape == wanted.shape and bool(
            np.allclose(logits, wanted, rtol=0, atol=TOLERANCE)
        )


def good_seqs(oracle: Oracle, requests: Iterable[RequestRecord]) -> set[int]:
    """Requests whose answer equals the oracle's."""
    return {r.seq for r in requests if r.outcome == "ok" and oracle.agrees(r)}


def count(requests: Sequence[RequestRecord], good: set[int]) -> dict[str, int]:
    """Requests by outcome. ``full``: every block ran, wherever."""
    ok = [r for r in requests if r.outcome == "ok"]
    return {
        "sent": len(requests),
        "full": sum(r.technique not in DEGRADED for r in ok),
        "degraded": sum(r.technique in DEGRADED for r in ok),
        "error": sum(r.outcome == "error" for r in requests),
        "lost": sum(r.outcome == "lost" for r in requests),
        "duplicate": sum(r.outcomes > 1 for r in requests),
        "wrong": sum(r.seq not in good for r in ok),
    }


def accuracy(requests: Iterable[RequestRecord]) -> float | None:
    """Share of right labels; None without labelled answers."""
    labelled = [r for r in requests if r.outcome == "ok" and r.label is not None]
    return sum(r.answer == r.label for r in labelled) / len(labelled) if labelled else None


def version_of(text: str | None) -> tuple[int, int]:
    """``"3.14"`` as numbers that compare."""
    term, _, number = (text or "0.0").partition(".")
    return int(term), int(number)


#: What the report says of a candidate; the coordinator says more, and may say more still.
CANDIDATE = (
    *("technique", "exit", "accuracy", "latency_ms", "downtime_ms", "capacity_per_s"),
    *("feasible", "score"),
)


def failover_account(
    log: RawLog, fault: Fault, records: Sequence[dict[str, Any]], good: set[int]
) -> dict[str, Any]:
    """One entry of ``failovers``. Times are ms after the fault; null where not measured.

    silence: until evidence reached the coordinator; detect: until it judged; decide: until
    the plan was chosen; tell: until the last survivor had acknowledged the first step.
    """
    at_ns = fault["at_ns"]
    mine = [r for r in records if set(r["nodes"]) & set(fault["nodes"]) and r["begun_ns"] >= at_ns]
    entry: dict[str, Any] = {
        "nodes": fault["nodes"],
        "fault": fault["fault"],
        "steps": [],
        **dict.fromkeys(
            ("silence_ms", "detect_ms", "decide_ms", "tell_ms", "first_good_answer_ms")
        ),
        "outage_ms": rounded(outage_ms(log.requests, at_ns)),
        "replayed": None,
        "candidates": [],
    }
    if not mine:
        return entry
    taken = [step for record in mine for step in record["steps"]]
    entry["steps"] = [
        {
            "technique": step["technique"],
            "exit": step["exit"],
            "at_ms": rounded((step["first_ack_ns"] - at_ns) / MS) if step["first_ack_ns"] else None,
        }
        for step in taken
    ]
    entry["candidates"] = [
        {key: candidate[key] for key in CANDIDATE} for candidate in mine[-1]["candidates"]
    ]
    entry["replayed"] = sum(r["replayed"] for r in mine) + log.meta.get("moved", 0)
    first = mine[0]
    entry["silence_ms"] = rounded((min(first["evidence_ns"]) - at_ns) / MS)
    entry["detect_ms"] = rounded((first["begun_ns"] - min(first["evidence_ns"])) / MS)
    if taken and taken[0]["decided_ns"]:
        step = taken[0]
        entry["decide_ms"] = rounded((step["decided_ns"] - step["begun_ns"]) / MS, 4)
        if step["last_ack_ns"]:
            entry["tell_ms"] = rounded((step["last_ack_ns"] - step["decided_ns"]) / MS)
        began = version_of(step["version"])
        after = [
            r.done_ns - at_ns
            for r in log.requests
            if r.seq in good and r.done_ns is not None and version_of(r.version) >= began
        ]
        entry["first_good_answer_ms"] = rounded(min(after) / MS) if after else None
    return entry


def make(
    model: str, nodes: int, log: RawLog, records: Sequence[dict[str, Any]], good: set[int]
) -> dict[str, Any]:
    """The report, schema 1."""
    requests = log.requests
    ok = [r for r in requests if r.outcome == "ok" and r.done_ns is not None]
    delays = [(r.done_ns or 0) - r.intended_ns for r in ok]
    first_fault = min((f["at_ns"] for f in log.faults), default=math.inf)
    span_s = (max(r.done_ns or 0 for r in ok) - min(r.intended_ns for r in ok)) / 1e9 if ok else 0
    return {
        "schema": 1,
        "model": model,
        "nodes": nodes,
        "rate_per_s": log.meta.get("rate_per_s"),
        "requests": count(requests, good),
        "failovers": [failover_account(log, fault, records, good) for fault in log.faults],
        "accuracy": {
            "before": rounded(accuracy(r for r in ok if (r.done_ns or 0) < first_fault), 4),
            "degraded": rounded(accuracy(r for r in ok if r.technique in DEGRADED), 4),
            "healed": rounded(
                accuracy(
                    r for r in ok if r.intended_ns >= first_fault and r.technique not in DEGRADED
                ),
                4,
            ),
        },
        "latency_ms": {
            "p50": rounded(statistics.median(delays) / MS) if delays else None,
            "p99": rounded(float(np.percentile(delays, 99)) / MS) if delays else None,
        },
        "throughput_per_s": rounded(len(ok) / span_s, 1) if span_s else None,
    }


def passed(report: dict[str, Any]) -> bool:
    """Every request was answered well, and every requested failover happened."""
    requests = report["requests"]
    answered = requests["full"] + requests["degraded"]
    clean = not any(requests[key] for key in ("error", "lost", "duplicate", "wrong"))
    happened = all(f["steps"] and f["outage_ms"] is not None for f in report["failovers"])
    return clean and happened and answered == requests["sent"] > 0


def rounded(value: float | None, digits: int = 3) -> float | None:
    """Rounded; None and infinity (an outage that did not end) stay out of JSON as null."""
    return round(value, digits) if value is not None and math.isfinite(value) else None
