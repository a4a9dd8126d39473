"""One hop of a request with the shipped bundle, the real runtime and real sockets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import zmq

from agent.engine import Engine
from agent.executor import Executor
from agent.peers import Peers
from continuer import sockets, wire
from continuer.plan import Hop, Member, Version
from continuer.runtime import PathRunner
from continuer.wire import BUNDLE_ID_BYTES, Problem, Result, TensorMeta, Work
from tests.unit.harness import BUNDLE

PATIENCE_MS = 20_000
INPUT = BUNDLE.manifest.input.tensors
IMAGE = np.random.default_rng(9).standard_normal((1, 32, 32, 3)).astype(np.float32)
FIRST = tuple(BUNDLE.part_ids[name] for name in BUNDLE.block_names[:3])
REST = tuple(BUNDLE.part_ids[name] for name in BUNDLE.block_names[3:])
ROUTE = (Hop("n1", 1, FIRST), Hop("n2", 2, REST))
ORACLE = PathRunner(BUNDLE)

Array = npt.NDArray[Any]


class Box:
    """An executor of node n1, and what its neighbour n2 and the ingress n3 receive."""

    def __init__(self, engine: Engine) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.next = self._listen("inproc://n2-data")
        self.origin = self._listen("inproc://n3-answers")
        peers = Peers(self.context, ("n1", 1), "inproc://n1-data", lambda m: m.data)
        ingresses = Peers(self.context, ("n1", 1), "inproc://n1-answers", lambda m: m.answers)
        members = [
            Member(f"n{i}", i, f"inproc://n{i}-data", f"inproc://n{i}-answers", "-")
            for i in (1, 2, 3)
        ]
        for link in (peers, ingresses):
            link.update(members)
        self.foreign: list[tuple[str, str, int]] = []
        self.engine = engine
        self.executor = Executor(
            ("n1", 1), "continuer", BUNDLE, engine, peers, ingresses,
            lambda *said: self.foreign.append(said),
        )  # fmt: skip

    def _listen(self, endpoint: str) -> sockets.Socket:
        sock = sockets.make(self.context, zmq.PULL, wire.MAX_TENSOR_BYTES)
        sock.bind(endpoint)
        return sock

    def receive(self, work: Work, frames: Sequence[Any] = (IMAGE.tobytes(),)) -> None:
        self.executor.receive([wire.encode(work), *frames])

    def problem(self) -> Problem:
        """The complaint that the ingress got."""
        return wire.decode(arrived(self.origin)[0], Problem)

    def silent(self) -> bool:
        """Nobody got anything; inproc sockets hand over what there is at once."""
        return not self.next.poll(0) and not self.origin.poll(0)


def arrived(sock: sockets.Socket) -> list[bytes]:
    assert sock.poll(PATIENCE_MS), "nothing arrived"
    return sock.recv_multipart()


@pytest.fixture(scope="module")
def engine() -> Engine:
    made = Engine(BUNDLE, math.inf)
    assert made.prepare([*FIRST, *REST]) == []
    return made


@pytest.fixture
def box(engine: Engine) -> Iterator[Box]:
    made = Box(engine)
    yield made
    made.context.destroy(linger=0)


def work_for(**changes: Any) -> Work:
    """Work for n1, well-formed but for the changes."""
    work = Work(
        "continuer", b"client", 5, "default", "", BUNDLE.hash[:BUNDLE_ID_BYTES],
        "n3", 3, 2, Version(1, 4), 30_000_000, 0, ROUTE, wire.metas(INPUT), 100,
    )  # fmt: skip
    return msgspec.structs.replace(work, **changes)


def names(parts: Sequence[int]) -> list[str]:
    return [BUNDLE.part_names[part] for part in parts]


# --- what goes well -----------------------------------------------------------------------


def test_a_hop_runs_its_parts_and_forwards_to_the_next(box: Box) -> None:
    work = work_for()
    box.receive(work)
    header, *frames = arrived(box.next)
    onward = wire.decode(header, Work)
    spent_us = onward.compute_us - 100
    assert spent_us > 0
    assert onward == msgspec.structs.replace(
        work,
        cursor=1,
        remaining_us=30_000_000 - spent_us,
        compute_us=100 + spent_us,
        tensors=wire.metas(BUNDLE.parts["block02"].outputs),
    )
    (tensor,) = wire.from_frames(onward.tensors, frames)
    np.testing.assert_array_equal(tensor, ORACLE.run(names(FIRST), [IMAGE])[0])
    assert box.silent()
    assert (box.executor.progress.received, box.executor.progress.done) == (1, 1)


def test_the_last_hop_answers_to_the_ingress_where_the_request_came_from(box: Box) -> None:
    route = (Hop("n9", 9, FIRST), Hop("n1", 1, REST))
    flow = ORACLE.run(names(FIRST), [IMAGE])[0]
    work = work_for(route=route, cursor=1, tensors=wire.metas(BUNDLE.parts["block03"].inputs))
    box.receive(work, [flow.tobytes()])
    header, *frames = arrived(box.origin)
    result = wire.decode(header, Result)
    assert result.compute_us > 100
    assert result == Result(
        "continuer", b"client", 5, 3, 2, Version(1, 4), route, result.compute_us,
        wire.metas(BUNDLE.parts["head"].outputs),
    )  # fmt: skip
    (logits,) = wire.from_frames(result.tensors, frames)
    np.testing.assert_array_equal(logits, ORACLE.run(BUNDLE.path(), [IMAGE])[0])
    assert box.silent()


def test_an_exit_ends_the_route(box: Box) -> None:
    path = BUNDLE.path(exit_name="exit02")
    parts = tuple(BUNDLE.part_ids[name] for name in path)
    box.receive(work_for(route=(Hop("n1", 1, parts),)))
    header, *frames = arrived(box.origin)
    (logits,) = wire.from_frames(wire.decode(header, Result).tensors, frames)
    np.testing.assert_array_equal(logits, ORACLE.run(path, [IMAGE])[0])


# --- what goes wrong ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"bundle": b"x" * 16}, "bundle", "another bundle"),
        ({"route": (Hop("n1", 1, ()), ROUTE[1])}, "bad_route", "no part"),
        ({"route": (Hop("n1", 1, (0, 33)),)}, "bad_route", "does not have"),
        ({"route": (Hop("n1", 1, (-1,)),)}, "bad_route", "does not have"),
        ({"route": (Hop("n1", 1, REST),)}, "bad_input", "shape (1, 32, 32, 3); give (1, 32, 32,"),
        ({"tensors": (TensorMeta("int32", (1, 32, 32, 3)),)}, "bad_input", "give float32"),
        (
            {"tensors": (TensorMeta("float32", (1, 32, 32, 3), 0.5, 3),)},
            "bad_input",
            "another quantisation",
        ),
        ({"route": (Hop("n1", 1, (0, 16)),)}, "failed", "ValueError"),  # head after stem
    ],
)
def test_what_cannot_be_run_is_reported_to_the_ingress(
    box: Box, changes: dict[str, Any], code: str, words: str
) -> None:
    box.receive(work_for(**changes))
    problem = box.problem()
    assert (problem.code, problem.node) == (code, "n1")
    assert words in problem.message
    assert (problem.client, problem.seq, problem.attempt) == (b"client", 5, 2)
    assert problem.origin_incarnation == 3
    assert box.silent()
    assert box.executor.progress.done == 0
    box.receive(work_for())  # and the next one is run as ever
    assert wire.decode(arrived(box.next)[0], Work).cursor == 1


def test_a_part_whose_file_is_damaged_is_reported_to_the_ingress(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    exit_id = BUNDLE.part_ids["exit05"]
    monkeypatch.setitem(
        BUNDLE.parts, "exit05", msgspec.structs.replace(BUNDLE.parts["exit05"], sha256="0" * 64)
    )
    box.receive(work_for(route=(Hop("n1", 1, (*FIRST, 3, 4, 5, exit_id)),)))
    problem = box.problem()
    assert problem.code == "failed"
    assert "exit05.tflite: SHA-256" in problem.message


def test_work_out_of_budget_is_dropped_after_its_run(box: Box) -> None:
    box.receive(work_for(remaining_us=1))
    assert box.silent()
    assert box.executor.progress.expired == 1


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"garbage", b"\xff" * 100],
        [wire.encode(Problem("continuer", b"c", 1, 1, 1, "n", "c", "m"))],
        [wire.encode(work_for())],  # no tensor
        [wire.encode(work_for()), IMAGE.tobytes()[:-1]],
        [wire.encode(work_for()), IMAGE.tobytes(), b"more"],
        [wire.encode(work_for(cluster="staging")), IMAGE.tobytes()],
        [wire.encode(work_for(cursor=2)), IMAGE.tobytes()],
        [wire.encode(work_for(cursor=-1)), IMAGE.tobytes()],
        [wire.encode(work_for(cursor=1)), IMAGE.tobytes()],  # the hop of n2
    ],
)
def test_what_does_not_belong_here_is_counted_and_otherwise_ignored(
    box: Box, frames: list[bytes]
) -> None:
    for count in (1, 2):
        box.executor.receive(frames)
        assert [said[2] for said in box.foreign] == list(range(1, count + 1))
    assert all(where == "data" and problem for where, problem, _ in box.foreign)
    assert box.executor.progress.foreign == 2
    assert box.executor.progress.done == 0
    assert box.silent()


@pytest.mark.parametrize("bundle", [BUNDLE.hash[:BUNDLE_ID_BYTES], b"x" * 16])
def test_work_whose_outcome_would_not_fit_a_header_is_counted_as_foreign(
    box: Box, bundle: bytes
) -> None:
    empty = work_for(bundle=bundle, remaining_us=100_000, client=b"")
    room = wire.MAX_HEADER_BYTES - len(wire.encode(empty)) - 2
    box.receive(work_for(bundle=bundle, remaining_us=100_000, client=b"c" * room))
    outcome = box.next.poll(0) or box.origin.poll(0) or box.foreign
    assert outcome, "forwarded, reported or counted, but never an end of the thread"


def test_what_parts_take_is_counted_beside_what_they_took_when_they_were_loaded(
    box: Box,
) -> None:
    progress = box.executor.progress
    box.receive(work_for())
    counted = (progress.worked_us, progress.predicted_us)
    parts = work_for().route[0].parts
    expected_us = box.engine.latency_us(parts)
    assert expected_us < 1e6
    box.receive(work_for())
    assert progress.predicted_us == pytest.approx(counted[1] + expected_us)
    assert progress.worked_us > counted[0]


# --- in the ingress -----------------------------------------------------------------------


def test_a_short_hop_is_run_inline(box: Box) -> None:
    assert box.executor.try_inline(work_for(), [IMAGE.tobytes()])
    onward = wire.decode(arrived(box.next)[0], Work)
    assert onward.cursor == 1
    assert box.executor.progress.done == 1
    assert not box.engine.lock.locked()


def test_nothing_is_run_inline_while_the_engine_is_busy(box: Box) -> None:
    with box.engine.lock:
        assert not box.executor.try_inline(work_for(), [IMAGE.tobytes()])
    assert box.silent()
    assert box.executor.try_inline(work_for(), [IMAGE.tobytes()])


def test_a_long_hop_is_not_run_inline(box: Box) -> None:
    block = BUNDLE.part_ids["block01"]
    long = work_for(route=(Hop("n1", 1, (0, *[block] * 1000)), ROUTE[1]))
    assert box.engine.latency_us(long.route[0].parts) > 2000
    assert not box.executor.try_inline(long, [IMAGE.tobytes()])
    assert not box.engine.lock.locked()
    assert box.silent()


def test_a_hop_that_must_be_loaded_first_is_not_run_inline(box: Box) -> None:
    absent = work_for(route=(Hop("n1", 1, (0, 1, BUNDLE.part_ids["exit01"])),))
    assert not box.executor.try_inline(absent, [IMAGE.tobytes()])
    assert box.silent()


def test_a_hop_that_fails_inline_frees_the_engine_and_tells_the_ingress(box: Box) -> None:
    wrong = work_for(route=(Hop("n1", 1, (0, 16)),))
    assert box.executor.try_inline(wrong, [IMAGE.tobytes()])
    assert box.problem().code == "failed"
    assert not box.engine.lock.locked()


# --- links --------------------------------------------------------------------------------


def test_what_cannot_be_sent_waits_and_is_reported_when_dropped(engine: Engine) -> None:
    context: zmq.Context[Any] = zmq.Context()
    try:
        links = [Peers(context, ("n1", 1), "inproc://own", lambda m: m.data) for _ in range(2)]
        nobody = Member("n2", 2, "tcp://127.0.0.1:1", "-", "-")  # a port of the system: refused
        links[0].update([nobody])
        executor = Executor(
            ("n1", 1), "continuer", BUNDLE, engine, links[0], links[1], lambda *_: None
        )
        executor.receive([wire.encode(work_for()), IMAGE.tobytes()])
        assert executor.waiting
        dropped: dict[tuple[str, int], int] = {}
        for _ in range(PATIENCE_MS):
            dropped |= executor.flush()
            if not executor.waiting:
                break
            zmq.Poller().poll(1)
        assert dropped == {("n2", 2): 1}
    finally:
        context.destroy(linger=0)
