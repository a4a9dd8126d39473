"""Every technique forced at every failing node, several times: predicted beside measured.

What ``continuer plan evaluate`` compares. Each run is a fresh cluster of five agents whose
coordinator may use one technique only; a node is killed under requests. Predicted is what the
coordinator says of the plan beforehand and of the chosen candidate; measured are the median
delay of requests before the fault and from ``SETTLED_MS`` after it, the outage, and for the
accuracy what the manifest has measured on the test images.

    python -m bench.decisions FILE [--model NAME]... [--runs 3] [--table NAME=TABLE]...
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench.outage import NODES, read
from continuer import bundle as bundles
from continuer import table as tables
from continuer.bundle import Bundle
from continuer.catalog import find_bundle
from continuer.demo.cluster import Cluster, program
from continuer.errors import ContinuerError
from continuer.objectives import Metrics
from continuer.outage import RequestRecord, outage_ms
from continuer.outage import read as read_log
from continuer.table import Table
from predictors.decisions import SCHEMA, Campaign, Case, Recorded

MODELS = ("resnet32-cifar10", "mobilenetv2-cifar10")
TECHNIQUES = ("repartition", "early_exit", "skip")
RATE_PER_S = 100
RUN_S = 4
FAULT_AFTER_S = 2.0
SETTLED_MS = 300


def one(bundle: Bundle, node: str, technique: str, table: Table | None) -> dict[str, Any] | None:
    """A run; None where the technique cannot serve without the node."""
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(
            Path(directory),
            bundle.directory,
            list(NODES),
            coordinator={"technique": technique, "expected_rate_per_s": RATE_PER_S},
        )
        raw_log = Path(directory) / "raw.jsonl"
        try:
            cluster.start_all()
            state = cluster.status()
            (decision,) = (d for d in state["contingencies"] if d["nodes"] == [node])
            if not decision["steps"] or decision["steps"][-1]["technique"] != technique:
                return None
            at_ns = kill_under_load(cluster, node, raw_log)
            taken = cluster.status(brief=True)["failovers"][-1]["steps"][0]
        finally:
            cluster.stop_all()
        requests = read_log(raw_log).requests
    step = decision["steps"][-1]
    wanted = (technique, step["exit"])
    chosen = next(c for c in decision["candidates"] if (c["technique"], c["exit"]) == wanted)
    settled = at_ns + SETTLED_MS * 1_000_000
    return {
        "model": bundle.name,
        "node": node,
        "technique": technique,
        "full": {
            "predicted": [*accuracies(bundle, state["plan"], table), state["plan"]["latency_ms"]],
            "latency_ms": delay_ms(requests, lambda r: r.intended_ns < at_ns, "none"),
        },
        "predicted": [*accuracies(bundle, step, table), chosen["latency_ms"]],
        "select_ms": (taken["decided_ns"] - taken["begun_ns"]) / 1e6,
        "downtime_ms": chosen["downtime_ms"],
        "latency_ms": delay_ms(requests, lambda r: r.intended_ns > settled, technique),
        "outage_ms": outage_ms(requests, at_ns),
    }


def accuracies(bundle: Bundle, step: dict[str, Any], table: Table | None) -> tuple[float, float]:
    """Measured and predicted accuracy of a step's path; the latter from a table."""
    path = [part for hop in step["route"] for part in hop["parts"]]
    measured = bundle.measured_accuracy(path)
    if measured is None:
        raise ContinuerError(f"{bundle.name}: nobody has measured the accuracy of {path}")
    variant = bundle.variant_of(path)
    known = table.accuracies if table else ()
    found = [a.accuracy for a in known if (a.exit, a.skipped) == variant]
    return measured, found[0] if found else measured


def delay_ms(
    requests: list[RequestRecord], wanted: Callable[[RequestRecord], bool], technique: str
) -> float:
    """Median over the answers made by a technique."""
    return statistics.median(
        (r.done_ns - r.sent_ns) / 1e6
        for r in requests
        if r.done_ns is not None and r.technique == technique and wanted(r)
    )


