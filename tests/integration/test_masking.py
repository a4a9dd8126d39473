"""A masked class on a real cluster: the crash of any one box is not felt."""

from __future__ import annotations

import signal
import time
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from continuer import load
from continuer.client import Answer, Client
from continuer.demo.cluster import Cluster
from continuer.errors import RequestError
from tests.integration.conftest import StartCluster
from tests.integration.strangers import IMAGE
from tests.integration.support import cli, events, kill, state, until

CLASSES = {"class": {"alarm": {"redundancy": 2}, "counter": {"max_latency_ms": 1.5}}}
EVERY_S = 0.1
BUDGET_MS = 10_000.0
BEFORE, AFTER = 8, 15


@pytest.fixture
def cluster(start_cluster: StartCluster) -> Cluster:
    found = start_cluster(coordinator={"objectives": CLASSES, "expected_rate_per_s": 10})
    until(lambda: class_state(found, "alarm")["masked"], "two routes")
    return found


def class_state(cluster: Cluster, name: str) -> dict[str, Any]:
    (found,) = [each for each in state(cluster)["classes"] if each["class"] == name]
    return dict(found)


def routes(cluster: Cluster) -> list[set[str]]:
    """The nodes of each route of the masked class."""
    own = class_state(cluster, "alarm")["routes"]
    return [{hop["node"] for hop in step["route"]} for step in own]


def send(client: Client, image: load.Array, count: int) -> list[Future[Answer]]:
    """So many requests of the masked class, one after the other without waiting for answers."""
    futures = []
    for _ in range(count):
        futures.append(client.submit(image, BUDGET_MS, "alarm"))
        time.sleep(EVERY_S)
    return futures


@pytest.mark.parametrize("where", ["first of a route", "last of a route"])
def test_no_request_of_a_masked_class_waits_for_a_failover(
    cluster: Cluster, inputs: list[load.Array], where: str
) -> None:
    place = 0 if where.startswith("first") else -1
    victim = class_state(cluster, "alarm")["routes"][0]["route"][place]["node"]
    with Client(cluster.endpoints) as client:
        expected = client.infer(inputs[0], BUDGET_MS, "alarm")
        futures = send(client, inputs[0], BEFORE)
        kill(cluster, victim)
        futures += send(client, inputs[0], AFTER)
        answers = [future.result(BUDGET_MS / 1000 + 1) for future in futures]
        until(lambda: class_state(cluster, "alarm")["masked"], "a second route again")
        restored = client.infer(inputs[0], BUDGET_MS, "alarm")
    assert [answer.attempts for answer in answers] == [1] * len(answers), "none was sent anew"
    for answer in answers:
        assert answer.request_class == "alarm"
        assert not answer.degraded
        assert np.array_equal(answer.logits, expected.logits)
    assert all(answer.redundancy == 2 for answer in answers[:BEFORE])
    assert restored.redundancy == 2
    assert victim not in restored.nodes


@pytest.mark.parametrize("where", ["first of a route", "last of a route"])
def test_while_a_box_is_silent_and_not_yet_suspect_the_other_route_answers(
    start_cluster: StartCluster, where: str
) -> None:
    """Nothing has been decided: the answer comes from the boxes that the silence spares."""
    patient = {"heartbeat_timeout_ms": 60_000, "dead_after_ms": 60_000}
    cluster = start_cluster(
        coordinator={"objectives": CLASSES, "expected_rate_per_s": 10, **patient}
    )
    until(lambda: class_state(cluster, "alarm")["masked"], "two routes")
    place = 0 if where.startswith("first") else -1
    victim = class_state(cluster, "alarm")["routes"][0]["route"][place]["node"]
    (untouched,) = [nodes for nodes in routes(cluster) if victim not in nodes]
    with Client(cluster.endpoints) as client:
        client.infer(IMAGE, BUDGET_MS, "alarm")
        cluster.signal([victim], signal.SIGSTOP)
        try:
            answers = [client.infer(IMAGE, BUDGET_MS, "alarm") for _ in range(AFTER)]
        finally:
            cluster.signal([victim], signal.SIGCONT)
    for answer in answers:
        assert set(answer.nodes) == untouched
        assert (answer.attempts, answer.redundancy) == (1, 2)


def test_each_class_is_answered_by_its_own_route_and_an_unknown_one_refused(
    cluster: Cluster,
) -> None:
    with Client(cluster.endpoints) as client:
        plain = client.infer(IMAGE, BUDGET_MS)
        counter = client.infer(IMAGE, BUDGET_MS, "counter")
        with pytest.raises(RequestError, match="alarm, counter") as caught:
            client.infer(IMAGE, BUDGET_MS, "alram")
    assert (plain.technique, plain.request_class, plain.redundancy) == ("none", "", 1)
    assert (counter.technique, counter.request_class) == ("early_exit", "counter")
    assert caught.value.code == "unknown_class"


def test_redundancy_that_cannot_be_had_is_said_in_answer_status_and_journal(
    start_cluster: StartCluster,
) -> None:
    cluster = start_cluster(
        2, coordinator={"objectives": CLASSES, "expected_rate_per_s": 1500, "hop_us": 300}
    )
    with Client(cluster.endpoints) as client:
        answer = client.infer(IMAGE, BUDGET_MS, "alarm")
    assert (answer.request_class, answer.redundancy) == ("alarm", 1)
    problem = str(class_state(cluster, "alarm")["problem"])
    assert "1500 requests/s arrive" in problem
    until(lambda: events(cluster, "coordinator", "redundancy_refused"), "the event")
    (event, *_) = events(cluster, "coordinator", "redundancy_refused")
    assert (event["request_class"], event["problem"]) == ("alarm", problem)


def test_the_operator_masks_and_unmasks_a_class_from_the_command_line(cluster: Cluster) -> None:
    at = ("--coordinator", cluster.control)
    shown = cli("objectives", "get", "--class", "alarm", *at)
    assert "redundancy       2" in shown.stdout
    assert cli("objectives", "set", "--class", "alarm", "--redundancy", "1", *at).returncode == 0
    until(lambda: not class_state(cluster, "alarm")["masked"], "one route")
    assert cli("objectives", "reset", "--class", "alarm", *at).returncode == 0
    until(lambda: class_state(cluster, "alarm")["masked"], "two routes")
    refused = cli("objectives", "set", "--class", "alram", "--redundancy", "2", *at)
    assert (refused.returncode, "alarm, counter" in refused.stderr) == (2, True)
    for wrong in (("--redundancy", "2"), ("--class", "alarm", "--redundancy", "3")):
        refused = cli("objectives", "set", *wrong, *at)
        assert (refused.returncode, "redundancy" in refused.stderr) == (2, True)
    told = cli("plan", "what-if", "--all", *at)
    assert "without n3: full accuracy up to" in told.stdout
