"""Nodes die while no coordinator is there: agents act on what they hold, and nothing is lost."""

from __future__ import annotations

import signal

import pytest

from continuer.bundle import Bundle
from continuer.demo.cluster import Cluster
from continuer.demo.report import Oracle
from tests.integration.support import (
    Stream,
    assert_all_well,
    events,
    kill,
    state,
    until,
)


def repairs(cluster: Cluster) -> dict[str, int]:
    """How often each node has acted on its own account so far."""
    return {node: len(events(cluster, node, "local_repair")) for node in cluster.nodes}


def repaired(cluster: Cluster, victim: str, before: dict[str, int]) -> list[str]:
    """Nodes that have gone around the victim since."""
    return [
        node
        for node in cluster.nodes
        for event in events(cluster, node, "local_repair")[before[node] :]
        if node != victim and victim in event["failed"]
    ]


@pytest.mark.parametrize("victim", ["n1", "n3", "n5"])
def test_a_node_that_dies_without_a_coordinator_costs_no_request(
    cluster: Cluster, oracle: Oracle, bundle: Bundle, victim: str
) -> None:
    """The first, one in the middle, the last. Then the coordinator returns and takes over."""
    before = repairs(cluster)
    with Stream(cluster.endpoints, rate=15, seconds=8) as stream:
        stream.flowing(10)
        kill(cluster, "coordinator")
        lost = [n for n in cluster.nodes if n != victim]
        until(lambda: all(events(cluster, n, "coordinator_lost") for n in lost), "its end to show")
        kill(cluster, victim)
        answered = len(stream.records)
        until(lambda: repaired(cluster, victim, before), "someone to act without it")
        cluster.start("coordinator")
        until(lambda: state(cluster).get("health") in ("reduced", "full"), "it to take over")
    assert_all_well(oracle, bundle, stream.records)
    around = [r for r in stream.records[answered:] if victim not in r.nodes]
    assert around
    last = stream.records[-1]
    assert victim not in last.nodes


def test_a_node_that_dies_while_the_coordinator_is_stopped_costs_no_request(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    """Its link stands, and nobody can tell by that that it says nothing."""
    before = repairs(cluster)
    with Stream(cluster.endpoints, rate=15, seconds=6) as stream:
        stream.flowing(10)
        cluster.signal(["coordinator"], signal.SIGSTOP)
        kill(cluster, "n3")
        until(lambda: repaired(cluster, "n3", before), "someone to act without it")
        cluster.signal(["coordinator"], signal.SIGCONT)
        until(lambda: state(cluster).get("health") == "reduced", "it to take over")
    assert_all_well(oracle, bundle, stream.records)
    assert "n3" not in stream.records[-1].nodes


def test_a_stopped_node_without_a_coordinator_is_gone_around(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    """Its kernel takes connections, but nobody greets."""
    before = repairs(cluster)
    with Stream(cluster.endpoints, rate=15, seconds=6) as stream:
        stream.flowing(10)
        kill(cluster, "coordinator")
        until(lambda: events(cluster, "n1", "coordinator_lost"), "its end to show")
        cluster.signal(["n4"], signal.SIGSTOP)
        until(lambda: repaired(cluster, "n4", before), "someone to go around it")
    cluster.signal(["n4"], signal.SIGCONT)
    assert_all_well(oracle, bundle, stream.records)
    assert "n4" not in stream.records[-1].nodes