def kill_under_load(cluster: Cluster, node: str, raw_log: Path) -> int:
    """Requests, and a fault in their midst; when it was."""
    client = subprocess.Popen(
        [
            *program("continuer"),
            "load",
            *(f"--endpoint={endpoint}" for endpoint in cluster.endpoints),
            *("--images=random", f"--rate={RATE_PER_S}", f"--seconds={RUN_S}"),
            *(f"--raw-log={raw_log}", "--progress"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None
    client.stdout.readline()  # requests have begun
    time.sleep(FAULT_AFTER_S)
    at_ns = cluster.signal([node], signal.SIGKILL)
    with client.stdout as progress:
        progress.read()
    client.wait()
    return at_ns


def campaign(log: Path, model: str, runs: int, table_path: Path | None) -> None:
    """Fill the file up to so many runs of each node and technique of a model, interleaved."""
    bundle = bundles.load(find_bundle(model))
    table = tables.load(table_path, bundle) if table_path else None
    for index in range(runs):
        for node in NODES:
            for technique in TECHNIQUES:
                key = (model, node, technique)
                done = [r for r in read(log) if (r["model"], r["node"], r["technique"]) == key]
                if len(done) > index or any("cannot" in r for r in done):
                    continue
                found = one(bundle, node, technique, table)
                if found is None:
                    found = {"model": model, "node": node, "technique": technique, "cannot": True}
                with log.open("a") as file:
                    file.write(json.dumps(found) + "\n")
                print(model, node, technique, found.get("outage_ms"), file=sys.stderr)


def recorded(log: Path) -> Recorded:
    """The runs as ``continuer plan evaluate`` reads them."""
    runs = [r for r in read(log) if "cannot" not in r]
    return Recorded(SCHEMA, tuple(_campaign(model, runs) for model in MODELS if _of(runs, model)))


def _of(runs: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    return [r for r in runs if r["model"] == model]


def _campaign(model: str, runs: list[dict[str, Any]]) -> Campaign:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in _of(runs, model):
        groups.setdefault((run["node"], run["technique"]), []).append(run)
    full = [run["full"] for run in _of(runs, model)]
    before = Case(
        "",
        "none",
        Metrics(full[0]["predicted"][1], statistics.median(f["predicted"][2] for f in full), 0.0),
        tuple(Metrics(f["predicted"][0], f["latency_ms"], 0.0) for f in full),
    )
    cases = tuple(_case(*key, group) for key, group in groups.items())
    return Campaign(model, before, cases, tuple(r["select_ms"] for r in _of(runs, model)))


def _case(node: str, technique: str, runs: list[dict[str, Any]]) -> Case:
    """One technique at one node; predictions differ a little from run to run, as loads do."""
    latency, downtime = (
        statistics.median(values)
        for values in ([r["predicted"][2] for r in runs], [r["downtime_ms"] for r in runs])
    )
    return Case(
        node,
        technique,
        Metrics(runs[0]["predicted"][1], latency, downtime),
        tuple(Metrics(r["predicted"][0], r["latency_ms"], r["outage_ms"]) for r in runs),
    )


def main() -> None:
    """Go on with the campaign, then write what it has so far."""
    parser = argparse.ArgumentParser(prog="python -m bench.decisions")
    parser.add_argument("file", type=Path, help="what 'continuer plan evaluate' reads")
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--table", action="append", default=[], metavar="MODEL=TABLE")
    options = parser.parse_args()
    given = dict(each.split("=", 1) for each in options.table)
    log = options.file.with_suffix(".runs.jsonl")
    for model in options.model or MODELS:
        table = Path(given[model]) if model in given else None
        campaign(log, model, options.runs, table)
    options.file.write_bytes(msgspec.json.format(msgspec.json.encode(recorded(log))) + b"\n")


if __name__ == "__main__":
    main()
