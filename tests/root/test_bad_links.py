"""Links that lose packets or are slow: nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from continuer.bundle import load
from continuer.cli import main
from continuer.errors import EXIT_OK
from tests.models import tiny
from tests.root.cluster import NetworkCluster, Traffic
from tests.root.network import Network
from tests.root.steps import StartLoad, come_back

pytestmark = pytest.mark.root

SECONDS = 4
SLOW_KBIT = 50_000  # the load needs half of it: 50 tensors of 64 KiB a second
BIG_SIDE = 184  # pixels of three floats: 0.4 MB cross every link
BIG_RATE_PER_S = 4
VERY_SLOW_KBIT = 20_000  # 0.16 s for each of them, and heartbeats stand behind it
BIG_NODES = ["n1", "n2", "n3"]


@pytest.mark.parametrize("percent", [1, 5, 20])
def test_lost_packets_lose_no_request(
    cluster: NetworkCluster,
    start_load: StartLoad,
    record_property: Callable[[str, object], None],
    percent: int,
) -> None:
    # Where a fifth is lost, TCP may try a packet for seconds: the budget has to allow for it.
    traffic = start_load(budget_ms=30_000) if percent >= 20 else start_load()
    cluster.network.loss("n3", percent)
    time.sleep(SECONDS)  # how long the fault lasts
    come_back(cluster)
    # TCP repeats a heartbeat after 30 ms at best and 200 ms at worst: n3 may well be doubted.
    record_property("failovers", cluster.status(brief=True)["failovers"])
    traffic.finish()


def test_a_slow_link_loses_no_request(cluster: NetworkCluster, start_load: StartLoad) -> None:
    traffic = start_load()
    cluster.network.rate("n3", SLOW_KBIT)
    time.sleep(SECONDS)  # how long the fault lasts
    come_back(cluster)
    traffic.finish()


@pytest.fixture
def big(network: Network, tmp_path: Path) -> Iterator[NetworkCluster]:
    """Three nodes that pass tensors of 0.4 MB on."""
    (tmp_path / "model.tflite").write_bytes(tiny.wide(BIG_SIDE))
    out = tmp_path / "model"
    command = ["model", "import", str(tmp_path / "model.tflite"), f"--out={out}", "--nodes=3"]
    assert main(command) == EXIT_OK
    crossing = [part.outputs[0].shape for part in load(out).manifest.parts[:-1]]
    assert set(crossing) == {(1, BIG_SIDE, BIG_SIDE, tiny.CHANNELS)}
    settings = {"expected_rate_per_s": BIG_RATE_PER_S}
    made = NetworkCluster(tmp_path, network, BIG_NODES, bundle=out, coordinator=settings)
    try:
        made.start_all()
        yield made
    finally:
        made.stop_all()


def test_big_tensors_on_a_slow_link_cost_no_request(
    big: NetworkCluster, record_property: Callable[[str, object], None]
) -> None:
    traffic = Traffic(big, BIG_RATE_PER_S, images="random")
    try:
        traffic.wait_for_answers(4)
        big.network.rate("n2", VERY_SLOW_KBIT)
        # Slow is not dead: tensors go through it, and so do heartbeats in between.
        time.sleep(SECONDS)  # how long the fault lasts
        assert all(node["state"] != "dead" for node in big.status(brief=True)["nodes"])
        come_back(big)
        record_property("failovers", big.status(brief=True)["failovers"])
        traffic.finish()
    finally:
        traffic.stop()
