"""Any two of five nodes killed within 50 ms: what is lost, and which plan is found.

Each run is a fresh cluster of real processes; two nodes are killed, the second one up to 50 ms
after the first, drawn from the run's seed; every ordered pair in its turn, since the second death
may fall into the failover of the first. Every answer is checked against the oracle. Every node has
every block in memory, so the best plan is known: all blocks over all survivors. Resumable, as the
outage campaigns are.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bench.client import IMAGES
from bench.outage import NODES, read
from bench.under_load import RATE_PER_S, log_of
from continuer import load
from continuer.bundle import Bundle
from continuer.demo import report
from continuer.demo.cluster import Cluster
from continuer.outage import outage_ms

WITHIN_MS = 50.0
SECONDS = 4.0
#: Of a run that went wrong, so many different errors are kept.
PROBLEMS = 5
PAIRS = tuple(itertools.permutations(NODES, 2))


def campaign(
    bundle: Bundle,
    directory: Path,
    *,
    runs: int,
    pairs: Iterable[tuple[str, str]] = PAIRS,
    until_s: float = math.inf,
) -> None:
    """Fill the campaign's file up to ``runs`` of each pair, interleaved; begin none after a time.

    ``until_s`` is of the monotonic clock.
    """
    directory.mkdir(parents=True, exist_ok=True)
    results = directory / "runs.jsonl"
    done = [tuple(record["killed"]) for record in read(results)]
    for index in range(runs):
        for pair in pairs:
            if done.count(pair) > index:
                continue
            if time.monotonic() > until_s:
                return
            record = one(bundle, pair, index)
            with results.open("a") as log:
                log.write(json.dumps(record) + "\n")
            print(*pair, record["gap_ms"], record["outage_ms"], record["best"], file=sys.stderr)


def one(bundle: Bundle, pair: tuple[str, str], seed: int) -> dict[str, Any]:
    """Both deaths, what became of the requests, and the plan that is in force afterwards."""
    first, second = pair
    # The same every time: a run that went wrong can be repeated.
    gap_ms = random.Random(f"{first}{second}{seed}").uniform(0, WITHIN_MS)  # noqa: S311
    killed: list[int] = []
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(
            Path(directory),
            bundle.directory,
            list(NODES),
            coordinator={"expected_rate_per_s": RATE_PER_S},
        )

        def kill() -> None:
            killed.append(cluster.signal([first], signal.SIGKILL))
            time.sleep(gap_ms / 1e3)
            killed.append(cluster.signal([second], signal.SIGKILL))

        try:
            cluster.start_all()
            log = log_of(cluster, Path(directory), kill, seconds=SECONDS, seed=seed)
            state = cluster.status()
        finally:
            cluster.stop_all()
    inputs, _ = load.inputs_for(bundle.manifest.input, IMAGES, seed)
    good = report.good_seqs(report.Oracle(bundle, inputs), log.requests)
    worst_ms = outage_ms(log.requests, killed[0])
    return {
        "killed": list(pair),
        "seed": seed,
        "gap_ms": round((killed[1] - killed[0]) / 1e6, 2),
        "outage_ms": report.rounded(worst_ms),
        "best": is_best(bundle, state["plan"], set(NODES) - set(pair)),
        "technique": state["plan"]["technique"],
        "nodes": [hop["node"] for hop in state["plan"]["route"]],
        **report.count(log.requests, good),
        "problems": sorted({r.error for r in log.requests if r.error})[:PROBLEMS],
    }


def is_best(bundle: Bundle, plan: dict[str, Any], survivors: set[str]) -> bool:
    """Every block, in order, over all who live and nobody else."""
    path = [part for hop in plan["route"] for part in hop["parts"]]
    stages = [hop["node"] for hop in plan["route"]]
    return path == list(bundle.path()) and set(stages) == survivors


def summary(directory: Path) -> dict[str, Any]:
    """Outages over all pairs, and what was lost."""
    records = read(directory / "runs.jsonl")
    outages = [math.inf if r["outage_ms"] is None else r["outage_ms"] for r in records]
    totals = ("sent", "lost", "error", "wrong", "duplicate", "degraded")
    return {
        "n": len(records),
        "pairs": len({tuple(r["killed"]) for r in records}),
        "best_plan": sum(r["best"] for r in records),
        "p50_ms": round(float(np.median(outages)), 3),
        "p99_ms": round(float(np.percentile(outages, 99, method="higher")), 3),
        **{key: sum(record[key] for record in records) for key in totals},
    }
