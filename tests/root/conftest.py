"""What the tests in network namespaces share. They are skipped where these cannot be made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.root.cluster import NetworkCluster, Traffic
from tests.root.network import Network, lacking

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
def cluster(network: Network, tmp_path: Path) -> Iterator[NetworkCluster]:
    """A cluster with a plan over all five nodes in force."""
    made = NetworkCluster(tmp_path, network, NODES)
    try:
        made.start_all()
        yield made
    finally:
        made.stop_all()


@pytest.fixture
def start_load(cluster: NetworkCluster) -> Iterator[Callable[[float], Traffic]]:
    """Starts a load of so many seconds and waits until answers flow."""
    with ExitStack() as stack:

        def start(seconds: float) -> Traffic:
            traffic = Traffic(cluster, seconds)
            stack.callback(traffic.stop)
            traffic.wait_for_answers(25)
            return traffic

        yield start
