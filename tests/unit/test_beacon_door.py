"""Beacons from an agent's socket to the coordinator's, over this machine's loopback."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from agent.beacons import Beacons
from continuer import beacon
from coordinator.beacon_door import Beacon, BeaconDoor, Session

HOST = "127.0.0.1"
INTERVAL_US = 10_000
DEADLINE_S = 20


class Door:
    """A door, who knocks, and what was foreign."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.listener = socket.create_server((HOST, 0))
        self.port = self.listener.getsockname()[1]
        self.door = BeaconDoor(HOST, self.port, self.problems.append)
        self.link = socket.create_connection((HOST, self.port))
        self.beacons = Beacons()
        self.beacons.aim(self.link.fileno())

    def close(self) -> None:
        self.beacons.close()
        self.door.close()
        self.link.close()
        self.listener.close()

    def shine(self, session: Session, sequence: int) -> None:
        self.beacons.send(beacon.seal(session.number, session.key, sequence, INTERVAL_US))

    def read(self, count: int) -> list[Beacon]:
        """As many as that, once they are there."""
        found: list[Beacon] = []
        until = time.monotonic() + DEADLINE_S
        while len(found) < count and time.monotonic() < until:
            found += self.door.read(time.monotonic_ns())
        assert len(found) == count
        return found


@pytest.fixture
def opened() -> Iterator[Door]:
    made = Door()
    yield made
    made.close()


def test_beacons_go_where_the_link_goes(opened: Door) -> None:
    session = opened.door.admit("n1", 7)
    begun = time.monotonic_ns()
    for sequence in (1, 2, 3):
        opened.shine(session, sequence)
    found = opened.read(3)
    assert [(b.node, b.incarnation, b.sequence) for b in found] == [("n1", 7, i) for i in (1, 2, 3)]
    assert {b.interval_ns for b in found} == {INTERVAL_US * 1000}
    assert all(begun <= b.at_ns <= time.monotonic_ns() for b in found)
    assert not opened.problems


def test_a_beacon_is_dated_when_it_came_and_not_when_it_was_read(opened: Door) -> None:
    session = opened.door.admit("n1", 7)
    opened.read(0)
    opened.shine(session, 1)
    sent = time.monotonic_ns()
    while time.monotonic_ns() - sent < 200_000_000:
        pass  # an observer that has other things to do
    (found,) = opened.read(1)
    assert found.at_ns - sent < 100_000_000


def test_what_strangers_send_is_foreign_and_nothing_else(opened: Door) -> None:
    session = opened.door.admit("n1", 7)
    for raw in (b"", b"hello", b"x" * 2000, beacon.seal(session.number, b"no key", 1, INTERVAL_US)):
        opened.beacons.send(raw)
    opened.shine(session, 1)
    assert [b.sequence for b in opened.read(1)] == [1]
    assert len(opened.problems) == 4


def test_an_earlier_session_counts_for_nothing_and_is_no_strangers(opened: Door) -> None:
    first = opened.door.admit("n1", 7)
    second = opened.door.admit("n1", 8)
    assert first.number != second.number
    assert opened.door.session("n1") is second
    opened.shine(first, 1)
    opened.shine(second, 1)
    assert [b.incarnation for b in opened.read(1)] == [8]
    opened.door.forget("n1")
    assert opened.door.session("n1") is None
    assert not opened.problems


def test_where_the_port_is_taken_there_are_no_beacons(opened: Door) -> None:
    other = BeaconDoor(HOST, opened.port, opened.problems.append)
    assert opened.door.is_open
    assert not other.is_open
    assert list(other.read(time.monotonic_ns())) == []


def test_a_link_that_has_closed_gives_no_aim(opened: Door) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as unconnected:
        opened.beacons.aim(unconnected.fileno())
    opened.beacons.send(b"into the dark")
    session = opened.door.admit("n1", 7)
    opened.beacons.aim(opened.link.fileno())
    opened.shine(session, 1)
    assert len(opened.read(1)) == 1
    assert not opened.problems
