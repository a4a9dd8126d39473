"""Links that fail under load: nothing is lost, and nodes come back."""

from __future__ import annotations

import pytest

from tests.root.cluster import NetworkCluster, node_in
from tests.root.steps import StartLoad, come_back, fail_over, finish_well

pytestmark = pytest.mark.root

# TCP then tries again only every few seconds, on every connection by itself.
LONG_MS = 5000


@pytest.mark.parametrize("node", ["n3", "n1"], ids=["middle", "ingress"])
def test_a_node_behind_a_cut_link_is_failed_over_and_taken_back(
    cluster: NetworkCluster, start_load: StartLoad, node: str
) -> None:
    traffic = start_load()
    cluster.network.cut(node)
    fail_over(cluster, node)
    traffic.wait_for_answers(50)
    come_back(cluster)
    traffic.wait_for_answers(25)
    finish_well(cluster, traffic, without=node)


def test_a_node_that_was_cut_off_for_long_has_fresh_links_when_it_is_back(
    cluster: NetworkCluster, start_load: StartLoad
) -> None:
    traffic = start_load()
    cluster.network.cut("n3")
    cluster.wait_for(lambda _: cluster.events("n3", "coordinator_lost"), "n3 to give links up")
    cluster.wait_for(lambda s: node_in(s, "n3")["silence_ms"] > LONG_MS, "a long cut")
    assert cluster.node("n3")["state"] == "dead"
    come_back(cluster)
    traffic.wait_for_answers(100)
    finish_well(cluster, traffic, without="n3")


def test_a_dead_switch_port_is_noticed_although_the_carrier_stays(
    cluster: NetworkCluster, start_load: StartLoad
) -> None:
    traffic = start_load()
    cluster.network.pull("n3")
    fail_over(cluster, "n3")
    traffic.wait_for_answers(50)
    come_back(cluster)
    traffic.wait_for_answers(25)
    finish_well(cluster, traffic, without="n3")


def test_a_node_that_hears_and_is_not_heard_is_failed_over(
    cluster: NetworkCluster, start_load: StartLoad
) -> None:
    traffic = start_load()
    cluster.network.mute("n3")
    fail_over(cluster, "n3")
    traffic.wait_for_answers(50)
    come_back(cluster)
    traffic.wait_for_answers(25)
    finish_well(cluster, traffic, without="n3")


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [("n3", "coordinator", "silence"), ("coordinator", "n3", "link silent")],
)
def test_a_control_link_that_works_one_way_only_costs_no_request(
    cluster: NetworkCluster, start_load: StartLoad, source: str, target: str, reason: str
) -> None:
    """A node that hears nothing shines on, but its link says nothing any more."""
    traffic = start_load()
    cluster.network.oneway(source, target)
    fail_over(cluster, "n3", reason)
    traffic.wait_for_answers(50)
    come_back(cluster)
    traffic.wait_for_answers(25)
    finish_well(cluster, traffic, without="n3")
