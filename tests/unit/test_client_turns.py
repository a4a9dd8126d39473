"""Whoever waits for an answer drives the client's sockets; whatever way one waits, it comes.

A real client talks to a thread that speaks as an ingress does, over loopback.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from continuer import Client, RequestError, wire
from continuer.bundle import InputSpec, TensorSpec
from continuer.client import Answer, AsyncClient
from continuer.client_core import View
from continuer.errors import UnreachableError
from continuer.plan import Version
from continuer.wire import Hello, Rejected, Reply, Submit, TensorMeta, Welcome

GENEROUS_S = 30.0
BUDGET_MS = 30_000
MANIFEST = msgspec.json.encode(View(InputSpec((TensorSpec("x", (1, 2)),)), ("cat", "dog")))


class Door(threading.Thread):
    """An ingress that answers with its input. While ``shut`` it collects what it is asked."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.asked: list[tuple[bytes, int]] = []
        self.opened = threading.Event()
        self.opened.set()
        self.ended = threading.Event()
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self.endpoint = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"

    def run(self) -> None:
        waiting: list[tuple[bytes, Submit, list[bytes]]] = []
        while not self.ended.is_set():
            if self._socket.poll(5):
                link, header, *frames = self._socket.recv_multipart()
                message = wire.decode(header, Hello, Submit)
                if isinstance(message, Submit):
                    self.asked.append((message.client, message.seq))
                    waiting.append((link, message, frames))
                elif isinstance(message, Hello):
                    self._say(link, self._welcome())
            while waiting and self.opened.is_set():
                link, submit, frames = waiting.pop(0)
                if submit.request_class == "refused":
                    self._say(link, Rejected(submit.seq, "busy", "go away"))
                else:
                    self._say(link, self._reply(submit), *frames)
        self._context.destroy(linger=0)

    def _say(self, link: bytes, message: wire.Message, *frames: bytes) -> None:
        self._socket.send_multipart([link, wire.encode(message), *frames])

    def _welcome(self) -> Welcome:
        served = ("d", "model", b"\1" * 32, MANIFEST, Version(1, 1))
        return Welcome("continuer", "n1", 1, *served, (("n1", self.endpoint),), "n1", ())

    def _reply(self, submit: Submit) -> Reply:
        metas = (TensorMeta("float32", (1, 2)),)
        way = (("stem",), ("n1",), Version(1, 1), 0.8)
        return Reply(submit.seq, "none", None, *way, submit.attempt, metas)


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    made.start()
    yield made
    made.ended.set()
    made.join(GENEROUS_S)
    assert not made.is_alive()


@pytest.fixture
def client(door: Door) -> Iterator[Client]:
    with Client([door.endpoint], connect_timeout_ms=1000 * GENEROUS_S) as made:
        yield made


def given(number: int) -> np.ndarray[Any, Any]:
    return np.array([[number, -number]], np.float32)


def assert_answers(answer: Answer, number: int) -> None:
    assert answer.logits.tolist() == [number, -number]


def test_answers_that_are_waited_for_one_after_another_come(client: Client) -> None:
    for number in range(200):
        assert_answers(client.infer(given(number), BUDGET_MS), number)


