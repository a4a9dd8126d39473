"""Deaths of many, deaths again and again, and the restart of everything."""

from __future__ import annotations

import itertools
import signal
import time
from datetime import datetime, timedelta

import pytest

from continuer.demo.report import version_of
from tests.root.cluster import NetworkCluster, failed_over, route_nodes
from tests.root.steps import StartLoad, all_at_work, come_back

pytestmark = pytest.mark.root

WITHIN_S = 0.05
FLAPS = 5
# One box computes all of it, perhaps on a busy machine.
RATE_PER_S = 10
BUDGET_MS = 20_000
# How long a busy machine may take to start six programs.
RESTART_MS = 35_000


@pytest.fixture
def timeout_ms() -> float:
    """Only what these tests do to a node is to make it suspect, however busy the machine is."""
    return 500


@pytest.mark.parametrize("survivor", ["n3", "n5"])
def test_all_but_one_die_within_fifty_milliseconds_and_it_answers_alone(
    cluster: NetworkCluster, start_load: StartLoad, survivor: str
) -> None:
    victims = [node for node in cluster.nodes if node != survivor]
    traffic = start_load(RATE_PER_S, BUDGET_MS)
    for victim in victims:
        cluster.signal([victim], signal.SIGKILL)
        time.sleep(WITHIN_S / len(victims))
    cluster.wait_for(lambda s: route_nodes(s) == {survivor}, "a plan on one node")
    for victim in victims:
        cluster.processes[victim].wait()
    traffic.wait_for_answers(15)
    for victim in victims:
        cluster.start(victim)
    come_back(cluster)
    traffic.wait_for_answers(10)
    requests = traffic.finish()
    assert any(set(r.nodes) == {survivor} for r in requests)
    assert set(requests[-1].nodes) == set(cluster.nodes)


def test_a_node_that_flaps_is_taken_back_at_most_once_a_second(
    cluster: NetworkCluster, start_load: StartLoad
) -> None:
    traffic = start_load(RATE_PER_S, BUDGET_MS)
    for _ in range(FLAPS):
        cluster.signal(["n3"], signal.SIGSTOP)
        time.sleep(0.8)  # longer than the timeout
        cluster.signal(["n3"], signal.SIGCONT)
        time.sleep(0.6)  # longer than it takes to be trusted again
    come_back(cluster)
    traffic.wait_for_answers(10)
    assert set(traffic.finish()[-1].nodes) == set(cluster.nodes)
    assert failed_over(cluster.status(brief=True), "n3")
    returned = cluster.events("coordinator", "node_returned")
    times = [datetime.fromisoformat(event["timestamp"].rstrip("Z")) for event in returned]
    assert times
    # A line is written a little after what it tells of.
    apart = timedelta(seconds=0.9)
    assert all(later - earlier > apart for earlier, later in itertools.pairwise(times)), returned


def test_everything_dies_and_is_started_again_while_a_client_asks_on(
    cluster: NetworkCluster, start_load: StartLoad
) -> None:
    everybody = ["coordinator", *cluster.nodes]
    before = version_of(cluster.status(brief=True)["version"])
    traffic = start_load(RATE_PER_S / 2, budget_ms=RESTART_MS)
    cluster.signal(everybody, signal.SIGKILL)
    for name in everybody:
        cluster.processes[name].wait()
    for name in everybody:
        cluster.start(name)
    state = cluster.wait_for(all_at_work, "all to be back")
    assert version_of(state["version"]) > before
    assert not state["failovers"]
    traffic.wait_for_answers(15)
    # Nothing is left of what the agents had accepted: the client sends it anew, within its budget.
    requests = traffic.finish()
    assert set(requests[-1].nodes) == set(cluster.nodes)
