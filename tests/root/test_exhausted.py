"""A box that has run out of something: room on its disk, descriptors."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from agent import accepted
from bench.soak_faults import descriptors
from continuer.demo.report import version_of
from tests.integration.support import until
from tests.root import network
from tests.root.cluster import NetworkCluster, Traffic, failed_over, route_nodes
from tests.root.conftest import NODES
from tests.root.network import Network
from tests.root.steps import StartLoad, all_at_work, come_back, fail_over

pytestmark = pytest.mark.root

SIZE = "16k"
RATE_PER_S = 5
BUDGET_MS = 20_000
CALM_MS = 1000


@pytest.fixture
def timeout_ms() -> float:
    """Only what these tests do to a node is to make it suspect, however busy the machine is."""
    return CALM_MS


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[list[Path]]:
    """A small file system for each state directory."""
    if reason := network.lacking():
        pytest.skip(reason)
    made = []
    try:
        for name in ("state", *NODES):
            directory = tmp_path / name
            directory.mkdir()
            network.run("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(directory))
            made.append(directory)
        yield made
    finally:
        for directory in made:
            network.run("umount", "--lazy", str(directory))


@pytest.fixture
def stateful(
    network: Network,
    tmp_path: Path,
    disks: list[Path],  # noqa: ARG001  # they have to be there first
) -> Iterator[NetworkCluster]:
    """A cluster that keeps its state on these disks."""
    made = NetworkCluster(tmp_path, network, NODES, coordinator={"heartbeat_timeout_ms": CALM_MS})
    for node in NODES:
        with (tmp_path / f"{node}.toml").open("a") as file:
            file.write(f'state_dir = "{tmp_path / node}"\n')
    try:
        made.start_all()
        yield made
    finally:
        made.stop_all()


def fill(directory: Path) -> Path:
    """Leave no room at all; returns the file to remove for some."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast


def test_full_disks_are_said_and_cost_no_request(
    stateful: NetworkCluster, disks: list[Path]
) -> None:
    cluster, n3 = stateful, stateful.directory / "n3"
    before = version_of(cluster.status(brief=True)["version"])
    cluster.wait_for(lambda _: version_of(str(accepted.load(str(n3)))) == before, "it on the disk")
    ballasts = [fill(directory) for directory in disks]
    traffic = Traffic(cluster, RATE_PER_S, budget_ms=BUDGET_MS)
    try:
        traffic.wait_for_answers(5)
        # The coordinator cannot store its next term, nor an agent the version that it accepts.
        for name in ("coordinator", "n3"):
            cluster.signal([name], signal.SIGKILL)
            cluster.processes[name].wait()
            cluster.start(name)
            state = cluster.wait_for(all_at_work, f"{name} to be back")
            traffic.wait_for_answers(5)
        assert version_of(state["version"]) > before
        for name in ("coordinator", "n3"):
            said = partial(cluster.events, name, "state_unwritable")
            cluster.wait_for(lambda _: said(), f"a warning of {name}'s")  # noqa: B023  # called here
            assert "No space left on device" in said()[0]["problem"]
        for ballast in ballasts:
            ballast.unlink()
        cluster.signal(["n5"], signal.SIGKILL)  # whatever needs a new plan
        cluster.processes["n5"].wait()
        cluster.start("n5")
        cluster.wait_for(
            lambda s: all_at_work(s) and str(accepted.load(str(n3))) == s["version"],
            "what is accepted to be stored again",
        )
        traffic.wait_for_answers(5)
        assert set(traffic.finish()[-1].nodes) == set(cluster.nodes)
    finally:
        traffic.stop()


@contextlib.contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    """A process that may open no more than it has open now."""
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid), usual[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)


@pytest.mark.parametrize("victim", ["n1", "n3"])
def test_used_up_descriptors_cost_no_request(
    cluster: NetworkCluster, start_load: StartLoad, victim: str
) -> None:
    """The process can take no connection and open none, and others die and come back meanwhile."""
    traffic = start_load(RATE_PER_S, BUDGET_MS)
    process = cluster.processes[victim]
    with without_descriptors(process.pid):
        traffic.wait_for_answers(5)
        assert not failed_over(cluster.status(brief=True), victim)
        cluster.signal(["n4"], signal.SIGKILL)
        fail_over(cluster, "n4", "link closed")
        cluster.processes["n4"].wait()
        assert victim in route_nodes(cluster.status(brief=True))
        traffic.wait_for_answers(5)
        cluster.start("n4")
        traffic.wait_for_answers(5)
        assert process.poll() is None
    come_back(cluster)
    traffic.wait_for_answers(5)
    assert process.poll() is None
    assert set(traffic.finish()[-1].nodes) == set(cluster.nodes)


def test_a_coordinator_without_descriptors_fails_over_on_the_links_that_it_has(
    cluster: NetworkCluster, start_load: StartLoad
) -> None:
    """Nobody can ask it for its status meanwhile, so its journal is read."""
    traffic = start_load(RATE_PER_S, BUDGET_MS)
    process = cluster.processes["coordinator"]
    with without_descriptors(process.pid):
        traffic.wait_for_answers(5)
        assert not cluster.events("coordinator", "failover")
        cluster.signal(["n4"], signal.SIGKILL)
        told = until(lambda: cluster.events("coordinator", "failover_told"), "the failover")
        assert told[0]["nodes"] == ["n4"]
        cluster.processes["n4"].wait()
        cluster.start("n4")
        traffic.wait_for_answers(5)
    come_back(cluster)
    traffic.wait_for_answers(5)
    assert process.poll() is None
    assert set(traffic.finish()[-1].nodes) == set(cluster.nodes)
