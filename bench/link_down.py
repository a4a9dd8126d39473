"""One run of a cut cable: a node loses its carrier under requests. Needs root."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.client import IMAGES, begin
from bench.hosts import MODEL, hosted
from continuer import bundle as bundles
from continuer import load
from continuer.catalog import find_bundle
from continuer.demo import report
from continuer.outage import Fault, read

RATE_PER_S = 100
RUN_S = 6
FAULT_AFTER_S = 3.0


def run(raw_log: Path, nodes: list[str], node: str, seed: int) -> tuple[int, dict[str, Any]]:
    """Exit code as the demo has it, and the report, as the demo makes it."""
    with tempfile.TemporaryDirectory() as directory, hosted(Path(directory), nodes) as cluster:
        before = len(cluster.status(brief=True)["failovers"])
        client = begin(
            cluster.endpoints, raw_log, seconds=RUN_S, rate_per_s=RATE_PER_S,
            prefix=cluster.network.prefix("client"), seed=seed,
        )  # fmt: skip
        time.sleep(FAULT_AFTER_S)
        at_ns = time.monotonic_ns()
        cluster.network.cut(node)
        client.wait()
        records = cluster.status(brief=True)["failovers"][before:]
    with raw_log.open("a") as log:
        log.write(json.dumps(Fault(fault="link_down", nodes=[node], at_ns=at_ns)) + "\n")
    log_read = read(raw_log)
    bundle = bundles.load(find_bundle(MODEL))
    inputs, _ = load.inputs_for(bundle.manifest.input, IMAGES, seed)
    good = report.good_seqs(report.Oracle(bundle, inputs), log_read.requests)
    found = report.make(MODEL, len(nodes), log_read, records, good)
    return int(not report.passed(found)), found
