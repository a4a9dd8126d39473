"""Metrics and health of real daemons, while nodes fail and the coordinator goes away."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from continuer.client import Client
from continuer.demo.cluster import Cluster
from tests.integration.conftest import StartCluster
from tests.integration.strangers import IMAGE
from tests.integration.support import BUDGET_MS, events, failovers, kill, until

PLACE = {"metrics": "127.0.0.1:0"}


@pytest.fixture
def watched(start_cluster: StartCluster) -> Cluster:
    """Three nodes; all daemons serve metrics."""
    return start_cluster(3, agent=PLACE, coordinator=PLACE)


def get(cluster: Cluster, name: str, path: str) -> tuple[int, str]:
    """What a daemon's latest life says at a path."""
    port = events(cluster, name, "daemon_started")[-1]["endpoints"]["metrics"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def health(cluster: Cluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(cluster, name, "/readyz")[1])
    return found


def value(cluster: Cluster, name: str, metric: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(get(cluster, name, "/metrics")[1]):
        for sample in family.samples:
            if sample.name == metric and labels.items() <= sample.labels.items():
                return float(sample.value)
    return None


def test_requests_and_failures_are_counted_and_degraded_is_seen(watched: Cluster) -> None:
    for name in ("coordinator", *watched.nodes):
        assert get(watched, name, "/healthz")[0] == 200
        assert get(watched, name, "/readyz")[0] == 200
        assert health(watched, name)["state"] == "full"
    with Client(watched.endpoints[:1]) as client:
        for _ in range(5):
            client.infer(IMAGE, BUDGET_MS)
    assert value(watched, "n1", "continuer_requests_accepted_total") == 5
    until(
        lambda: (
            value(watched, "coordinator", "continuer_node_requests_accepted_total", node="n1") == 5
        ),
        "the coordinator to hear of them",
    )
    kill(watched, "n2")
    until(lambda: failovers(watched), "the failover")
    until(
        lambda: value(watched, "coordinator", "continuer_events_total", event="failover_told") == 1,
        "the failover to be counted",
    )
    assert value(watched, "coordinator", "continuer_failover_outage_seconds_count") == 1
    assert value(watched, "coordinator", "continuer_node_up", node="n2") == 0
    assert value(watched, "coordinator", "continuer_node_up", node="n3") == 1
    until(lambda: value(watched, "n1", "continuer_nodes_failed") == 1, "the agent to count it")


def test_ready_is_not_live_and_an_agent_without_coordinator_is_degraded(watched: Cluster) -> None:
    kill(watched, "coordinator")
    until(lambda: health(watched, "n1")["state"] == "unwatched", "the agent to notice")
    for path in ("/healthz", "/readyz"):
        status, body = get(watched, "n1", path)
        assert status == 200
        assert json.loads(body)["degraded"] is True
    watched.start("coordinator")
    until(lambda: len(events(watched, "coordinator", "daemon_started")) == 2, "its new life")
    until(lambda: health(watched, "n1")["state"] == "full", "all to be well again")
    kill(watched, *watched.nodes)
    until(lambda: not health(watched, "coordinator")["ready"], "the coordinator to say so")
    assert get(watched, "coordinator", "/readyz")[0] == 503
    assert get(watched, "coordinator", "/healthz")[0] == 200


def test_a_daemon_stops_in_good_order_with_its_metrics(watched: Cluster) -> None:
    for name in ("n3", "coordinator"):
        process = watched.processes[name]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert events(watched, name, "daemon_stopped")
