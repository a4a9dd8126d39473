"""How long it takes to enrol a box: its one line, and until it takes part.

A fleet with keys on loopback, of which one node has lost its keys and all else that it kept: a
fresh box. The line that ``continuer token create`` prints is run there, then its agent.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from continuer.demo.cluster import Cluster, program

NODES = ("n1", "n2")
PATIENCE_S = 60.0


def measure(bundle_directory: Path, runs: int) -> dict[str, Any]:
    """Seconds of the line alone, and with the start of the agent until it is active: medians."""
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(Path(directory), bundle_directory, list(NODES), secured=True)
        try:
            cluster.start_all()
            found = [_enrol(cluster) for _ in range(runs)]
        finally:
            cluster.stop_all()
    lines, whole = zip(*found, strict=True)
    return {
        "runs": runs,
        "line_s": round(statistics.median(lines), 2),
        "active_s": round(statistics.median(whole), 2),
        "worst_active_s": round(max(whole), 2),
    }


def _enrol(cluster: Cluster) -> tuple[float, float]:
    """The last node as a fresh box: seconds of the line, and until it is active."""
    node = NODES[-1]
    cluster.processes[node].terminate()
    cluster.processes[node].wait()
    _wait(cluster, node, active=False)
    kept = cluster.directory / node
    shutil.rmtree(kept)
    kept.mkdir()
    token = _continuer(cluster, "token", "create", "--name", node, "--json")
    _, verb, endpoint, word, *_ = shlex.split(json.loads(token)["line"])
    begun = time.monotonic()
    _continuer(cluster, verb, endpoint, word, "--keys", str(kept / "keys"))
    line_s = time.monotonic() - begun
    cluster.start(node)
    _wait(cluster, node, active=True)
    return line_s, time.monotonic() - begun


def _wait(cluster: Cluster, node: str, *, active: bool) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while _is_active(cluster, node) != active:
        if time.monotonic() > until_s:
            raise TimeoutError(f"after {PATIENCE_S:g} s {node} is not as it should be: {active=}")
        time.sleep(0.02)


def _is_active(cluster: Cluster, node: str) -> bool:
    nodes = {one["node"]: one["state"] for one in cluster.status(brief=True)["nodes"]}
    return nodes.get(node) == "active"


def _continuer(cluster: Cluster, *arguments: str) -> str:
    environ = {**os.environ, "CONTINUER_KEYS": str(cluster.keys)}
    done = subprocess.run(
        [*program("continuer"), *arguments],
        env=environ, capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    return done.stdout
