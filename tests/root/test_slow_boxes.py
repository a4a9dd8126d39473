"""Boxes that are alive and too slow: saturated cores, a slow stage, one that hangs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.soak_faults import SLOW_GO_S, SLOW_STOP_S, by_turns, hogs
from tests.root.cluster import NetworkCluster, failed_over, route_nodes
from tests.root.nspawn import Hang
from tests.root.steps import StartLoad, all_at_work, come_back, fail_over, finish_well

pytestmark = pytest.mark.root

RATE_PER_S = 5
BUDGET_MS = 20_000
# How slow a box is, is learned from 10 ms of its work at a time, five times before any word.
FAST_PER_S = 50
LEARNING = 200


@pytest.fixture
def timeout_ms() -> float:
    """Only what these tests do to a node is to make it suspect, however busy the machine is."""
    return 1000


@contextmanager
def during(end: Callable[[], None]) -> Iterator[None]:
    """A fault that has begun, and what ends it."""
    try:
        yield
    finally:
        end()


@contextmanager
def hanging(cluster: NetworkCluster, node: str, name: str) -> Iterator[None]:
    """A daemon's thread of this name stands still; all others go on."""
    tasks = Path(f"/proc/{cluster.processes[node].pid}/task").iterdir()
    thread = next(int(t.name) for t in tasks if (t / "comm").read_text().strip() == name)
    hang = Hang(thread)
    try:
        yield
    finally:
        hang.release()


def test_saturated_cores_cost_no_request_and_a_death_is_noticed_all_the_same(
    cluster: NetworkCluster,
    start_load: StartLoad,
    record_property: Callable[[str, object], None],
) -> None:
    traffic = start_load(RATE_PER_S, BUDGET_MS)
    with during(hogs()):
        traffic.wait_for_answers(30)
        record_property("failovers", cluster.status(brief=True)["failovers"])
        cluster.signal(["n3"], signal.SIGKILL)
        cluster.wait_for(lambda s: "n3" not in route_nodes(s), "a plan without n3")
        cluster.processes["n3"].wait()
        traffic.wait_for_answers(15)
    assert failed_over(cluster.status(brief=True), "n3")[-1] == "link closed"
    cluster.start("n3")
    come_back(cluster)
    traffic.wait_for_answers(10)
    finish_well(cluster, traffic, without="n3")


def test_a_stage_that_is_ten_times_slower_costs_no_request_and_is_said(
    cluster: NetworkCluster, start_load: StartLoad
) -> None:
    def said(_: object) -> bool:
        told = cluster.events("coordinator", "prediction_wrong")
        return any(event["node"] == "n3" and event["error_percent"] > 0 for event in told)

    traffic = start_load(FAST_PER_S, BUDGET_MS)
    traffic.wait_for_answers(LEARNING)
    with during(by_turns(cluster.processes["n3"], SLOW_STOP_S, SLOW_GO_S)):
        cluster.wait_for(said, "it to be said that n3 is slower than predicted")
    come_back(cluster)
    traffic.wait_for_answers(10)
    traffic.finish()


@pytest.mark.parametrize("node", ["n3", "n5"], ids=["middle", "last"])
def test_a_stage_that_hangs_while_its_heartbeats_go_on_is_gone_around(
    cluster: NetworkCluster, start_load: StartLoad, node: str
) -> None:
    traffic = start_load(RATE_PER_S, BUDGET_MS)
    with hanging(cluster, node, "stage"):
        fail_over(cluster, node)
        # It is silent first and says why afterwards.
        cluster.wait_for(lambda _: cluster.events(node, "thread_hung"), "the reason in its journal")
        assert cluster.events(node, "thread_hung")[-1]["threads"] == ["stage"]
        traffic.wait_for_answers(15)
    cluster.wait_for(all_at_work, f"{node} to be trusted again")
    traffic.wait_for_answers(10)
    finish_well(cluster, traffic, without=node)
