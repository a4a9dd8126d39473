"""Faults in the midst of requests, and the client's own log of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from bench.client import begin
from continuer.demo.cluster import Cluster
from continuer.outage import RawLog, read

RATE_PER_S = 100
FAULT_AFTER_S = 2.0


def log_of(
    cluster: Cluster, directory: Path, act: Callable[[], None], *, seconds: float, seed: int
) -> RawLog:
    """Requests, open loop, for so long; ``act`` is called in their midst."""
    raw_log = directory / "raw.jsonl"
    client = begin(cluster.endpoints, raw_log, seconds=seconds, rate_per_s=RATE_PER_S, seed=seed)
    try:
        time.sleep(FAULT_AFTER_S)
        act()
    finally:
        client.wait()
    return read(raw_log)
