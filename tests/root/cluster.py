"""A cluster whose daemons and client are each a host of a network of namespaces."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from continuer import bundle as bundles
from continuer import load
from continuer.catalog import find_bundle
from continuer.demo import report
from continuer.demo.cluster import Cluster, Place
from continuer.outage import RequestRecord, read
from tests.root.network import Network

ROOT = Path(__file__).parents[2]
MODEL = "resnet32-cifar10"
IMAGES = "cifar10-test-1000"
RATE_PER_S = 50
BUDGET_MS = 5000
PATIENCE_S = 40.0
POLL_S = 0.02
# These tests ask what is done, not how fast: a busy machine must not make a live node silent.
TIMEOUT_MS = 100


class NetworkCluster(Cluster):
    """Each agent and the coordinator has a host of its own name, the client is at ``client``."""

    def __init__(
        self,
        directory: Path,
        network: Network,
        nodes: list[str],
        *,
        bundle: Path | None = None,
        coordinator: dict[str, Any] | None = None,
    ) -> None:
        self.network = network
        self.bundle = bundle or find_bundle(MODEL)
        super().__init__(
            directory,
            self.bundle,
            nodes,
            coordinator={
                "expected_rate_per_s": RATE_PER_S,
                "heartbeat_timeout_ms": TIMEOUT_MS,
                **(coordinator or {}),
            },
            places={
                name: Place(network.address(name), network.prefix(name))
                for name in ("coordinator", *nodes)
            },
        )

    def status(self, *, brief: bool = False) -> dict[str, Any]:
        """What the coordinator says, asked on its own host: it answers while cut off too."""

        def ask() -> dict[str, Any]:
            return Cluster.status(self, brief=brief)

        return self.network.call("coordinator", ask)

    def wait_for(self, condition: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Poll the status until the condition holds."""
        return self.wait_until(condition, what, timeout_s=PATIENCE_S)

    def node(self, name: str) -> dict[str, Any]:
        """One node's entry in the status."""
        return node_in(self.status(brief=True), name)

    def events(self, daemon: str, name: str) -> list[dict[str, Any]]:
        """All events of one name in a daemon's journal."""
        lines = self.log(daemon).read_text().splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in events if event["event"] == name]


def node_in(state: dict[str, Any], name: str) -> dict[str, Any]:
    """One node's entry in a status."""
    found: dict[str, Any] = next(node for node in state["nodes"] if node["node"] == name)
    return found


def route_nodes(state: dict[str, Any]) -> set[str]:
    """The nodes that the plan in force uses."""
    return {hop["node"] for hop in state["plan"]["route"]}


def failed_over(state: dict[str, Any], name: str) -> list[str]:
    """Why a node was failed over, each time."""
    return [
        reason
        for failover in state["failovers"]
        for node, reason in zip(failover["nodes"], failover["reasons"], strict=True)
        if node == name
    ]


class Traffic:
    """Requests from the client's host until ``finish``, and the account of their raw log."""

    def __init__(
        self,
        cluster: NetworkCluster,
        rate: float = RATE_PER_S,
        images: str = IMAGES,
        budget_ms: float = BUDGET_MS,
    ) -> None:
        self._bundle, self._images = cluster.bundle, images
        self._raw_log = cluster.directory / "raw.jsonl"
        self._progress: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [
                *cluster.network.prefix("client"),
                *(sys.executable, "-m", "tests.root.requests"),
                *(str(self._raw_log), str(rate), images, str(budget_ms)),
                *cluster.endpoints,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._progress = json.loads(line)

    def wait_for_answers(self, more: int) -> None:
        """Wait until so many more answers have come."""
        wanted = self._progress.get("answered", 0) + more
        deadline = time.monotonic() + PATIENCE_S
        while self._progress.get("answered", 0) < wanted:
            assert self._process.poll() is None, f"requests ended before {wanted} answers came"
            assert time.monotonic() < deadline, f"waited for {wanted} answers: {self._progress}"
            time.sleep(POLL_S)

    def finish(self) -> list[RequestRecord]:
        """No more requests; each must have one outcome: an answer that is right."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait(PATIENCE_S)
        self._reader.join()
        assert code == 0, f"the client ended with code {code}"
        requests = read(self._raw_log).requests
        model = bundles.load(self._bundle)
        inputs, _ = load.inputs_for(model.manifest.input, self._images, seed=0)
        good = report.good_seqs(report.Oracle(model, inputs), requests)
        counts = report.count(requests, good)
        errors = sorted({r.error for r in requests if r.error})
        spoilt = {key: counts[key] for key in ("error", "lost", "duplicate", "wrong")}
        assert not any(spoilt.values()), f"{counts}; {errors}"
        return requests

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._reader.join()
