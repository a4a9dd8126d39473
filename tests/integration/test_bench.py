"""What measures: the relay with jitter, the file of results."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.__main__ import KEYS, merge
from bench.outage import plan_figures
from bench.relay import start

HOST = "127.0.0.1"
DELAY_MS = (20.0, 60.0)


@pytest.fixture
def echo() -> Iterator[int]:
    """A port that sends back what it gets."""
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(20)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(20)


def test_the_relay_delays_each_way_and_keeps_the_order(echo: int) -> None:
    process, port = start(echo, DELAY_MS)
    try:
        with socket.create_connection((HOST, port), 20) as client:
            client.settimeout(20)
            begun = time.monotonic()
            for byte in range(50):
                client.sendall(bytes([byte]))
                time.sleep(0.001)  # pieces of their own, each with a delay of its own
            got = b""
            while len(got) < 50:
                got += client.recv(100)
            lasted_ms = 1e3 * (time.monotonic() - begun)
    finally:
        process.kill()
        process.join()
    assert got == bytes(range(50))
    assert lasted_ms >= 2 * DELAY_MS[0]


def test_results_name_everything_and_keep_what_is_not_measured_anew(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    merge(path, {"chain": {"latency_ratio": 1.2}})
    merge(path, {"outage": {"kill": {"n": 3, "p99_ms": float("inf")}}})
    found = json.loads(path.read_text())
    assert found["schema"] == 1
    assert found["chain"]["latency_ratio"] == 1.2
    assert found["chain"]["throughput_ratio"] is None
    assert found["outage"]["kill"]["n"] == 3
    assert found["outage"]["kill"]["p99_ms"] is None
    assert found["outage"]["link_down"] == dict.fromkeys(KEYS["outage"]["link_down"])
    assert found["false_failovers"]["jitter"] == {"count": None, "minutes": None}


def test_telling_is_counted_from_the_judgement(tmp_path: Path) -> None:
    runs = [
        {"decide_ms": 0.1, "tell_ms": 2.0},
        {"decide_ms": 0.3, "tell_ms": 5.0},
        {"decide_ms": None, "tell_ms": None},
    ]
    lines = "".join(f"{json.dumps(run)}\n" for run in runs)
    (tmp_path / "runs.jsonl").write_text(lines)
    found = plan_figures(tmp_path)
    assert found["n"] == 2
    assert found["detect_to_last_ack_p99_ms"] == 5.3
    assert found["decide_p99_ms"] == 0.3
