"""A cluster whose network crashes or hangs for some inputs: every other request is answered."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from continuer.bundle import Bundle
from continuer.client import Client
from continuer.demo.cluster import Cluster
from continuer.errors import RequestError
from tests.integration.support import events, until
from tests.models import moody

Fleet = Callable[..., Cluster]
NODES = ["n1", "n2"]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Starts a cluster of two nodes for a bundle; it ends with the test."""
    started: list[Cluster] = []

    def start(bundle: Bundle, **agent: Any) -> Cluster:
        cluster = Cluster(tmp_path, bundle.directory, NODES, agent=agent)
        started.append(cluster)
        cluster.start_all()
        return cluster

    yield start
    for cluster in started:
        cluster.stop_all()


def said(cluster: Cluster, event: str) -> list[dict[str, Any]]:
    return [found for node in NODES for found in events(cluster, node, event)]


@pytest.mark.skipif(not moody.DEADLY_HERE, reason="this processor does not trap on an overflow")
def test_a_request_that_crashes_engines_is_named_and_costs_no_agent(
    fleet: Fleet, tmp_path: Path
) -> None:
    network = moody.bundle(tmp_path / "b", moody.remainders(), moody.NUMBER, moody.NUMBER)
    cluster = fleet(network)
    started = {node: process.pid for node, process in cluster.processes.items()}
    with Client(cluster.endpoints) as client:
        right = client.infer(moody.HARMLESS).logits
        with pytest.raises(RequestError, match=r"killed the engine twice.*SIGFPE") as caught:
            client.infer(moody.DEADLY)
        assert caught.value.code == "quarantined"
        np.testing.assert_array_equal(client.infer(moody.HARMLESS).logits, right)
    restarts = said(cluster, "engine_restarted")
    assert len(restarts) == 2
    (request,) = {restart["request"] for restart in restarts}
    assert request
    assert request in caught.value.message
    (failed,) = said(cluster, "request_failed")
    assert failed["code"] == "quarantined"
    assert request in failed["problem"]
    assert {node: process.pid for node, process in cluster.processes.items()} == started
    assert all(process.poll() is None for process in cluster.processes.values())


def test_an_engine_that_is_killed_from_outside_costs_no_request(
    fleet: Fleet, bundle: Bundle
) -> None:
    cluster = fleet(bundle, engine="own_process")
    image = np.zeros(bundle.manifest.input.tensors[0].shape, np.float32)
    with Client(cluster.endpoints) as client:
        before = client.infer(image)
        for node in before.nodes:
            os.kill(_worker_of(cluster, node), signal.SIGKILL)
        after = client.infer(image)
    np.testing.assert_array_equal(after.logits, before.logits)
    until(lambda: len(said(cluster, "engine_restarted")) >= len(set(before.nodes)), "restarts")
    assert not said(cluster, "request_failed")


def _worker_of(cluster: Cluster, node: str) -> int:
    """The engine's worker of an agent: its keeper's only child."""
    agent = cluster.processes[node].pid
    keepers = [pid for pid in _children(agent) if b"engine_worker" in _command(pid)]
    (keeper,) = keepers
    (worker,) = _children(keeper)
    return worker


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
