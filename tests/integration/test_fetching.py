"""Agents that have no bundle: they fetch what they need, from each other or the coordinator."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from continuer.bundle import MANIFEST, Bundle
from continuer.demo.cluster import Cluster
from continuer.demo.report import Oracle
from tests.integration.conftest import CALM
from tests.integration.support import (
    Stream,
    assert_all_well,
    cli,
    events,
    failovers,
    kill,
    state,
    techniques,
    until,
)

Make = Callable[..., Cluster]


@pytest.fixture
def make(bundle: Bundle, tmp_path: Path) -> Iterator[Make]:
    """Makes a cluster in which the ``empty`` nodes have no bundle; the test starts it."""
    made: list[Cluster] = []

    def make(empty: tuple[str, ...], *, standby: str = "none", parts_at: str = "") -> Cluster:
        nodes = [f"n{i}" for i in range(1, 6)]
        cluster = Cluster(
            tmp_path, bundle.directory, nodes, agent={"standby": standby}, coordinator=CALM
        )
        for node in empty:
            configure(cluster, node, bundle=None, state_dir=str(tmp_path / node))
        if parts_at:  # the coordinator has the manifest alone
            manifest = tmp_path / "manifest-only"
            manifest.mkdir()
            shutil.copy(bundle.directory / MANIFEST, manifest)
            configure(cluster, "coordinator", bundle=str(manifest))
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        cluster.stop_all()


def configure(cluster: Cluster, name: str, **changes: Any) -> None:
    """Change a daemon's file; None removes the key."""
    path = cluster.directory / f"{name}.toml"
    lines = [
        line for line in path.read_text().splitlines() if line.partition(" =")[0] not in changes
    ]
    lines += [f'{key} = "{value}"' for key, value in changes.items() if value is not None]
    path.write_text("\n".join(lines) + "\n")


def objects(cluster: Cluster, node: str) -> set[str]:
    """Names of the files in a node's store."""
    return {path.name for path in (cluster.directory / node / "store" / "objects").iterdir()}


def fetched(cluster: Cluster, node: str) -> int:
    """Bytes that a node has fetched, by its journal."""
    return sum(int(event["bytes"]) for event in events(cluster, node, "parts_fetched"))


def serves(cluster: Cluster, oracle: Oracle, bundle: Bundle) -> set[str | None]:
    """Send requests for a moment; all are answered rightly. Their techniques."""
    with Stream(cluster.endpoints, rate=50, seconds=1) as stream:
        pass
    assert_all_well(oracle, bundle, stream.records)
    return techniques(stream.records)


def test_an_agent_with_an_empty_store_joins_and_serves(
    make: Make, oracle: Oracle, bundle: Bundle
) -> None:
    cluster = make(("n3",), standby="all")
    cluster.start_all()
    assert serves(cluster, oracle, bundle) == {"none"}
    wanted = {part.sha256 for part in bundle.manifest.parts} | {bundle.hash.hex()}
    assert objects(cluster, "n3") == wanted
    assert fetched(cluster, "n3") == sum(part.bytes for part in bundle.manifest.parts)
    kill(cluster, "n3")
    cluster.start("n3")  # its next life needs nothing of anybody
    until(lambda: state(cluster).get("health") == "full", "n3 to be back")
    assert fetched(cluster, "n3") == sum(part.bytes for part in bundle.manifest.parts)


def test_without_spares_an_agent_fetches_only_what_it_may_need(
    make: Make, oracle: Oracle, bundle: Bundle
) -> None:
    cluster = make(("n1", "n2", "n3", "n4", "n5"))
    cluster.start_all()
    assert serves(cluster, oracle, bundle) == {"none"}
    for node in cluster.nodes:
        assert 1 < len(objects(cluster, node)) < len(bundle.manifest.parts)


def test_agents_fetch_from_each_other_where_the_coordinator_has_no_parts(
    make: Make, oracle: Oracle, bundle: Bundle
) -> None:
    cluster = make(("n2", "n3", "n4", "n5"), parts_at="n1")
    cluster.start_all()
    assert serves(cluster, oracle, bundle) == {"none"}
    assert all(fetched(cluster, node) > 0 for node in ("n2", "n3", "n4", "n5"))


