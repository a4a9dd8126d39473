"""Links that lose packets or are slow: nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.root.cluster import NetworkCluster
from tests.root.steps import StartLoad, come_back

pytestmark = pytest.mark.root

SECONDS = 4
SLOW_KBIT = 50_000  # the load needs half of it: 50 tensors of 64 KiB a second


@pytest.mark.parametrize("percent", [1, 5])
def test_lost_packets_lose_no_request(
    cluster: NetworkCluster,
    start_load: StartLoad,
    record_property: Callable[[str, object], None],
    percent: int,
) -> None:
    traffic = start_load(SECONDS + 3)
    cluster.network.loss("n3", percent)
    time.sleep(SECONDS)  # how long the fault lasts
    come_back(cluster)
    # TCP repeats a heartbeat after 30 ms at best and 200 ms at worst: n3 may well be doubted.
    record_property("failovers", cluster.status(brief=True)["failovers"])
    traffic.finish()


def test_a_slow_link_loses_no_request(cluster: NetworkCluster, start_load: StartLoad) -> None:
    traffic = start_load(SECONDS + 3)
    cluster.network.rate("n3", SLOW_KBIT)
    time.sleep(SECONDS)  # how long the fault lasts
    come_back(cluster)
    traffic.finish()
