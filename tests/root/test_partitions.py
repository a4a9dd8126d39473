"""Cuts between parts of the cluster that are all alive."""

from __future__ import annotations

import time

import pytest

from tests.root.cluster import NetworkCluster
from tests.root.steps import StartLoad

pytestmark = pytest.mark.root


@pytest.mark.parametrize("seconds", [0.5, 3])
def test_a_coordinator_cut_off_from_everyone_does_nothing_and_the_service_goes_on(
    cluster: NetworkCluster, start_load: StartLoad, seconds: float
) -> None:
    traffic = start_load(seconds + 4)
    version = cluster.status(brief=True)["version"]
    cluster.network.cut("coordinator")
    cut_ns = time.monotonic_ns()
    cluster.wait_for(
        lambda s: all(node["silence_ms"] > 1000 * seconds for node in s["nodes"]),
        "silence on all links",
    )
    assert cluster.status(brief=True)["version"] == version
    cluster.network.heal()
    state = cluster.wait_for(
        lambda s: all(node["silence_ms"] < node["timeout_ms"] for node in s["nodes"]),
        "all nodes to be heard again",
    )
    heard_ns = time.monotonic_ns()
    assert state["version"] == version
    assert not state["failovers"]
    assert cluster.events("coordinator", "suspicion_held")
    traffic.wait_for_answers(25)
    requests = [r for r in traffic.finish() if cut_ns < r.intended_ns < heard_ns]
    assert len(requests) > 10
    assert all(set(r.nodes) == set(cluster.nodes) for r in requests)
