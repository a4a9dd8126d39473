"""The stage waits at one socket, yet hears what other threads tell it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from agent.stage import Stage
from continuer.plan import Member

GENEROUS_S = 30.0
INPROC = "inproc://stage-data"
MEMBERS = (Member("n1", 1, "tcp://a:1", "tcp://a:2", "tcp://a:3"),)


class Work:
    """Stands where the executor does and keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[list[bytes]] = []
        self.waiting = False
        self.flushes = 0
        self.gone: dict[tuple[str, int], int] = {}

    def receive(self, frames: list[bytes]) -> None:
        self.given.append(frames)

    def flush(self) -> dict[tuple[str, int], int]:
        self.flushes += 1
        self.waiting = False
        return self.gone


class Links:
    """Stands where the peers do."""

    def __init__(self) -> None:
        self.told: list[tuple[Member, ...]] = []
        self.closed = False

    def update(self, members: tuple[Member, ...]) -> None:
        self.told.append(members)

    def close(self) -> None:
        self.closed = True


class Box:
    """A stage at work, and a neighbour's socket."""

    def __init__(self) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        data = self.context.socket(zmq.PULL)
        port = data.bind_to_random_port("tcp://127.0.0.1")
        data.bind(INPROC)
        self.work, self.links = Work(), Links()
        self.unreachable: list[tuple[tuple[str, int], int]] = []
        self.neighbour = self.context.socket(zmq.PUSH)
        self.neighbour.connect(f"tcp://127.0.0.1:{port}")
        self.stage = Stage(
            data,
            INPROC,
            self.work,  # type: ignore[arg-type]  # what it does is tested elsewhere
            (self.links, self.links),  # type: ignore[arg-type]  # likewise
            lambda peer, count: self.unreachable.append((peer, count)),
        )
        self.stage.start()

    def end(self) -> None:
        self.stage.mailbox.post(None)
        self.stage.join(GENEROUS_S)
        assert not self.stage.is_alive()
        self.context.destroy(linger=0)


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box()
    yield made
    made.end()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GENEROUS_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_work_arrives_whole_and_in_order(box: Box) -> None:
    sent = [[b"header %d" % k, b"x" * 100_000, b""] for k in range(50)]
    for message in sent:
        box.neighbour.send_multipart(message)
    until(lambda: len(box.work.given) == 50)
    assert box.work.given == sent


def test_what_another_thread_says_is_heard_though_no_work_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once, and not when a wait ends by itself: that is made to take longer than the test."""
    monkeypatch.setattr("agent.stage.WAIT_MS", 1000 * int(GENEROUS_S) * 10)
    box = Box()
    box.stage.mailbox.post(MEMBERS)
    until(lambda: box.links.told == [MEMBERS, MEMBERS])
    box.end()


def test_all_that_is_said_is_heard_once_and_is_no_work(box: Box) -> None:
    def say(thread: int) -> None:
        for _ in range(100):
            box.stage.mailbox.post((MEMBERS[0],) * (thread + 1))

    threads = [threading.Thread(target=say, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GENEROUS_S)
    until(lambda: len(box.links.told) == 800)  # there are two links
    assert sorted(len(told) for told in box.links.told[::2]) == sorted([1, 2, 3, 4] * 100)
    box.neighbour.send_multipart([b"work"])
    until(lambda: bool(box.work.given))
    assert box.work.given == [[b"work"]]


def test_a_strangers_empty_message_goes_where_all_others_go(box: Box) -> None:
    box.neighbour.send(b"")
    until(lambda: box.work.given == [[b""]])
    assert box.links.told == []


def test_what_could_not_be_sent_is_tried_again_though_no_work_comes(box: Box) -> None:
    box.work.gone = {("n2", 1): 3}
    box.work.waiting = True
    until(lambda: box.unreachable == [(("n2", 1), 3)])


def test_a_stage_that_has_ended_can_be_told_things(box: Box) -> None:
    box.stage.mailbox.post(None)
    box.stage.join(GENEROUS_S)
    box.stage.mailbox.post(MEMBERS)
    assert box.links.closed
