"""The coordinator is gone for long, and then one more node dies. Resumable.

    python -m bench alone --minutes 10 [--rate 100]

Each run is a cluster of its own under requests, open loop: the coordinator is killed, nobody
starts it for so long, one node is killed, and a little later the coordinator is back. Every answer
is checked against the oracle. A line a run is appended to a file.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.client import IMAGES, begin
from bench.outage import NODES, read
from continuer import bundle as bundles
from continuer import load, outage
from continuer.catalog import find_bundle
from continuer.demo.cluster import Cluster
from continuer.demo.report import DEGRADED, Oracle, count, good_seqs

MODEL = "resnet32-cifar10"
MINUTES = 10.0
BEFORE_S = 3.0
AFTER_S = 10.0
BACK_S = 5.0
COUNTS = ("sent", "full", "degraded", "error", "lost", "duplicate", "wrong")


def campaign(directory: Path, *, nodes: Sequence[str], minutes: float, rate_per_s: float) -> None:
    """One more run for each of these nodes, appended to the file."""
    directory.mkdir(parents=True, exist_ok=True)
    for node in nodes:
        record = one(node, minutes, rate_per_s)
        with (directory / "runs.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")
        print(node, minutes, record["requests"], record["outage_ms"], file=sys.stderr)


def one(victim: str, minutes: float, rate_per_s: float) -> dict[str, Any]:
    """One run: what became of the requests, and the outage of the node's death."""
    with tempfile.TemporaryDirectory() as directory:
        coordinator = {"expected_rate_per_s": rate_per_s}
        cluster = Cluster(Path(directory), find_bundle(MODEL), list(NODES), coordinator=coordinator)
        raw_log = Path(directory) / "raw.jsonl"
        seconds = BEFORE_S + 60 * minutes + AFTER_S
        try:
            cluster.start_all()
            client = begin(cluster.endpoints, raw_log, seconds=seconds, rate_per_s=rate_per_s)
            time.sleep(BEFORE_S)
            gone_ns = cluster.signal(["coordinator"], signal.SIGKILL)
            cluster.processes["coordinator"].wait()
            time.sleep(60 * minutes)
            killed_ns = cluster.signal([victim], signal.SIGKILL)
            time.sleep(BACK_S)
            cluster.start("coordinator")
            client.wait()
            state = cluster.wait_until(lambda s: s["health"] == "reduced", "it to take over")
        finally:
            cluster.stop_all()
        requests = outage.read(raw_log).requests
    bundle = bundles.load(find_bundle(MODEL))
    inputs, _ = load.inputs_for(bundle.manifest.input, IMAGES, 0)
    found = count(requests, good_seqs(Oracle(bundle, inputs), requests))
    alone = [r for r in requests if gone_ns <= r.intended_ns < killed_ns]
    worst_ms = outage.outage_ms(requests, killed_ns)
    return {
        "node": victim,
        "minutes": minutes,
        "requests": {key: found[key] for key in COUNTS},
        "alone": len(alone),
        "alone_degraded": sum(r.technique in DEGRADED for r in alone),
        "without_it": sum(victim not in r.nodes for r in requests if r.intended_ns > killed_ns),
        "outage_ms": round(worst_ms, 3) if worst_ms is not None and worst_ms < 1e9 else None,
        "health": state["health"],
    }


def summary(directory: Path) -> dict[str, Any]:
    """All runs so far."""
    records = read(directory / "runs.jsonl")
    return {
        "n": len(records),
        "minutes": round(sum(r["minutes"] for r in records), 2),
        **{key: sum(r["requests"][key] for r in records) for key in COUNTS},
        "worst_outage_ms": max((r["outage_ms"] or float("inf") for r in records), default=None),
    }
