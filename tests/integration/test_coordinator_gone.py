"""The coordinator dies, stalls, comes back: service goes on, and nobody is blamed for it."""

from __future__ import annotations

import itertools
import json
import signal
import time

import numpy as np
import pytest

from continuer.bundle import Bundle
from continuer.client import Client
from continuer.demo.cluster import Cluster, free_ports
from continuer.demo.report import Oracle, version_of
from tests.integration.conftest import CALM, StartCluster
from tests.integration.support import (
    BUDGET_MS,
    Stream,
    assert_all_well,
    cli,
    events,
    failovers,
    kill,
    node_state,
    running,
    state,
    techniques,
    until,
)

STATUS_KEYS = {
    "classes",
    "predictions",
    "warnings",
    "schema",
    "cluster",
    "deployment",
    "model",
    "bundle",
    "health",
    "objectives",
    "version",
    "clock_ns",
    "rate_per_s",
    "plan",
    "nodes",
    "contingencies",
    "model_version",
    "rollout",
    "failovers",
}


def test_without_a_coordinator_every_answer_is_still_full(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    lost = [len(events(cluster, node, "coordinator_lost")) for node in cluster.nodes]
    with Stream(cluster.endpoints, seconds=2.5) as stream:
        stream.flowing()
        kill(cluster, "coordinator")
        sent = len(stream.records)
    assert len(stream.records) > sent + 40
    assert_all_well(oracle, bundle, stream.records)
    assert techniques(stream.records) == {"none"}
    for node, before in zip(cluster.nodes, lost, strict=True):
        assert len(events(cluster, node, "coordinator_lost")) == before + 1
    assert sum(running(cluster).values()) == len(cluster.nodes)


def test_a_new_client_is_served_without_a_coordinator(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    kill(cluster, "coordinator")
    with Stream(cluster.endpoints, seconds=0.5) as stream:
        pass
    assert_all_well(oracle, bundle, stream.records)


def test_a_restarted_coordinator_takes_over_with_a_higher_term(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    old = version_of(state(cluster)["version"])
    with Stream(cluster.endpoints, seconds=4) as stream:
        stream.flowing()
        kill(cluster, "coordinator")
        cluster.start("coordinator")
        until(lambda: state(cluster).get("health") == "full", "the agents to join anew")
        new = state(cluster)
        assert version_of(new["version"])[0] == old[0] + 1
        assert not new["failovers"]
        assert [n["state"] for n in new["nodes"]] == ["active"] * len(cluster.nodes)
        kill(cluster, "n3")
        until(lambda: state(cluster)["health"] == "reduced", "a plan without n3")
    assert_all_well(oracle, bundle, stream.records)
    last = stream.records[-1]
    assert last.technique == "repartition"
    assert "n3" not in last.nodes
    assert version_of(last.version)[0] == old[0] + 1
    assert [f["nodes"] for f in failovers(cluster)] == [["n3"]]


def test_what_agents_accepted_before_is_not_taken_for_requests_that_arrive_now(
    cluster: Cluster,
) -> None:
    with Stream(cluster.endpoints, rate=300, seconds=1.5):
        pass
    kill(cluster, "coordinator")
    cluster.start("coordinator")
    begun = until(lambda: state(cluster).get("health") == "full" and state(cluster), "joining")
    rates = set()

    def measured() -> bool:
        now = state(cluster)
        rates.add(now["rate_per_s"])
        return bool(now["clock_ns"] - begun["clock_ns"] > 2_000_000_000)

    until(measured, "two measurements of the rate")
    assert rates == {float(CALM["expected_rate_per_s"])}


def test_the_term_rises_from_what_agents_hold_where_the_state_is_lost(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    """Agents refuse plans older than theirs: a coordinator that forgot must learn it."""
    old = version_of(state(cluster)["version"])
    kill(cluster, "coordinator")
    (cluster.directory / "state" / "term").unlink()
    cluster.start("coordinator")
    until(lambda: state(cluster).get("health") == "full", "the agents to join anew")
    assert version_of(state(cluster)["version"])[0] == old[0] + 1
    with Stream(cluster.endpoints, seconds=0.5) as stream:
        pass
    assert_all_well(oracle, bundle, stream.records)
    until(
        lambda: all(
            e[-1]["version"] == state(cluster)["version"]
            for node in cluster.nodes
            if (e := events(cluster, node, "plan_accepted"))
        ),
        "every agent to obey it",
    )


def test_a_coordinator_that_stalled_blames_nobody(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    before = len(failovers(cluster))
    version = state(cluster)["version"]
    with Stream(cluster.endpoints, seconds=3) as stream:
        stream.flowing()
        cluster.signal(["coordinator"], signal.SIGSTOP)
        time.sleep(2)  # the fault itself
        cluster.signal(["coordinator"], signal.SIGCONT)
        late = until(
            lambda: [
                e for e in events(cluster, "coordinator", "observer_late") if e["late_ms"] > 1500
            ],
            "it to notice that it was late",
        )
    assert len(late) == 1
    assert_all_well(oracle, bundle, stream.records)
    assert techniques(stream.records) == {"none"}
    after = state(cluster)
    assert len(after["failovers"]) == before
    assert after["version"] == version
    assert after["health"] == "full"


def test_a_node_that_dies_while_the_coordinator_is_away_is_found_afterwards(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    """The stalled coordinator must not excuse a silence that goes on."""
    with Stream(cluster.endpoints, rate=40, seconds=2.5) as stream:
        stream.flowing(20)
        cluster.signal(["coordinator"], signal.SIGSTOP)
        kill(cluster, "n5")
        cluster.signal(["coordinator"], signal.SIGCONT)
        until(
            lambda: node_state(cluster, "n5") == "dead" and state(cluster)["health"] == "reduced",
            "a plan without n5",
        )
    assert_all_well(oracle, bundle, stream.records)
    assert "n5" not in stream.records[-1].nodes


# --- continuer status ---------------------------------------------------------------------


def test_status_is_zero_and_one_json_object_while_all_is_full(cluster: Cluster) -> None:
    result = cli("status", "--coordinator", cluster.control, "--json")
    assert result.returncode == 0
    found = json.loads(result.stdout)
    assert found.keys() == STATUS_KEYS
    assert (found["schema"], found["health"]) == (1, "full")
    assert found["plan"]["technique"] == "none"
    assert [n["node"] for n in found["nodes"]] == cluster.nodes
    failures = [c["nodes"] for c in found["contingencies"]]
    singles = [nodes for nodes in failures if len(nodes) == 1]
    ring = [*cluster.nodes, cluster.nodes[0]]  # the answer goes back to where it entered
    links = {f"{one}>{other}" for one, other in itertools.pairwise(ring)}
    assert sorted(each for each in singles if each[0] not in links) == [[n] for n in cluster.nodes]
    assert {each[0] for each in singles} >= links
    assert len([nodes for nodes in failures if len(nodes) == 2]) == 10


def test_status_for_people_names_nodes_plan_and_contingencies(cluster: Cluster) -> None:
    result = cli("status", "--coordinator", cluster.control)
    assert result.returncode == 0
    for text in ("resnet32-cifar10", "full", "technique none", "block06", "if n3 fails:"):
        assert text in result.stdout
    assert result.stdout.count("active") == len(cluster.nodes)


def test_status_is_zero_with_a_node_missing_and_full_accuracy(cluster: Cluster) -> None:
    kill(cluster, "n4")
    until(lambda: state(cluster)["health"] == "reduced", "a plan without n4")
    result = cli("status", "--coordinator", cluster.control)
    assert result.returncode == 0
    assert "reduced" in result.stdout
    assert "dead" in result.stdout


def test_status_is_one_without_a_plan(start_cluster: StartCluster) -> None:
    lonely = start_cluster(1)
    kill(lonely, "n1")
    until(lambda: state(lonely)["health"] == "no_plan", "its end to be known")
    result = cli("status", "--coordinator", lonely.control, "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["health"] == "no_plan"
    assert events(lonely, "coordinator", "no_plan")


def test_a_request_without_a_plan_ends_within_its_budget_and_the_next_life_serves(
    start_cluster: StartCluster, oracle: Oracle, bundle: Bundle
) -> None:
    lonely = start_cluster(1)
    kill(lonely, "n1")
    lonely.start("n1")
    until(lambda: state(lonely).get("health") == "full", "its next life")
    with Stream(lonely.endpoints, seconds=0.5) as stream:
        pass
    assert_all_well(oracle, bundle, stream.records)


def test_status_is_69_where_no_coordinator_answers() -> None:
    (port,) = free_ports(1)
    result = cli("status", "--coordinator", f"tcp://127.0.0.1:{port}", "--json")
    assert result.returncode == 69
    assert result.stdout == ""
    assert f"127.0.0.1:{port}" in result.stderr
    assert "continuer-coordinator" in result.stderr


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://127.0.0.1:99999", "tcp://"])
def test_status_of_an_address_that_is_none_says_so(endpoint: str) -> None:
    result = cli("status", "--coordinator", endpoint)
    assert result.returncode == 69
    assert endpoint in result.stderr
    assert "Traceback" not in result.stderr


def test_clients_survive_a_change_of_coordinator_and_of_ingress(
    cluster: Cluster,
) -> None:
    """One client, given one ingress only, outlives both that ingress and the coordinator."""
    with Client(cluster.endpoints[:1]) as client:
        picture = np.zeros((32, 32, 3), np.uint8)
        assert client.infer(picture, BUDGET_MS).technique == "none"
        kill(cluster, "coordinator")
        cluster.start("coordinator")
        until(lambda: state(cluster).get("health") == "full", "the agents to join anew")
        assert client.infer(picture, BUDGET_MS).technique == "none"
        kill(cluster, "n1")
        answer = client.infer(picture, BUDGET_MS)
        assert "n1" not in answer.nodes