def test_when_the_one_that_has_a_block_dies_others_fetch_it_and_nothing_is_lost(
    make: Make, oracle: Oracle, bundle: Bundle
) -> None:
    cluster = make(("n1", "n2", "n3", "n4", "n5"))
    cluster.start_all()
    route = {hop["node"]: hop["parts"] for hop in state(cluster)["plan"]["route"]}
    lost = {bundle.parts[name].sha256 for name in route["n3"]}
    others = set().union(*(objects(cluster, n) for n in cluster.nodes if n != "n3"))
    assert lost - others, "nobody else is to have some block of n3"
    before = {node: fetched(cluster, node) for node in cluster.nodes}
    with Stream(cluster.endpoints, rate=60, seconds=4) as stream:
        stream.flowing()
        kill(cluster, "n3")
        until(lambda: state(cluster)["plan"]["technique"] == "repartition", "the blocks to be back")
    assert_all_well(oracle, bundle, stream.records)
    now = {node: fetched(cluster, node) for node in cluster.nodes}
    assert sum(now.values()) > sum(before.values())
    others = set().union(*(objects(cluster, n) for n in cluster.nodes if n != "n3"))
    assert lost <= others
    (failover,) = failovers(cluster)
    assert [step["technique"] for step in failover["steps"]][-1] == "repartition"


def test_a_damaged_file_in_the_store_is_fetched_anew(
    make: Make, oracle: Oracle, bundle: Bundle
) -> None:
    cluster = make(("n3",), standby="all")  # it has everything, so that one file is missing
    cluster.start_all()
    route = {hop["node"]: hop["parts"] for hop in state(cluster)["plan"]["route"]}
    kill(cluster, "n3")
    digest = bundle.parts[route["n3"][0]].sha256
    damaged = cluster.directory / "n3" / "store" / "objects" / digest
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    before = fetched(cluster, "n3")
    until(lambda: state(cluster)["health"] != "full", "the others to miss n3")
    cluster.start("n3")
    until(lambda: state(cluster)["health"] == "full", "n3 to be back")
    assert fetched(cluster, "n3") == before + bundle.parts[route["n3"][0]].bytes
    assert serves(cluster, oracle, bundle) == {"none"}


def test_an_agent_waits_for_the_coordinator_to_say_what_to_run(make: Make) -> None:
    cluster = make(("n1",))
    cluster.start("n1")
    until(lambda: events(cluster, "n1", "bundle_awaited"), "n1 to say what it waits for")
    assert cluster.processes["n1"].poll() is None
    for name in ("coordinator", "n2", "n3", "n4", "n5"):
        cluster.start(name)
    until(lambda: state(cluster).get("health") == "full", "everyone to be at work")


def test_with_neighbours_blocks_in_memory_a_death_costs_no_accuracy(
    make: Make, oracle: Oracle, bundle: Bundle
) -> None:
    cluster = make((), standby="neighbours")
    cluster.start_all()
    nodes = state(cluster)["nodes"]
    assert all(node["parts_loaded"] < len(bundle.part_names) for node in nodes)
    with Stream(cluster.endpoints, rate=60, seconds=3) as stream:
        stream.flowing()
        kill(cluster, "n3")
    assert_all_well(oracle, bundle, stream.records)
    assert techniques(stream.records) == {"none", "repartition"}
    first = failovers(cluster)[0]["steps"][0]
    assert first["technique"] == "repartition"


def test_blocks_are_placed_for_latency_by_order(make: Make, oracle: Oracle, bundle: Bundle) -> None:
    cluster = make((), standby="all")
    cluster.start_all()
    assert len(state(cluster)["plan"]["route"]) == 5
    order = ("objectives", "set", "--coordinator", cluster.control, "--optimise")
    assert cli(*order, "latency").returncode == 0
    until(lambda: len(state(cluster)["plan"]["route"]) < 5, "fewer boxes to be used")
    assert state(cluster)["plan"]["technique"] == "none"
    assert serves(cluster, oracle, bundle) == {"none"}
    assert cli(*order, "speed").returncode == 2
