"""A masked class through crashes: is one felt at all? Resumable, as the outage campaigns are.

Each run is a fresh cluster of real processes; requests of a class with ``redundancy = 2`` go out at
a fixed rate, open loop; one node, each in its turn, is killed. The outage is that of
``continuer/outage.py``, beside the same client's p99 in steady state: a masked crash should cost no
more than that.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.outage import read
from continuer import load
from continuer.client import Client
from continuer.demo.cluster import Cluster
from continuer.outage import WARM_UP_NS, RequestRecord, delays_ns, outage_ms

CLASS = "alarm"
OBJECTIVES = {"class": {CLASS: {"redundancy": 2}}}
IMAGES = "cifar10-test-1000"
RATE_PER_S = 50.0
SECONDS = 6.0
KILL_AFTER_S = 3.0
BUDGET_MS = 1000.0


def campaign(
    bundle: Path,
    directory: Path,
    *,
    nodes: Sequence[str],
    runs: int,
    until_s: float = math.inf,
) -> None:
    """Fill the campaign's file up to ``runs`` per node, interleaved.

    ``until_s``: of the monotonic clock; no run begins after it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    results = directory / "runs.jsonl"
    done = [record["node"] for record in read(results)]
    for index in range(runs):
        for node in nodes:
            if done.count(node) > index:
                continue
            if time.monotonic() > until_s:
                return
            record = one(bundle, nodes, node)
            with results.open("a") as log:
                log.write(json.dumps(record) + "\n")
            print(node, record["outage_ms"], record["steady_p99_ms"], file=sys.stderr)


def one(bundle: Path, nodes: Sequence[str], victim: str) -> dict[str, Any]:
    """One crash: outage, steady p99, and what became of the requests."""
    with tempfile.TemporaryDirectory() as directory:
        coordinator = {"objectives": OBJECTIVES, "expected_rate_per_s": RATE_PER_S}
        cluster = Cluster(Path(directory), bundle, list(nodes), coordinator=coordinator)
        try:
            cluster.start_all()
            records, fault_ns = requests_through(cluster, victim)
        finally:
            cluster.stop_all()
    begun = records[0].intended_ns + WARM_UP_NS
    steady = [r for r in records if begun <= r.intended_ns < fault_ns - WARM_UP_NS]
    p99_ms = float(np.percentile(delays_ns(steady), 99, method="higher")) / 1e6
    worst_ms = outage_ms(records, fault_ns)
    finite = worst_ms is not None and math.isfinite(worst_ms)
    return {
        "node": victim,
        "outage_ms": round(worst_ms, 3) if worst_ms is not None and finite else None,
        "steady_p50_ms": round(float(np.median(delays_ns(steady))) / 1e6, 3),
        "steady_p99_ms": round(p99_ms, 3) if math.isfinite(p99_ms) else None,
        "sent": len(records),
        "lost": sum(r.outcome == "lost" for r in records),
        "error": sum(r.outcome == "error" for r in records),
        "resent": sum(r.attempts > 1 for r in records),
        "degraded": sum(r.technique in ("early_exit", "skip", "mixed") for r in records),
    }


def requests_through(cluster: Cluster, victim: str) -> tuple[list[RequestRecord], int]:
    """Send at the fixed rate, kill the victim on the way; records, and when it was killed."""
    records: list[RequestRecord] = []
    fault_ns = 0
    with Client(cluster.endpoints) as client:
        inputs, _ = load.inputs_for(client.input, IMAGES, 0)
        begun = time.monotonic_ns() + 100_000_000
        for seq in range(int(SECONDS * RATE_PER_S)):
            intended = begun + int(seq / RATE_PER_S * 1e9)
            if not fault_ns and intended - begun >= KILL_AFTER_S * 1e9:
                cluster.signal([victim], signal.SIGKILL)
                fault_ns = time.monotonic_ns()
            time.sleep(max(0.0, (intended - time.monotonic_ns()) / 1e9))
            record = RequestRecord(seq, seq % len(inputs), intended, time.monotonic_ns())
            records.append(record)
            future = client.submit(inputs[record.image], BUDGET_MS, CLASS)
            future.add_done_callback(partial(load.note, record))
        deadline = time.monotonic() + 2 * BUDGET_MS / 1000
        while any(not r.outcomes for r in records) and time.monotonic() < deadline:
            time.sleep(0.02)
    return records, fault_ns


def summary(directory: Path) -> dict[str, Any]:
    """Outage against steady p99 over all runs, and what was lost."""
    records = read(directory / "runs.jsonl")
    outages = [math.inf if r["outage_ms"] is None else r["outage_ms"] for r in records]
    usual = [math.inf if r["steady_p99_ms"] is None else r["steady_p99_ms"] for r in records]
    within = [outage <= p99 < math.inf for outage, p99 in zip(outages, usual, strict=True)]
    totals = ("sent", "lost", "error", "resent", "degraded")
    return {
        "n": len(records),
        "outage_p50_ms": round(float(np.median(outages)), 3),
        "p99_ms": round(float(np.percentile(outages, 99, method="higher")), 3),
        "outage_max_ms": round(max(outages), 3),
        "steady_p99_ms": round(float(np.median(usual)), 3),
        "within_one_steady_p99": sum(within),
        **{key: sum(record[key] for record in records) for key in totals},
    }