def test_a_caller_who_waits_alone_does_it_all_in_its_own_thread(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for a few: the client's thread looks around now and then, and sees to what it finds."""
    served: list[str] = []
    complete = client._complete

    def seen(done: Any) -> None:
        served.append(threading.current_thread().name)
        complete(done)

    monkeypatch.setattr(client, "_complete", seen)
    for number in range(100):
        client.infer(given(number), BUDGET_MS)
    assert len(served) == 100
    assert served.count(threading.current_thread().name) >= 80


def test_many_at_once_come_in_whatever_order_they_are_waited_for(client: Client) -> None:
    expected = {client.submit(given(number), BUDGET_MS): number for number in range(100)}
    for future, number in reversed(expected.items()):
        assert_answers(future.result(GENEROUS_S), number)


def test_a_full_window_keeps_moving(client: Client) -> None:
    flying = [(n, client.submit(given(n), BUDGET_MS)) for n in range(8)]
    for number in range(8, 300):
        first, future = flying.pop(0)
        assert_answers(future.result(GENEROUS_S), first)
        flying.append((number, client.submit(given(number), BUDGET_MS)))
    for number, future in flying:
        assert_answers(future.result(GENEROUS_S), number)


def test_threads_that_ask_at_the_same_time_all_get_their_own(client: Client) -> None:
    def ask(thread: int) -> None:
        for turn in range(60):
            number = 1000 * thread + turn
            assert_answers(client.infer(given(number), BUDGET_MS), number)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(ask, thread) for thread in range(6)]:
            done.result(GENEROUS_S)


@pytest.mark.parametrize("before", [0, 1], ids=["at first", "after a caller has driven"])
def test_an_answer_comes_though_nobody_waits_for_it(client: Client, before: int) -> None:
    for number in range(before):
        client.infer(given(number), BUDGET_MS)
    arrived = threading.Event()
    client.submit(given(7), BUDGET_MS).add_done_callback(lambda _: arrived.set())
    assert arrived.wait(GENEROUS_S)


def test_futures_can_be_waited_for_with_the_librarys_own_means(client: Client) -> None:
    client.infer(given(0), BUDGET_MS)
    asked = [client.submit(given(number), BUDGET_MS) for number in range(5)]
    done, _ = concurrent.futures.wait(asked, GENEROUS_S)
    assert done == set(asked)


def test_a_wait_ends_when_its_time_is_up_and_the_answer_still_comes(
    client: Client, door: Door
) -> None:
    door.opened.clear()
    future = client.submit(given(3), BUDGET_MS)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.02)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.exception(0.02)
    door.opened.set()
    assert_answers(future.result(GENEROUS_S), 3)


def test_a_budget_ends_while_the_caller_drives(client: Client, door: Door) -> None:
    door.opened.clear()
    with pytest.raises(RequestError, match="deadline"):
        client.infer(given(3), budget_ms=30)
    door.opened.set()


def test_an_answer_that_is_waited_for_may_be_an_error(client: Client) -> None:
    error = client.submit(given(1), BUDGET_MS, "refused").exception(GENEROUS_S)
    assert isinstance(error, RequestError)
    assert error.code == "busy"


def test_closing_ends_the_wait_of_others(client: Client, door: Door) -> None:
    door.opened.clear()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(client.infer, given(n), BUDGET_MS) for n in range(3)]
        while len(set(door.asked)) < 3:
            assert not any(each.done() for each in waiting)
        client.close()
        for each in waiting:
            with pytest.raises(RequestError, match="closed"):
                each.result(GENEROUS_S)


def test_a_cancelled_request_harms_no_other(client: Client, door: Door) -> None:
    door.opened.clear()
    dropped, kept = client.submit(given(1), BUDGET_MS), client.submit(given(2), BUDGET_MS)
    assert dropped.cancel()
    door.opened.set()
    assert_answers(kept.result(GENEROUS_S), 2)
    assert_answers(client.infer(given(3), BUDGET_MS), 3)


def test_an_asyncio_wait_that_is_given_up_harms_no_other(client: Client, door: Door) -> None:
    async def ask() -> Answer:
        asking = AsyncClient(client)
        door.opened.clear()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asking.infer(given(1), BUDGET_MS), 0.05)
        door.opened.set()
        return await asyncio.wait_for(asking.infer(given(2), BUDGET_MS), GENEROUS_S)

    assert_answers(asyncio.run(ask()), 2)


def test_what_is_no_endpoint_is_refused_and_nothing_hangs() -> None:
    with pytest.raises(UnreachableError, match="give one such as"):
        Client(["10.0.0.2:7410"])
