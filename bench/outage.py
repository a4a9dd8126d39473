"""Outage campaigns: many demos, every position, SIGKILL, SIGSTOP, a cut cable; resumable.

Each run is a whole ``continuer demo --json``, or the like of it on hosts of their own
(``link_down``): a fresh cluster, the client's raw log, every
answer checked against the oracle. Reports are appended to a file, so that a campaign can be
interrupted and continued; the raw logs of the worst runs are kept.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import link_down
from continuer.demo.cluster import program

KEPT_LOGS = 3
NODES = ("n1", "n2", "n3", "n4", "n5")
LINK_DOWN = "link_down"
ACCURACIES = ("before", "degraded", "healed")
SPLIT = ("silence_ms", "detect_ms", "decide_ms", "tell_ms", "first_good_answer_ms")


def campaign(
    directory: Path,
    *,
    positions: Sequence[str],
    faults: Sequence[str],
    runs: int,
    options: Sequence[str] = (),
    until_s: float = math.inf,
) -> None:
    """Fill the campaign's file up to ``runs`` per position and fault, interleaved.

    ``until_s``: of the monotonic clock; no run begins after it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    results = directory / "runs.jsonl"
    done = [(r["node"], r["fault"]) for r in read(results)]
    for index in range(runs):
        for fault in faults:
            for node in positions:
                if done.count((node, fault)) > index:
                    continue
                if time.monotonic() > until_s:
                    return
                record = one(directory, node, fault, index, options)
                with results.open("a") as log:
                    log.write(json.dumps(record) + "\n")
                print(node, fault, record["exit_code"], record.get("outage_ms"), file=sys.stderr)
                drop_all_but_worst(directory, results)


def one(
    directory: Path, node: str, fault: str, index: int, options: Sequence[str]
) -> dict[str, Any]:
    """One demo, condensed."""
    raw_log = directory / f"{node}-{fault}-{index}.raw.jsonl"
    if fault == LINK_DOWN:
        code, report = link_down.run(raw_log, list(NODES), node, index)
        record: dict[str, Any] = {"node": node, "fault": fault, "exit_code": code}
    else:
        ended = subprocess.run(  # our own program
            [
                *program("continuer"),
                *("demo", "--json", "--seconds", "6", "--kill", node, "--fault", fault),
                *("--seed", str(index), "--raw-log", str(raw_log), *options),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        record = {"node": node, "fault": fault, "exit_code": ended.returncode}
        if not ended.stdout.strip():
            return {**record, "problem": ended.stderr[-500:]}
        report = json.loads(ended.stdout)
    failover = report["failovers"][0]
    return {
        **record,
        "raw_log": raw_log.name,
        "requests": report["requests"],
        "outage_ms": failover["outage_ms"],
        **{key: failover[key] for key in SPLIT},
        "replayed": failover["replayed"],
        "steps": failover["steps"],
        "accuracy": report["accuracy"],
        "latency_ms": report["latency_ms"],
    }


def read(results: Path) -> list[dict[str, Any]]:
    """The runs so far."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines()]


def drop_all_but_worst(directory: Path, results: Path) -> None:
    """Keep the raw logs of the worst runs of each fault, and of every run that failed."""
    records = read(results)
    keep = {r["raw_log"] for r in records if r["exit_code"] and "raw_log" in r}
    for fault in {r["fault"] for r in records}:
        measured = [r for r in records if r["fault"] == fault and "raw_log" in r]
        worst = sorted(measured, key=outage_of)[-KEPT_LOGS:]
        keep |= {r["raw_log"] for r in worst}
    for path in directory.glob("*.raw.jsonl"):
        if path.name not in keep:
            path.unlink()


def outage_of(record: dict[str, Any]) -> float:
    """A run's outage; infinite where it did not end."""
    value = record.get("outage_ms")
    return math.inf if value is None else float(value)


def summary(directory: Path) -> dict[str, Any]:
    """Per fault: n, worst position, percentiles, what was lost; and per position."""
    records = read(directory / "runs.jsonl")
    return {
        fault: summarise([r for r in records if r["fault"] == fault])
        for fault in sorted({r["fault"] for r in records})
    }


def summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of the runs of one fault."""
    positions = sorted({r["node"] for r in records})
    each = {p: figures([r for r in records if r["node"] == p]) for p in positions}
    worst = max(positions, key=lambda p: each[p]["p99_ms"])
    return {**figures(records), "worst_position": worst, "positions": each}


def figures(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Outage percentiles, totals, and the medians of the split."""
    outages = [outage_of(r) for r in records]
    return {
        "n": len(records),
        "passed": sum(r["exit_code"] == 0 for r in records),
        "p50_ms": round(statistics.median(outages), 2),
        "p99_ms": high(outages),
        "max_ms": round(max(outages), 2),
        **{key: total(records, key) for key in ("sent", "lost", "wrong", "duplicate", "error")},
        "split_p50": {
            key: median([r[key] for r in records if r.get(key) is not None]) for key in SPLIT
        },
        "accuracy": {when: mean_accuracy(records, when) for when in ACCURACIES},
        "latency_p50_ms": median([r["latency_ms"]["p50"] for r in records if "latency_ms" in r]),
    }


def plan_figures(directory: Path) -> dict[str, Any]:
    """From the coordinator's judgement to the last acknowledgement, and the decision in it."""
    measured = [r for r in read(directory / "runs.jsonl") if r.get("tell_ms") is not None]
    if not measured:
        return {"detect_to_last_ack_p99_ms": None, "decide_p99_ms": None, "n": 0}
    acknowledged = [r["decide_ms"] + r["tell_ms"] for r in measured]
    return {
        "n": len(measured),
        "detect_to_last_ack_p50_ms": median(acknowledged),
        "detect_to_last_ack_p99_ms": high(acknowledged),
        "decide_p99_ms": high([r["decide_ms"] for r in measured]),
    }


def high(values: Sequence[float]) -> float:
    """The 99th percentile, a value that was measured: with fewer than a hundred, the largest.

    Between a finite outage and an infinite one lies nothing.
    """
    return round(float(np.percentile(values, 99, method="higher")), 3)


def total(records: Iterable[dict[str, Any]], key: str) -> int:
    """Sum of a count over the runs."""
    return sum(r["requests"][key] for r in records if "requests" in r)


def mean_accuracy(records: Iterable[dict[str, Any]], when: str) -> float | None:
    """Mean share of right answers over the runs in which there were such answers."""
    found = [r["accuracy"][when] for r in records if "accuracy" in r]
    known = [accuracy for accuracy in found if accuracy is not None]
    return round(statistics.mean(known), 4) if known else None


def median(values: list[float]) -> float | None:
    """Median, or None of nothing."""
    return round(statistics.median(values), 3) if values else None
