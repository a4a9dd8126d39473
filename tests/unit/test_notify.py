"""What systemd is told, and when the watchdog's feed is earned."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from continuer.notify import Notifier, Pulse, Watchdog

S = 1_000_000_000


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The service manager's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


def told(manager: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())


def test_each_state_is_told_in_the_words_of_sd_notify(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.ready("joined")
    assert told(manager) == {"READY": "1", "STATUS": "joined"}
    notifier.status("two\nlines")
    assert told(manager) == {"STATUS": "two lines"}
    notifier.feed()
    assert told(manager) == {"WATCHDOG": "1"}
    notifier.stopping("bye")
    assert told(manager) == {"STOPPING": "1", "STATUS": "bye"}


def test_reloading_carries_the_monotonic_clock(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.reloading()
    first = told(manager)
    notifier.reloading()
    assert first["RELOADING"] == "1"
    assert 0 < int(first["MONOTONIC_USEC"]) <= int(told(manager)["MONOTONIC_USEC"])


def test_an_abstract_socket_is_written_with_an_at_sign() -> None:
    name = f"continuer-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(5)
        Notifier({"NOTIFY_SOCKET": "@" + name}).feed()
        assert told(sock) == {"WATCHDOG": "1"}


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_without_a_service_manager_nothing_happens(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    notifier.ready("joined")
    notifier.feed()
    assert notifier.watchdog_ns is None


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"WATCHDOG_USEC": "5000000"}, 5 * S),
        ({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid())}, 5 * S),
        ({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_the_watchdog_is_that_of_this_very_process(
    environment: dict[str, str], wanted: int | None
) -> None:
    assert Notifier(environment).watchdog_ns == wanted


# --- the watchdog -----------------------------------------------------------------------------


def two(beat_ns: int = 0) -> tuple[Pulse, Pulse]:
    pulses = Pulse("stage"), Pulse("ingress")
    for pulse in pulses:
        pulse.beat_ns = beat_ns
    return pulses


def test_a_feed_is_due_four_times_in_what_systemd_allows() -> None:
    pulses = two()
    dog = Watchdog(10 * S, pulses, now=0)
    fed = []
    for now in range(0, 20 * S, S // 10):
        for pulse in pulses:
            pulse.beat_ns = now
        if dog.feed(now):
            fed.append(now)
    gaps = [b - a for a, b in itertools.pairwise(fed)]
    assert set(gaps) == {25 * S // 10}


def test_one_thread_that_hangs_ends_the_feed_though_all_others_go_on() -> None:
    stage, ingress = two()
    dog = Watchdog(10 * S, (stage, ingress), now=0)
    stage.beat_ns = S
    fed = []
    for now in range(S, 40 * S, S // 10):
        ingress.beat_ns = now
        if dog.feed(now):
            fed.append(now)
    assert len(fed) == 1  # what the round at one second has earned


def test_an_inference_may_take_nearly_as_long_as_systemd_allows() -> None:
    stage, ingress = two()
    dog = Watchdog(10 * S, (stage, ingress), now=0)
    fed = [0]
    for now in range(0, 100 * S, S // 10):
        ingress.beat_ns = now
        if now % (7 * S) == 0:
            stage.beat_ns = now
        if dog.feed(now):
            fed.append(now)
    assert max(b - a for a, b in itertools.pairwise(fed)) < 10 * S


def test_a_thread_that_stands_still_is_named_once_until_it_goes_on() -> None:
    stage, ingress = two()
    dog = Watchdog(10 * S, (stage, ingress), now=0)
    ingress.beat_ns = 6 * S
    assert dog.newly_hung(5 * S) == []
    assert dog.newly_hung(6 * S) == ["stage"]
    assert dog.newly_hung(7 * S) == []
    stage.beat_ns = 8 * S
    ingress.beat_ns = 14 * S
    assert dog.newly_hung(9 * S) == []
    assert dog.newly_hung(14 * S) == ["stage"]


def test_where_systemd_does_not_watch_nothing_is_fed_and_nobody_accused() -> None:
    dog = Watchdog(None, two(), now=0)
    assert not dog.feed(100 * S)
    assert dog.newly_hung(100 * S) == []


def test_a_thread_that_adopts_its_pulse_is_called_so_in_lists_of_threads() -> None:
    pulse = Pulse("stage")
    pulse.beat_ns = 0
    names: list[str] = []

    def work() -> None:
        pulse.adopt()
        comm = Path(f"/proc/self/task/{threading.get_native_id()}/comm")
        names.append(comm.read_text().strip())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert names == ["stage"]
    assert pulse.beat_ns > 0
