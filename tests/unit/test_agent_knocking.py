"""Knocks at real sockets: one that refuses, one that is silent, a libzmq that greets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
import zmq

from agent.knocking import Knocking
from agent.repairs import Answer, Knock


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


def answer_at(port: int) -> Answer:
    poller = zmq.Poller()
    knocking = Knocking(poller)
    knock = Knock("n2", 1, f"tcp://127.0.0.1:{port}")
    known = knocking.start(knock, time.monotonic_ns())
    if known is not None:
        return known
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ready = dict(poller.poll(20))
        for fd in {*(f for f in ready if f in knocking), *knocking.expired(time.monotonic_ns())}:
            asked, answer = knocking.finish(fd)
            assert asked == knock
            return answer
    raise AssertionError("no answer and no end of waiting")


def test_a_living_peer_greets(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    pull = context.socket(zmq.PULL)
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    assert answer_at(port) == "answered"


def test_where_nobody_listens_the_connection_is_refused() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert answer_at(port) == "refused"


def test_a_kernel_that_takes_the_connection_is_no_sign_of_life() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(8)
        assert answer_at(mute.getsockname()[1]) == "silent"
