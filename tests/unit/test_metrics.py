"""Metrics and health over HTTP, and what each daemon says in them."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent import metrics as agent_metrics
from agent.metrics import Sight
from continuer import metrics
from continuer.errors import ConfigError
from continuer.events import EVENTS
from continuer.metrics import EventCounts, Family, Health, MetricsServer, gauge
from continuer.notify import Pulse
from continuer.plan import Version
from coordinator import metrics as coordinator_metrics

WELL = Health(live=True, ready=True, degraded=False, state="full")
SIGHT = Sight(
    joined=True,
    technique="none",
    version=Version(2, 7),
    failed_nodes=0,
    accepted=10,
    answered=8,
    failed=1,
    refused=3,
    resent=2,
    inflight=1,
    stages=30,
    foreign=4,
    parts=6,
    rss_bytes=1 << 20,
)
NODE = {
    "node": "n1",
    "state": "active",
    "incarnation": 5,
    "accepted": 3,
    "done": 9,
    "queued": 1,
    "rss_mib": 2.0,
    "silence_ms": 7.0,
}
STATE: dict[str, Any] = {
    "health": "full",
    "version": "2.7",
    "rate_per_s": 12.5,
    "plan": {"technique": "skip", "latency_ms": 4.0, "capacity_per_s": 100.0, "accuracy": 0.8},
    "nodes": [NODE, {**NODE, "node": "n2", "state": "absent", "incarnation": None}],
}
Start = Callable[..., MetricsServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers on ports of the system's choice."""
    running = []

    def begin(health: Health = WELL, *families: Family) -> MetricsServer:
        registry = metrics.new_registry("127.0.0.1:0")
        server = MetricsServer("127.0.0.1:0", lambda: health, lambda: list(families), registry)
        server.start()
        running.append(server)
        return server

    yield begin
    for server in running:
        server.stop()


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def samples(text: str) -> dict[tuple[str, str], float]:
    """Values by name and label values."""
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# --- the server -----------------------------------------------------------------------------


def test_metrics_are_text_that_prometheus_reads(start: Start) -> None:
    labelled = Family("continuer_x_total", "counter", "Of x.", [(("a",), 3)], ("kind",))
    server = start(WELL, gauge("continuer_y", "Of y.", 1.5), labelled)
    status, text = get(server.port, "/metrics")
    assert status == 200
    found = samples(text)
    assert found["continuer_y", ""] == 1.5
    assert found["continuer_x_total", "a"] == 3
    assert found["continuer_process_open_fds", ""] > 0
    assert all(name.startswith("continuer_") for name, _ in found)


@pytest.mark.parametrize(
    ("health", "live", "ready"),
    [
        (WELL, 200, 200),
        (msgspec.structs.replace(WELL, degraded=True, state="degraded"), 200, 200),
        (msgspec.structs.replace(WELL, ready=False, state="no_plan"), 200, 503),
        (msgspec.structs.replace(WELL, live=False, ready=False), 503, 503),
    ],
)
def test_live_is_not_ready_and_degraded_is_visible_in_both(
    health: Health, live: int, ready: int, start: Start
) -> None:
    server = start(health)
    for path, wanted in (("/healthz", live), ("/readyz", ready)):
        status, body = get(server.port, path)
        assert status == wanted
        assert json.loads(body) == msgspec.to_builtins(health)


def test_other_paths_and_methods_are_refused_and_head_has_no_body(start: Start) -> None:
    server = start()
    assert get(server.port, "/")[0] == 404
    assert get(server.port, "/metrics", "POST")[0] == 501
    assert get(server.port, "/healthz?verbose", "HEAD") == (200, "")


def test_a_few_silent_connections_are_all_that_is_held(start: Start) -> None:
    server = start()
    held = [
        socket.create_connection(("127.0.0.1", server.port)) for _ in range(metrics.MAX_CONNECTIONS)
    ]
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as extra:
            try:
                extra.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                told = extra.recv(100)
            except ConnectionError:
                told = b""
        assert told == b""  # closed without an answer
    finally:
        for sock in held:
            sock.close()


def test_a_connection_that_has_ended_makes_room_for_the_next(start: Start) -> None:
    server = start()
    answered = 0
    deadline = time.monotonic() + 30
    while answered < 2 * metrics.MAX_CONNECTIONS and time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError, http.client.HTTPException):  # all still busy
            answered += get(server.port, "/healthz")[0] == 200
    assert answered == 2 * metrics.MAX_CONNECTIONS


