"""Real clusters for the tests, and the ends of their journals where a test fails."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from continuer import bundle as bundles
from continuer import load
from continuer.bundle import Bundle
from continuer.catalog import find_bundle
from continuer.client import Client
from continuer.demo.cluster import Cluster
from continuer.demo.report import Oracle
from tests.integration.strangers import IMAGE
from tests.integration.support import (
    BUDGET_MS,
    IMAGES,
    SEED,
    Stream,
    assert_all_well,
    make_whole,
    running,
    state,
    techniques,
)

TAIL_LINES = 15
# For busy machines: a longer silence before anyone is suspected, so that only what a test
# does causes failovers; a stated rate, so that changes of rate cause no new plans; and a
# short proof of stability, which saves time between tests.
CALM = {"heartbeat_timeout_ms": 400, "expected_rate_per_s": 100, "return_stable_ms": 200}
_up: list[Cluster] = []

StartCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """The shipped network."""
    return bundles.load(find_bundle("resnet32-cifar10"))


@pytest.fixture(scope="session")
def inputs(bundle: Bundle) -> list[load.Array]:
    """Prepared inputs, as every stream of these tests sends them."""
    return load.inputs_for(bundle.manifest.input, IMAGES, SEED)[0]


@pytest.fixture(scope="session")
def oracle(bundle: Bundle, inputs: list[load.Array]) -> Oracle:
    """Runs any path in this process."""
    return Oracle(bundle, inputs)


def clusters(bundle: Bundle, factory: pytest.TempPathFactory) -> Iterator[StartCluster]:
    """Yields what starts clusters of real processes; then ends every one of them."""
    started: list[Cluster] = []

    def start(
        count: int = 5,
        *,
        agent: dict[str, Any] | None = None,
        coordinator: dict[str, Any] | None = None,
    ) -> Cluster:
        directory: Path = factory.mktemp("cluster")
        nodes = [f"n{i}" for i in range(1, count + 1)]
        cluster = Cluster(
            directory,
            bundle.directory,
            nodes,
            agent=agent,
            coordinator={**CALM, **(coordinator or {})},
        )
        started.append(cluster)
        _up.append(cluster)
        cluster.start_all()
        return cluster

    yield start
    for cluster in started:
        _up.remove(cluster)
        cluster.stop_all()


@pytest.fixture
def start_cluster(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartCluster]:
    """Starts clusters for one test."""
    yield from clusters(bundle, tmp_path_factory)


@pytest.fixture(scope="module")
def shared(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Five nodes for a whole module, with nothing in memory that the plan does not need."""
    for start in clusters(bundle, tmp_path_factory):
        yield start(agent={"standby": "none"})


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """The module's cluster, made whole again after what the test before did to it."""
    make_whole(shared)
    return shared


@pytest.fixture
def unharmed(cluster: Cluster, oracle: Oracle, bundle: Bundle) -> Iterator[Cluster]:
    """Requests flow while the test does its worst; afterwards all is as it was before."""
    before = state(cluster)
    with Stream(cluster.endpoints, rate=50, seconds=1.5) as stream:
        stream.flowing(10)
        yield cluster
    assert_all_well(oracle, bundle, stream.records)
    assert techniques(stream.records) == {"none"}
    assert all(running(cluster).values()), running(cluster)
    after = state(cluster)
    assert after["failovers"] == before["failovers"]
    assert after["version"] == before["version"]
    assert after["health"] == "full"
    with Client(cluster.endpoints) as client:
        assert client.infer(IMAGE, BUDGET_MS).technique == "none"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the ends of the daemons' journals below a failure."""
    report = yield
    if report.failed:
        for cluster in _up:
            for name in cluster.processes:
                lines = cluster.log(name).read_text(errors="replace").splitlines()
                report.sections.append((f"journal of {name}", "\n".join(lines[-TAIL_LINES:])))
    return report
