"""Cuts between parts of the cluster that are all alive."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from tests.root.cluster import NetworkCluster, failed_over, route_nodes
from tests.root.steps import StartLoad, come_back, finish_well

pytestmark = pytest.mark.root


@pytest.mark.parametrize("seconds", [0.5, 3])
def test_a_coordinator_cut_off_from_everyone_does_nothing_and_the_service_goes_on(
    cluster: NetworkCluster, start_load: StartLoad, seconds: float
) -> None:
    traffic = start_load()
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


def test_two_nodes_that_cannot_reach_each_other_are_not_used_together(
    cluster: NetworkCluster, start_load: StartLoad
) -> None:
    def apart(state: dict[str, Any]) -> bool:
        nodes = [hop["node"] for hop in (state["plan"] or {"route": []})["route"]]
        neighbours = {frozenset(pair) for pair in itertools.pairwise(nodes)}
        return bool(nodes) and frozenset({"n2", "n3"}) not in neighbours

    traffic = start_load()
    cluster.network.part("n2", "n3")
    cluster.wait_for(apart, "a route on which the two are not neighbours")
    # The link is tried again, fails again, and is avoided for longer.
    cluster.wait_for(
        lambda _: len(cluster.events("coordinator", "link_failed")) >= 3, "three failures of it"
    )
    state = cluster.wait_for(apart, "such a route again")
    assert not failed_over(state, "n2"), "no box is to blame"
    assert not failed_over(state, "n3"), "no box is to blame"
    traffic.wait_for_answers(25)
    come_back(cluster)
    traffic.wait_for_answers(25)
    traffic.finish()


@pytest.mark.parametrize(("source", "target"), [("n2", "n3"), ("n3", "n2")])
def test_a_link_between_neighbours_that_works_one_way_only_is_gone_around(
    cluster: NetworkCluster, start_load: StartLoad, source: str, target: str
) -> None:
    traffic = start_load()
    cluster.network.oneway(source, target)
    # TCP needs both ways: what n2 sends is not confirmed, whichever of them is cut.
    cluster.wait_for(
        lambda _: (
            "n2>n3" in {event["link"] for event in cluster.events("coordinator", "link_failed")}
        ),
        "the link to be found broken",
    )
    traffic.wait_for_answers(50)
    state = cluster.status(brief=True)
    assert not failed_over(state, "n2"), "no box is to blame"
    assert not failed_over(state, "n3"), "no box is to blame"
    come_back(cluster)
    traffic.wait_for_answers(25)
    traffic.finish()


def test_the_part_with_the_coordinator_goes_on_and_the_other_one_waits(
    cluster: NetworkCluster, start_load: StartLoad
) -> None:
    ours, others = ["n1", "n2"], ["n3", "n4", "n5"]
    traffic = start_load(15)
    cluster.network.split([*ours, "coordinator", "client"], others)
    cluster.wait_for(lambda s: route_nodes(s) == {*ours}, "a plan over what is left")
    accepted = {name: len(cluster.events(name, "plan_accepted")) for name in others}
    traffic.wait_for_answers(30)
    # Whoever is cut off accepts no plan, since nobody else makes one.
    assert {name: len(cluster.events(name, "plan_accepted")) for name in others} == accepted
    come_back(cluster)
    traffic.wait_for_answers(10)
    requests = traffic.finish()
    assert any(set(r.nodes) == {*ours} for r in requests)
    assert set(requests[-1].nodes) == set(cluster.nodes)


def test_a_node_that_is_heard_and_does_not_hear_is_failed_over(
    cluster: NetworkCluster, start_load: StartLoad
) -> None:
    traffic = start_load()
    cluster.network.deafen("n3")
    cluster.wait_for(lambda s: failed_over(s, "n3"), "a failover of n3")
    traffic.wait_for_answers(50)
    come_back(cluster)
    traffic.wait_for_answers(25)
    finish_well(cluster, traffic, without="n3")
