"""How soon full accuracy is back after a crash, where nodes hold no spares in memory.

Each run is a fresh cluster of real processes with ``standby = "none"`` and the blocks on the local
disk; one node, each in its turn, is killed under requests. The bridge answers while the others
load what the dead node ran. *Healed* is the time from the kill until the first request is sent
whose answer, and every later one, comes from all blocks; *in force* until the last survivor had
acknowledged the plan that has them. Resumable, as the outage campaigns are.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.outage import NODES, read
from bench.under_load import RATE_PER_S, log_of
from continuer.bundle import Bundle
from continuer.demo.cluster import Cluster
from continuer.demo.report import DEGRADED, rounded
from continuer.outage import RawLog

SECONDS = 4.0
#: Of a run that went wrong, so many different errors are kept.
PROBLEMS = 5


def campaign(
    bundle: Bundle,
    directory: Path,
    *,
    runs: int,
    nodes: Sequence[str] = NODES,
    until_s: float = math.inf,
) -> None:
    """Fill the campaign's file up to ``runs`` per node, interleaved; begin none after a time.

    ``until_s`` is of the monotonic clock.
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
            record = one(bundle, node, index)
            with results.open("a") as log:
                log.write(json.dumps(record) + "\n")
            print(node, record["in_force_ms"], record["healed_ms"], file=sys.stderr)


def one(bundle: Bundle, node: str, seed: int) -> dict[str, Any]:
    """One crash."""
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(
            Path(directory),
            bundle.directory,
            list(NODES),
            agent={"standby": "none"},
            coordinator={"expected_rate_per_s": RATE_PER_S},
        )
        killed: list[int] = []
        try:
            cluster.start_all()
            log = log_of(
                cluster,
                Path(directory),
                lambda: killed.append(cluster.signal([node], signal.SIGKILL)),
                seconds=SECONDS,
                seed=seed,
            )
            failover = cluster.status(brief=True)["failovers"][0]
        finally:
            cluster.stop_all()
    last = failover["steps"][-1]
    full = last["technique"] == "repartition" and last["last_ack_ns"] is not None
    return {
        "node": node,
        "steps": [step["technique"] for step in failover["steps"]],
        "in_force_ms": rounded((last["last_ack_ns"] - killed[0]) / 1e6) if full else None,
        "healed_ms": rounded(healed_ms(log, killed[0])),
        "sent": len(log.requests),
        "lost": sum(r.outcome == "lost" for r in log.requests),
        "error": sum(r.outcome == "error" for r in log.requests),
        "degraded": sum(r.technique in DEGRADED for r in log.requests),
        "problems": sorted({r.error for r in log.requests if r.error})[:PROBLEMS],
    }


def healed_ms(log: RawLog, fault_ns: int) -> float | None:
    """From the fault until requests are sent that all get their answer from every block.

    None where the last one did not. A request that is under way when the fault happens counts
    as sent then.
    """
    worse = [
        r.sent_ns for r in log.requests if r.outcome != "ok" or r.technique in DEGRADED
    ]  # before the fault there are none
    last_bad_ns = max(worse, default=fault_ns)
    later = [r.sent_ns for r in log.requests if r.sent_ns > max(last_bad_ns, fault_ns)]
    return (min(later) - fault_ns) / 1e6 if later else None


def summary(directory: Path) -> dict[str, Any]:
    """Percentiles over all nodes, and what was lost."""
    records = read(directory / "runs.jsonl")
    found: dict[str, Any] = {"n": len(records)}
    for key in ("in_force_ms", "healed_ms"):
        values = [math.inf if r[key] is None else r[key] for r in records]
        name = key.removesuffix("_ms")
        found[f"{name}_p50_ms"] = round(float(np.median(values)), 3)
        found[f"{name}_p99_ms"] = round(float(np.percentile(values, 99, method="higher")), 3)
    totals = ("sent", "lost", "error", "degraded")
    bridged = sum(len(record["steps"]) > 1 for record in records)
    return {**found, "bridged": bridged, **{key: sum(r[key] for r in records) for key in totals}}
