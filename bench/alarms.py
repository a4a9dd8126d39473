"""False failovers: minutes under conditions that kill nobody, and how many failovers they make.

    python -m bench.alarms DIRECTORY [--minutes 30] [--conditions idle cpu jitter loss]

Each minute is a run of its own cluster of five agents with requests, appended to a file, so
that a campaign can be interrupted and goes on. ``cpu``: two busy processes per core beside
it. ``jitter``: control links that delay by 0 to 20 ms. ``loss``: 5 % of all packets between
all hosts, in network namespaces, which needs root.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.heartbeats import burn
from bench.hosts import MODEL, hosted
from bench.outage import NODES, read
from bench.relay import start as start_relay
from continuer import realtime
from continuer.catalog import find_bundle
from continuer.demo.cluster import HOST, Cluster, free_ports, program

CONDITIONS = ("idle", "cpu", "jitter", "loss")
JITTER_MS = (0.0, 20.0)
LOSS_PERCENT = 5
RATE_PER_S = 20
RUN_S = 60


@contextmanager
def cluster_under(condition: str, directory: Path) -> Iterator[tuple[Cluster, tuple[str, ...]]]:
    """A cluster with all nodes, then the condition; also what the client's command begins with."""
    with ExitStack() as stack:
        if condition == "loss":
            hosts = stack.enter_context(hosted(directory, list(NODES)))
            for name in (*NODES, "coordinator"):
                hosts.network.loss(name, LOSS_PERCENT)
            yield hosts, hosts.network.prefix("client")
            return
        agent: dict[str, Any] = {}
        coordinator: dict[str, Any] = {}
        if condition == "jitter":
            coordinator["agents_port"] = free_ports(1)[0]
            relay, relayed = start_relay(coordinator["agents_port"], JITTER_MS)
            stack.callback(relay.kill)
            agent["coordinator"] = f"tcp://{HOST}:{relayed}"
        bundle = find_bundle(MODEL)
        cluster = Cluster(directory, bundle, list(NODES), agent=agent, coordinator=coordinator)
        stack.callback(cluster.stop_all)
        cluster.start_all()
        if condition == "cpu":
            stop = multiprocessing.Event()
            for _ in range(2 * (os.cpu_count() or 1)):
                hog = multiprocessing.Process(target=burn, args=(stop,))
                hog.start()
                stack.callback(hog.kill)
        yield cluster, ()


def one(condition: str, run_s: int = RUN_S) -> dict[str, Any]:
    """So many seconds of requests under a condition."""
    with (
        tempfile.TemporaryDirectory() as directory,
        cluster_under(condition, Path(directory)) as (cluster, prefix),
    ):
        before = len(cluster.status(brief=True)["failovers"])
        begun = time.monotonic()
        ended = subprocess.run(  # our own program
            [
                *prefix,
                *program("continuer"),
                "load",
                *(f"--endpoint={endpoint}" for endpoint in cluster.endpoints),
                *(f"--rate={RATE_PER_S}", f"--seconds={run_s}", "--images=cifar10-test-1000"),
                *("--budget-ms=5000", f"--raw-log={directory}/raw.jsonl"),
            ],
            capture_output=True,
            check=False,
        )
        seconds = time.monotonic() - begun
        found = cluster.status(brief=True)["failovers"][before:]
    return {
        "condition": condition,
        "seconds": round(seconds, 1),
        "failovers": len(found),
        "reasons": [reason for failover in found for reason in failover["reasons"]],
        "load_exit_code": ended.returncode,
        "realtime": realtime.permitted(),
    }


def campaign(directory: Path, conditions: tuple[str, ...], runs: int, run_s: int = RUN_S) -> None:
    """Fill the file up to so many runs of ``run_s`` per condition, interleaved."""
    directory.mkdir(parents=True, exist_ok=True)
    results = directory / "runs.jsonl"
    for index in range(runs):
        for condition in conditions:
            done = sum(r["condition"] == condition for r in read(results))
            if done > index:
                continue
            record = one(condition, run_s)
            with results.open("a") as log:
                log.write(json.dumps(record) + "\n")
            print(condition, record["failovers"], record["reasons"], file=sys.stderr)


def summary(directory: Path) -> dict[str, Any]:
    """Failovers and minutes per condition."""
    records = read(directory / "runs.jsonl")
    return {
        condition: {
            "count": sum(r["failovers"] for r in records if r["condition"] == condition),
            "minutes": round(
                sum(r["seconds"] for r in records if r["condition"] == condition) / 60, 1
            ),
        }
        for condition in CONDITIONS
        if any(r["condition"] == condition for r in records)
    }


def main() -> None:
    """Continue a campaign, and say where it stands."""
    parser = argparse.ArgumentParser(prog="python -m bench.alarms")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=CONDITIONS)
    options = parser.parse_args()
    campaign(options.directory, tuple(options.conditions), options.minutes)
    print(json.dumps(summary(options.directory), indent=1))


if __name__ == "__main__":
    main()
