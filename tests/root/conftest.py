"""What the tests in network namespaces share. They are skipped where these cannot be made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.root.cluster import BUDGET_MS, RATE_PER_S, TIMEOUT_MS, NetworkCluster, Traffic
from tests.root.network import Network, lacking
from tests.root.steps import StartLoad

NODES = ["n1", "n2", "n3", "n4", "n5"]


@pytest.fixture
def network() -> Iterator[Network]:
    """Five nodes, a coordinator and a client, each in a namespace of its own."""
    if reason := lacking():
        pytest.skip(reason)
    made = Network([*NODES, "coordinator", "client"])
    yield made
    made.close()


@pytest.fixture
def timeout_ms() -> float:
    """After how much silence a node is suspected; for modules to say something else."""
    return TIMEOUT_MS


@pytest.fixture
def cluster(network: Network, tmp_path: Path, timeout_ms: float) -> Iterator[NetworkCluster]:
    """A cluster with a plan over all five nodes in force."""
    settings = {"heartbeat_timeout_ms": timeout_ms}
    made = NetworkCluster(tmp_path, network, NODES, coordinator=settings)
    try:
        made.start_all()
        yield made
    finally:
        made.stop_all()


@pytest.fixture
def start_load(cluster: NetworkCluster) -> Iterator[StartLoad]:
    """Starts requests, which end with the test, and waits until answers flow."""
    with ExitStack() as stack:

        def start(rate: float = RATE_PER_S, budget_ms: float = BUDGET_MS) -> Traffic:
            traffic = Traffic(cluster, rate, budget_ms=budget_ms)
            stack.callback(traffic.stop)
            traffic.wait_for_answers(max(5, int(rate / 2)))
            return traffic

        yield start
