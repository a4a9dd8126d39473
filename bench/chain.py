"""Latency and throughput of a cluster over the bare chain, in interleaved pairs."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from bench.bare import BareChain
from continuer import Client
from continuer import bundle as bundles
from continuer.bundle import Bundle
from continuer.client import Answer
from continuer.demo.cluster import Cluster
from continuer.runtime import PathRunner

INFLIGHT = 8
WARM_UP = 50
# On a machine that does other work too, a slow answer shall count as such and not end the run.
BUDGET_MS = 30_000


def measure(bundle_directory: Path, *, nodes: int, pairs: int, count: int) -> dict[str, Any]:
    """Alternate the two, a fresh start each; ratios per pair, their median and range."""
    bundle = bundles.load(bundle_directory)
    image = np.zeros(bundle.manifest.input.tensors[0].shape, np.float32)
    ours: list[dict[str, float]] = []
    bare: list[dict[str, float]] = []
    for _ in range(pairs):
        found, cuts = run_cluster(bundle, nodes, image, count)
        ours.append(found)
        bare.append(run_bare(bundle, cuts, image, count))
    ratios = {key: [a[key] / b[key] for a, b in zip(ours, bare, strict=True)] for key in ours[0]}
    return {
        "latency_ratio": middle(ratios["p50_ms"]),
        "latency_p99_ratio": middle(ratios["p99_ms"]),
        "throughput_ratio": middle(ratios["throughput_per_s"]),
        "interval": {key: [round(min(r), 3), round(max(r), 3)] for key, r in ratios.items()},
        "pairs": pairs,
        "cluster": {key: middle([o[key] for o in ours]) for key in ours[0]},
        "bare": {key: middle([b[key] for b in bare]) for key in bare[0]},
        "one_process_p50_ms": one_process(bundle, image, count),
    }


def run_cluster(
    bundle: Bundle, nodes: int, image: np.ndarray[Any, Any], count: int
) -> tuple[dict[str, float], list[list[str]]]:
    """A real cluster on loopback; also returns the cuts, for the floor to use."""
    names = [f"n{i}" for i in range(1, nodes + 1)]
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(Path(directory), bundle.directory, names)
        try:
            cluster.start_all()
            with Client(cluster.endpoints) as client:
                for _ in range(WARM_UP):
                    client.infer(image, BUDGET_MS)
                latencies = []
                for _ in range(count):
                    begun = time.perf_counter_ns()
                    client.infer(image, BUDGET_MS)
                    latencies.append((time.perf_counter_ns() - begun) / 1e6)
                throughput = client_throughput(client, image, count)
            route = cluster.status()["plan"]["route"]
        finally:
            cluster.stop_all()
    return figures(latencies, throughput), [hop["parts"] for hop in route]


def client_throughput(client: Client, image: np.ndarray[Any, Any], count: int) -> float:
    """Answers per second with ``INFLIGHT`` requests under way."""
    flying: deque[Future[Answer]] = deque()
    begun = time.perf_counter_ns()
    for _ in range(count):
        if len(flying) == INFLIGHT:
            flying.popleft().result()
        flying.append(client.submit(image, BUDGET_MS))
    while flying:
        flying.popleft().result()
    return count / ((time.perf_counter_ns() - begun) / 1e9)


def run_bare(
    bundle: Bundle, cuts: list[list[str]], image: np.ndarray[Any, Any], count: int
) -> dict[str, float]:
    """The floor on the same cuts."""
    chain = BareChain(bundle.directory, cuts)
    try:
        chain.latencies_ms(image, WARM_UP)
        return figures(
            chain.latencies_ms(image, count), chain.throughput_per_s(image, count, INFLIGHT)
        )
    finally:
        chain.close()


def one_process(bundle: Bundle, image: np.ndarray[Any, Any], count: int) -> float:
    """The ideal: all parts one after the other in this process."""
    runner, path = PathRunner(bundle), bundle.path()
    runner.run(path, [image])
    found = []
    for _ in range(count):
        begun = time.perf_counter_ns()
        runner.run(path, [image])
        found.append((time.perf_counter_ns() - begun) / 1e6)
    return middle(found)


def figures(latencies: list[float], throughput: float) -> dict[str, float]:
    """Summary of one run."""
    return {
        "p50_ms": statistics.median(latencies),
        "p99_ms": float(np.percentile(latencies, 99)),
        "throughput_per_s": throughput,
    }


def middle(values: list[float]) -> float:
    """Median, rounded for reading."""
    return round(statistics.median(values), 3)
