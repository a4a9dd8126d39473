"""Nodes die, stop, leave and come back under load: nothing is lost, doubled or wrong."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from continuer.bundle import Bundle
from continuer.demo.cluster import Cluster
from continuer.demo.report import Oracle, version_of
from tests.integration.conftest import StartCluster
from tests.integration.support import (
    Stream,
    assert_all_well,
    events,
    failovers,
    kill,
    make_whole,
    node_state,
    running,
    state,
    techniques,
    until,
)


def failover_of(cluster: Cluster, before: int, *nodes: str) -> dict[str, Any]:
    """Wait for the record of a failover, newer than the first ``before``, that names nodes."""
    return until(  # type: ignore[no-any-return]  # until gives what the condition gives
        lambda: next(
            (f for f in failovers(cluster)[before:] if set(f["nodes"]) >= set(nodes)), None
        ),
        f"the failover of {', '.join(nodes)}",
    )


@pytest.mark.parametrize("victim", ["n1", "n3", "n5"])
def test_a_killed_node_costs_no_request(
    cluster: Cluster, oracle: Oracle, bundle: Bundle, victim: str
) -> None:
    """n1 is the ingress in use, n5 runs the head."""
    before = len(failovers(cluster))
    with Stream(cluster.endpoints, seconds=2.5) as stream:
        stream.flowing()
        kill(cluster, victim)
        record = failover_of(cluster, before, victim)
        until(lambda: state(cluster)["health"] == "reduced", "full accuracy without it")
    assert_all_well(oracle, bundle, stream.records)
    began = version_of(record["steps"][0]["version"])
    after = [r for r in stream.records if version_of(r.version) >= began]
    assert after
    assert all(victim not in r.nodes for r in after)
    assert "none" not in techniques(after)
    assert after[-1].technique == "repartition"
    assert after[-1].path == bundle.path()


def test_the_bridge_comes_first_and_the_best_candidate_heals(
    start_cluster: StartCluster, oracle: Oracle, bundle: Bundle
) -> None:
    """Agents with standby none hold what the bridge needs; the rest is loaded afterwards.

    In a fresh cluster: after a failover, what it loaded lets the next one do without a bridge.
    """
    cluster = start_cluster(agent={"standby": "none"})
    before = len(failovers(cluster))
    with Stream(cluster.endpoints, rate=150, seconds=2) as stream:
        stream.flowing()
        kill(cluster, "n3")
        failover_of(cluster, before, "n3")
        until(lambda: failovers(cluster)[before]["healed_ns"], "the healing")
    record = failovers(cluster)[before]
    bridge, healed = record["steps"]
    assert bridge["technique"] in ("skip", "early_exit", "mixed")
    assert healed["technique"] == "repartition"
    assert bridge["accuracy"] < healed["accuracy"]
    assert_all_well(oracle, bundle, stream.records)
    by_version = {
        version: techniques(r for r in stream.records if r.version == version)
        for version in (bridge["version"], healed["version"])
    }
    assert by_version[bridge["version"]] <= {bridge["technique"]}
    assert by_version[healed["version"]] <= {"repartition"}


@pytest.mark.parametrize("victims", [("n2", "n4"), ("n1", "n2")])
def test_two_nodes_killed_at_once_cost_no_request(
    cluster: Cluster, oracle: Oracle, bundle: Bundle, victims: tuple[str, str]
) -> None:
    with Stream(cluster.endpoints, seconds=2.5) as stream:
        stream.flowing()
        kill(cluster, *victims)
        until(
            lambda: (
                all(node_state(cluster, v) == "dead" for v in victims)
                and state(cluster)["health"] == "reduced"
            ),
            "a plan without both",
        )
    assert_all_well(oracle, bundle, stream.records)
    assert not set(stream.records[-1].nodes) & set(victims)
    assert stream.records[-1].path == bundle.path()


@pytest.mark.parametrize("survivor", ["n1", "n4"])
def test_the_last_one_standing_runs_the_whole_network(
    cluster: Cluster, oracle: Oracle, bundle: Bundle, survivor: str
) -> None:
    victims = [node for node in cluster.nodes if node != survivor]
    with Stream(cluster.endpoints, rate=40, seconds=3) as stream:
        stream.flowing(20)
        kill(cluster, *victims)
        until(
            lambda: (
                all(node_state(cluster, v) == "dead" for v in victims)
                and state(cluster)["health"] == "reduced"
            ),
            "a plan on one node",
        )
    assert_all_well(oracle, bundle, stream.records)
    assert stream.records[-1].nodes == (survivor,)
    assert stream.records[-1].path == bundle.path()


def test_a_restarted_node_is_taken_back_in(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    returned = len(events(cluster, "coordinator", "node_returned"))
    kill(cluster, "n2")
    until(lambda: node_state(cluster, "n2") == "dead", "its death to be known")
    with Stream(cluster.endpoints, seconds=3) as stream:
        cluster.start("n2")
        until(lambda: state(cluster)["health"] == "full", "its return")
    assert_all_well(oracle, bundle, stream.records)
    news = until(
        lambda: events(cluster, "coordinator", "node_returned")[returned:], "the journal's line"
    )
    assert [e["node"] for e in news] == ["n2"]
    with Stream(cluster.endpoints, seconds=1) as stream:
        pass
    assert {r.nodes for r in stream.records} == {tuple(cluster.nodes)}


def test_the_late_outputs_of_a_node_that_was_stopped_harm_nothing(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    """It wakes with work in its queues that others have done meanwhile."""
    before = len(failovers(cluster))
    with Stream(cluster.endpoints, rate=150, seconds=2.5) as stream:
        stream.flowing()
        cluster.signal(["n3"], signal.SIGSTOP)
        until(lambda: len(failovers(cluster)) > before, "its silence to be noticed")
        time.sleep(0.3)  # how long the node stays stopped: the fault itself
        cluster.signal(["n3"], signal.SIGCONT)
        until(lambda: node_state(cluster, "n3") == "active", "its return")
    assert failovers(cluster)[before]["reasons"] == ["silence"]
    assert_all_well(oracle, bundle, stream.records)
    assert all(running(cluster).values())


def test_a_stopped_ingress_is_left_and_its_requests_go_elsewhere(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    with Stream(cluster.endpoints, seconds=2.5) as stream:
        stream.flowing()
        cluster.signal(["n1"], signal.SIGSTOP)
        until(lambda: node_state(cluster, "n1") in ("suspect", "dead"), "its silence")
    cluster.signal(["n1"], signal.SIGCONT)
    assert_all_well(oracle, bundle, stream.records)
    assert "n1" not in stream.records[-1].nodes


def test_a_node_that_is_told_to_stop_leaves_without_an_error(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    with Stream(cluster.endpoints, seconds=2.5) as stream:
        stream.flowing()
        cluster.signal(["n3"], signal.SIGTERM)
        assert cluster.processes["n3"].wait(10) == 0
        until(lambda: node_state(cluster, "n3") == "left", "its leave")
        until(lambda: state(cluster)["health"] == "reduced", "a plan without it")
    assert_all_well(oracle, bundle, stream.records)
    stopped = events(cluster, "n3", "daemon_stopped")[-1]
    assert stopped["reason"] == "signal"
    assert [e["node"] for e in events(cluster, "coordinator", "node_left")] == ["n3"]


def test_an_ingress_that_is_told_to_stop_hands_its_clients_over(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    with Stream(cluster.endpoints, seconds=2.5) as stream:
        stream.flowing()
        cluster.signal(["n1"], signal.SIGTERM)
        assert cluster.processes["n1"].wait(10) == 0
        until(lambda: state(cluster)["health"] == "reduced", "a plan without it")
    assert_all_well(oracle, bundle, stream.records)


def test_a_node_that_dies_again_and_again_costs_no_request(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    with Stream(cluster.endpoints, rate=60, seconds=5) as stream:
        stream.flowing()
        for _ in range(3):
            kill(cluster, "n4")
            until(lambda: node_state(cluster, "n4") == "dead", "its death")
            cluster.start("n4")
            until(lambda: node_state(cluster, "n4") in ("joined", "active"), "its next life")
    assert_all_well(oracle, bundle, stream.records)


def test_a_node_that_stalls_again_and_again_costs_no_request(
    start_cluster: StartCluster, oracle: Oracle, bundle: Bundle
) -> None:
    cluster = start_cluster(coordinator={"heartbeat_timeout_ms": 30})
    with Stream(cluster.endpoints, rate=60, seconds=3) as stream:
        stream.flowing()
        for _ in range(6):
            cluster.signal(["n2"], signal.SIGSTOP)
            time.sleep(0.08)  # longer than the timeout, shorter than what is held a death
            cluster.signal(["n2"], signal.SIGCONT)
            time.sleep(0.15)  # the fault is this rhythm
    assert_all_well(oracle, bundle, stream.records)
    assert any("n2" in record["nodes"] for record in failovers(cluster))


def test_a_second_node_dies_while_the_first_is_being_healed(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    before = len(failovers(cluster))
    with Stream(cluster.endpoints, seconds=4) as stream:
        stream.flowing()
        kill(cluster, "n5")
        failover_of(cluster, before, "n5")
        kill(cluster, "n2")
        until(
            lambda: node_state(cluster, "n2") == "dead" and state(cluster)["health"] == "reduced",
            "a plan without both",
        )
    assert_all_well(oracle, bundle, stream.records)
    assert not set(stream.records[-1].nodes) & {"n2", "n5"}


def test_the_shared_cluster_is_whole_in_the_end(cluster: Cluster, bundle: Bundle) -> None:
    """After all of the above every node is back and no process is left behind."""
    make_whole(cluster)
    assert all(running(cluster).values())
    route = state(cluster)["plan"]["route"]
    assert [hop["node"] for hop in route] == cluster.nodes
    assert tuple(part for hop in route for part in hop["parts"]) == bundle.path()
