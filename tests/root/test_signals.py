"""Processes that die or stop, on hosts of their own."""

from __future__ import annotations

import signal
import time

import pytest

from tests.root.cluster import NetworkCluster, failed_over
from tests.root.steps import StartLoad, come_back, fail_over, finish_well

pytestmark = pytest.mark.root


@pytest.mark.parametrize("node", ["n3", "n1"], ids=["middle", "ingress"])
def test_a_killed_agent_is_known_by_its_closed_link_and_returns_when_restarted(
    cluster: NetworkCluster, start_load: StartLoad, node: str
) -> None:
    traffic = start_load()
    cluster.signal([node], signal.SIGKILL)
    fail_over(cluster, node, "link closed")
    assert cluster.processes[node].wait() == -signal.SIGKILL
    traffic.wait_for_answers(50)
    cluster.start(node)
    come_back(cluster)
    traffic.wait_for_answers(25)
    finish_well(cluster, traffic, without=node)


def test_a_node_that_stood_still_for_less_than_the_timeout_is_not_blamed(
    cluster: NetworkCluster, start_load: StartLoad
) -> None:
    traffic = start_load()
    for _ in range(10):
        cluster.signal(["n3"], signal.SIGSTOP)
        time.sleep(0.02)  # how long the fault lasts
        cluster.signal(["n3"], signal.SIGCONT)
        traffic.wait_for_answers(5)
    assert not failed_over(cluster.status(brief=True), "n3")
    requests = traffic.finish()
    assert {r.technique for r in requests} == {"none"}


def test_a_node_that_stood_still_for_a_moment_loses_no_request(
    cluster: NetworkCluster, start_load: StartLoad
) -> None:
    traffic = start_load()
    cluster.signal(["n3"], signal.SIGSTOP)
    time.sleep(0.2)  # how long the fault lasts; a busy machine's timeout may be longer
    cluster.signal(["n3"], signal.SIGCONT)
    traffic.wait_for_answers(50)
    come_back(cluster)
    traffic.wait_for_answers(10)
    assert set(traffic.finish()[-1].nodes) == set(cluster.nodes)


def test_late_answers_of_a_node_that_stood_still_for_long_harm_nothing(
    cluster: NetworkCluster, start_load: StartLoad
) -> None:
    traffic = start_load()
    cluster.signal(["n3"], signal.SIGSTOP)
    fail_over(cluster, "n3")
    done = cluster.node("n3")["done"]
    time.sleep(5)  # how long the fault lasts
    cluster.signal(["n3"], signal.SIGCONT)
    cluster.wait_for(lambda _: cluster.node("n3")["done"] > done, "its late outputs")
    come_back(cluster)
    traffic.wait_for_answers(25)
    finish_well(cluster, traffic, without="n3")
