"""The ingress runs a short first stage itself, but lets clients in before it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import zmq

from agent.ingress import Ingress
from agent.ingress_core import Forward, IngressCore, Limits
from continuer.plan import Hop, Version
from continuer.wire import Work
from tests.unit.harness import BUNDLE

GENEROUS_S = 30.0
WORK = Work(
    "continuer", b"client", 5, "default", "", BUNDLE.hash[:16],
    "n1", 1, 1, Version(1, 1), 1_000_000, 0, (Hop("n1", 1, (0,)),), (),
)  # fmt: skip


class Executor:
    """Stands where the executor does; ``inline`` is what it was asked to run at once."""

    def __init__(self) -> None:
        self.inline: list[Work] = []

    def try_inline(self, work: Work, frames: Sequence[Any]) -> bool:
        del frames
        self.inline.append(work)
        return True


class Peers:
    """Stands where the links do; ``sent`` is to whom something was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []

    def send(self, key: tuple[str, int], frames: Sequence[Any]) -> None:
        del frames
        self.sent.append(key)


class Door:
    """An ingress of node n1, not running, and a client of it."""

    def __init__(self) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.clients = self.context.socket(zmq.ROUTER)
        self.clients.bind("inproc://clients")
        self.client = self.context.socket(zmq.DEALER)
        self.client.connect("inproc://clients")
        self.executor, self.peers = Executor(), Peers()
        core = IngressCore("continuer", "n1", 1, BUNDLE, Limits())
        nothing: Any = lambda *_: None  # noqa: E731  # what is reported does not matter here
        links: Any = (self.peers, self.peers)
        executor: Any = self.executor
        self.ingress = Ingress(
            self.clients, self.context.socket(zmq.PULL), ("n1", 1), core, executor, links,
            nothing, nothing, nothing, nothing, nothing,
        )  # fmt: skip

    def forward(self, node: str) -> None:
        self.ingress._perform([Forward(node, 1, WORK, ())])


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    yield made
    made.context.destroy(linger=0)


def test_our_own_first_stage_is_run_at_once_where_nobody_waits(door: Door) -> None:
    door.forward("n1")
    assert (door.executor.inline, door.peers.sent) == ([WORK], [])


def test_clients_who_wait_are_let_in_before_a_stage_is_run(door: Door) -> None:
    door.client.send(b"let me in")
    assert door.clients.poll(int(1000 * GENEROUS_S))
    door.forward("n1")
    assert (door.executor.inline, door.peers.sent) == ([], [("n1", 1)])


def test_the_stage_of_another_node_is_sent_to_it(door: Door) -> None:
    door.forward("n2")
    assert (door.executor.inline, door.peers.sent) == ([], [("n2", 1)])
