"""What a setting costs, in interleaved pairs: an engine in its own process, keys everywhere.

The same cluster without it and with it: latency one request at a time, answers a second with
eight under way, and CPU time of all agents and what they have started, per request.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.chain import WARM_UP, client_throughput, figures, middle
from continuer import Client
from continuer import bundle as bundles
from continuer.bundle import Bundle
from continuer.demo.cluster import Cluster

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# How long idle agents are watched.
IDLE_S = 2.0
NODES = 5
#: What is compared: how the cluster is made without the setting, and with it.
OWN_PROCESS: dict[str, dict[str, Any]] = {
    "in_process": {"agent": {"engine": "in_process"}},
    "own_process": {"agent": {"engine": "own_process"}},
}
KEYS: dict[str, dict[str, Any]] = {"in_clear": {}, "with_keys": {"secured": True}}


def measure(
    bundle_directory: Path, sides: Mapping[str, dict[str, Any]], *, pairs: int, count: int
) -> dict[str, Any]:
    """Alternate the two, a fresh start each; ratios per pair, their median and range."""
    bundle = bundles.load(bundle_directory)
    image = np.zeros(bundle.manifest.input.tensors[0].shape, np.float32)
    without, with_it = sides
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for pair in range(pairs):
        for side in (without, with_it) if pair % 2 == 0 else (with_it, without):
            found[side].append(run_cluster(bundle, image, count, sides[side]))
            print(f"{side}: {found[side][-1]}", file=sys.stderr)
    ours, theirs = found[with_it], found[without]
    ratios = {key: [a[key] / b[key] for a, b in zip(ours, theirs, strict=True)] for key in ours[0]}
    return {
        "nodes": NODES,
        "pairs": pairs,
        **{side: medians(runs) for side, runs in found.items()},
        "ratio": {key: middle(values) for key, values in ratios.items()},
        "interval": {key: [round(min(r), 3), round(max(r), 3)] for key, r in ratios.items()},
    }


def run_cluster(
    bundle: Bundle, image: np.ndarray[Any, Any], count: int, made: dict[str, Any]
) -> dict[str, float]:
    """A real cluster on loopback, made in this way."""
    names = [f"n{i}" for i in range(1, NODES + 1)]
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(Path(directory), bundle.directory, names, **made)
        try:
            cluster.start_all()
            agents = [cluster.processes[name].pid for name in names]
            with Client(cluster.endpoints, keys=cluster.keys) as client:
                for _ in range(WARM_UP):
                    client.infer(image)
                latencies = []
                used_s, begun = cpu_s(agents), time.monotonic()
                for _ in range(count):
                    sent = time.perf_counter_ns()
                    client.infer(image)
                    latencies.append((time.perf_counter_ns() - sent) / 1e6)
                used_s, took_s = cpu_s(agents) - used_s, time.monotonic() - begun
                throughput = client_throughput(client, image, count)
                # Heartbeats and polls go on without requests too: that is not their cost.
                idle_s = cpu_s(agents)
                time.sleep(IDLE_S)
                idle_s = (cpu_s(agents) - idle_s) / IDLE_S
        finally:
            cluster.stop_all()
    per_request_ms = (used_s - idle_s * took_s) / count * 1e3
    return {**figures(latencies, throughput), "cpu_ms": per_request_ms}


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each figure the median over the runs."""
    return {key: middle([run[key] for run in runs]) for key in runs[0]}


def cpu_s(agents: Iterable[int]) -> float:
    """CPU time so far of these processes and all that they have started."""
    return sum(_cpu_s(pid) + cpu_s(_children(pid)) for pid in agents)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]