def test_who_talks_too_slowly_is_cut_off(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CONNECTION_S", 0.2)
    server = start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as slow:
        slow.sendall(b"GET /heal")
        assert slow.recv(100) == b""
    assert get(server.port, "/healthz")[0] == 200


def test_a_port_in_use_is_a_configuration_error(start: Start) -> None:
    port = start().port
    registry = metrics.new_registry("")
    with pytest.raises(ConfigError, match="in use") as caught:
        MetricsServer(f"127.0.0.1:{port}", lambda: WELL, list, registry)
    assert caught.value.key == "metrics"


def test_nothing_is_served_where_nothing_is_configured() -> None:
    journal: Any = None  # is not looked at
    assert coordinator_metrics.serve(None, journal, dict, []) is None
    assert agent_metrics.serve(None, journal, lambda: SIGHT, []) is None


def test_a_thread_that_stands_still_is_named() -> None:
    pulse = Pulse("stage")
    assert metrics.hung([pulse], pulse.beat_ns + metrics.LIVE_NS) == []
    assert metrics.hung([pulse], pulse.beat_ns + metrics.LIVE_NS + 1) == ["stage"]


# --- what is said ---------------------------------------------------------------------------


def text_of(start: Start, families: list[Family]) -> str:
    return get(start(WELL, *families).port, "/metrics")[1]


def counted() -> EventCounts:
    counts = EventCounts()
    for name in ("failover", "failover", "healed"):
        counts(name, EVENTS[name], {})
    return counts


def every_text(start: Start) -> Iterator[str]:
    yield text_of(start, agent_metrics.families(SIGHT, WELL, counted()))
    yield text_of(start, coordinator_metrics.families(STATE, WELL, counted()))


def test_an_agents_counters_arrive(start: Start) -> None:
    found = samples(text_of(start, agent_metrics.families(SIGHT, WELL, counted())))
    assert found["continuer_requests_accepted_total", ""] == 10
    assert found["continuer_requests_finished_total", "answered"] == 8
    assert found["continuer_requests_finished_total", "failed"] == 1
    assert found["continuer_stages_total", ""] == 30
    assert found["continuer_plan_number", ""] == 7
    assert found["continuer_events_total", "failover"] == 2


def test_the_coordinators_view_arrives_in_base_units(start: Start) -> None:
    found = samples(text_of(start, coordinator_metrics.families(STATE, WELL, counted())))
    assert found["continuer_plan_latency_seconds", ""] == 0.004
    assert found["continuer_node_silence_seconds", "n1"] == 0.007
    assert found["continuer_node_resident_memory_bytes", "n1"] == 2 << 20
    assert found["continuer_plan_technique", "skip"] == 1
    assert found["continuer_plan_technique", "none"] == 0
    assert (found["continuer_node_up", "n1"], found["continuer_node_up", "n2"]) == (1, 0)
    assert found["continuer_nodes", "absent"] == 1
    assert ("continuer_node_silence_seconds", "n2") not in found


def test_without_a_plan_nothing_is_said_of_one(start: Start) -> None:
    state = {**STATE, "plan": None, "health": "no_plan"}
    found = samples(text_of(start, coordinator_metrics.families(state, WELL, counted())))
    assert ("continuer_plan_latency_seconds", "") not in found
    unknown = {**STATE, "plan": {**STATE["plan"], "accuracy": None}}
    found = samples(text_of(start, coordinator_metrics.families(unknown, WELL, counted())))
    assert ("continuer_plan_accuracy_ratio", "") not in found


def test_promtool_has_nothing_to_say(start: Start) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; apt install prometheus")
    for text in every_text(start):
        ended = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_labels_are_bounded_by_configuration_and_catalogue(start: Start) -> None:
    for text in every_text(start):
        for name, label in samples(text):
            if name == "continuer_events_total":
                assert label in EVENTS
            elif name.startswith("continuer_node_"):
                assert label in ("n1", "n2")


@pytest.mark.parametrize(
    ("word", "ready", "degraded"),
    [
        ("full", True, False),
        ("reduced", True, False),
        ("degraded", True, True),
        ("no_plan", False, False),
        ("isolated", False, False),
    ],
)
def test_the_clusters_health_in_a_word(word: str, ready: bool, degraded: bool) -> None:
    found = coordinator_metrics.health({"health": word}, [])
    assert (found.live, found.ready, found.degraded, found.state) == (True, ready, degraded, word)
    assert (found.problem == "") == (word == "full")


def test_a_hanging_daemon_is_neither_live_nor_ready() -> None:
    for found in (
        coordinator_metrics.health({"health": "full"}, ["coordinator"]),
        agent_metrics.health(SIGHT, ["coordinator"]),
    ):
        assert (found.live, found.ready) == (False, False)
        assert "coordinator" in found.problem


@pytest.mark.parametrize(
    ("changes", "ready", "degraded", "state"),
    [
        ({}, True, False, "full"),
        ({"technique": "repartition"}, True, False, "full"),
        ({"technique": "early_exit"}, True, True, "degraded"),
        ({"joined": False}, True, True, "unwatched"),
        ({"technique": None}, False, False, "waiting"),
        ({"technique": None, "joined": False}, False, False, "waiting"),
    ],
)
def test_an_agents_health_in_a_word(
    changes: dict[str, Any], ready: bool, degraded: bool, state: str
) -> None:
    found = agent_metrics.health(msgspec.structs.replace(SIGHT, **changes), [])
    assert (found.live, found.ready, found.degraded, found.state) == (True, ready, degraded, state)


def test_outages_are_counted_by_what_they_took() -> None:
    registry = metrics.new_registry("")
    outages = coordinator_metrics.Outages(registry)
    outages("failover_told", EVENTS["failover_told"], {"outage_ms": 17.0})
    outages("healed", EVENTS["healed"], {})
    name = "continuer_failover_outage_seconds"
    assert registry.get_sample_value(f"{name}_count") == 1
    assert registry.get_sample_value(f"{name}_bucket", {"le": "0.01"}) == 0
    assert registry.get_sample_value(f"{name}_bucket", {"le": "0.025"}) == 1


def test_a_table_that_grows_while_it_is_read_is_read_again() -> None:
    tries = []

    def state() -> dict[str, Any]:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("dictionary changed size during iteration")
        return STATE

    assert coordinator_metrics.steady(state) is STATE
