"""The engine's process, with the real runtime and models that end, hang or overfill it."""

from __future__ import annotations

import math
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent import engine_worker
from agent.engine import Engine, EngineDiedError
from agent.engine_process import EngineLostError
from agent.own_process import OwnProcess
from continuer.bundle import Bundle, TensorSpec
from continuer.errors import BundleError
from continuer.runtime import PathRunner
from tests.models import moody
from tests.models.malformed import crashing
from tests.models.tiny import SHAPE
from tests.unit.harness import BUNDLE

IMAGE = np.random.default_rng(5).standard_normal((1, 32, 32, 3)).astype(np.float32)
PATH = [BUNDLE.part_ids[name] for name in BUNDLE.path()]
DEADLINE_S = 2.0
PATIENCE_S = 60.0
REQUEST = (b"\x0a\x0b", 7)
needs_trap = pytest.mark.skipif(
    not moody.DEADLY_HERE, reason="this processor does not trap where the test's model makes it"
)


class Box:
    """An engine in a process of its own, and the events that it wrote."""

    def __init__(self, bundle: Bundle, memory_bytes: int | None = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.runner = OwnProcess(
            bundle, memory_bytes, DEADLINE_S, lambda name, **said: self.events.append((name, said))
        )
        self.engine = Engine(bundle, math.inf, 1.0, self.runner)

    def restarts(self) -> list[dict[str, Any]]:
        return [said for name, said in self.events if name == "engine_restarted"]

    def keeper(self) -> int:
        keeper = self.runner._process._keeper
        assert keeper is not None
        return keeper.pid


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """No such process, or one that only waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box(BUNDLE)
    yield made
    made.engine.stop()


@pytest.fixture
def moody_box(tmp_path: Path) -> Iterator[Callable[[bytes, TensorSpec, TensorSpec], Box]]:
    boxes = []

    def make(content: bytes, into: TensorSpec, out: TensorSpec) -> Box:
        boxes.append(Box(moody.bundle(tmp_path / "moody", content, into, out)))
        return boxes[-1]

    yield make
    for made in boxes:
        made.engine.stop()


# --- what goes well -----------------------------------------------------------------------


def test_a_path_gives_what_it_gives_in_this_process(box: Box) -> None:
    assert box.engine.prepare(PATH) == []
    (logits,) = box.engine.run(PATH, [IMAGE])
    (expected,) = PathRunner(BUNDLE).run(BUNDLE.path(), [IMAGE])
    np.testing.assert_array_equal(logits, expected)
    first = logits.copy()
    box.engine.run(PATH, [IMAGE * 2])
    np.testing.assert_array_equal(logits, first)  # an answer is no view of memory used again


def test_the_parts_are_in_another_process(box: Box) -> None:
    box.engine.prepare(PATH[:1])
    assert box.engine.pid > 0
    assert box.engine.pid != os.getpid()
    assert [timing.part for timing in box.engine.timings()] == PATH[:1]
    one_us = box.engine.timings()[0].latency_us
    assert box.engine.latency_us(PATH[:1]) == one_us + box.runner.overhead_us
    assert box.runner.overhead_us > 0


def test_a_part_that_was_let_go_is_loaded_on_the_spot(box: Box) -> None:
    box.engine.prepare(PATH[:2])
    box.engine.release()
    assert box.engine.timings() == ()
    (flow,) = box.engine.run(PATH[:1], [IMAGE])
    assert flow.shape == (1, 32, 32, 16)
    assert box.restarts() == []


def test_what_the_runtime_refuses_kills_nothing(box: Box) -> None:
    box.engine.prepare(PATH)
    worker = box.engine.pid
    with pytest.raises(BundleError, match="ValueError"):
        box.engine.run([PATH[0], PATH[-1]], [IMAGE])  # the head after the stem
    assert box.engine.pid == worker
    assert box.restarts() == []


def test_both_processes_end_with_the_engine(box: Box) -> None:
    worker, keeper = box.engine.pid, box.keeper()
    box.engine.stop()
    until(lambda: gone(worker) and gone(keeper))
    with pytest.raises(BundleError, match="has ended"):
        box.runner.load(PATH[0])


# --- what it cannot do --------------------------------------------------------------------


def test_it_says_what_keeps_it_from_the_network(box: Box) -> None:
    name, said = box.events[0]
    assert name == "engine_started"
    assert "system call filter" in said["closed_by"]
    status = Path(f"/proc/{box.engine.pid}/status").read_text()
    assert "Seccomp:\t2" in status


def test_it_has_no_descriptor_of_the_agent() -> None:
    with Path("/dev/zero").open("rb") as ours:
        os.set_inheritable(ours.fileno(), True)
        box = Box(BUNDLE)
    try:
        links = Path(f"/proc/{box.engine.pid}/fd").iterdir()
        held = sorted(str(link.readlink()).split(":")[0] for link in links)
    finally:
        box.engine.stop()
    log = "/memfd"
    # Its input, its two outputs, the shared memory, the agent.
    assert held == ["/dev/null", log, log, log, "socket"]


def test_its_memory_is_limited() -> None:
    box = Box(BUNDLE, memory_bytes=1 << 20)
    try:
        assert box.engine.prepare(range(len(BUNDLE.part_names)))
        assert len(box.engine.timings()) < len(BUNDLE.part_names)
    finally:
        box.engine.stop()


# --- deaths -------------------------------------------------------------------------------


@needs_trap
def test_a_crash_costs_one_request_and_is_told_with_its_name(
    moody_box: Callable[[bytes, TensorSpec, TensorSpec], Box],
) -> None:
    box = moody_box(moody.remainders(), moody.NUMBER, moody.NUMBER)
    box.engine.prepare([0])
    worker = box.engine.pid
    with pytest.raises(EngineDiedError, match="crashed with SIGFPE while running moody"):
        box.engine.run([0], [moody.DEADLY], REQUEST)
    assert box.engine.pid not in (worker, -1)
    (said,) = box.restarts()
    assert said["request"] == "0a0b/7"
    assert "SIGFPE" in said["problem"]
    assert said["restart_ms"] > 0
    (remainder,) = box.engine.run([0], [moody.HARMLESS])
    assert remainder == np.mod(np.int32(-(1 << 31)), np.int32(10))
    assert len(box.restarts()) == 1


def test_a_hang_is_ended_at_the_deadline(
    moody_box: Callable[[bytes, TensorSpec, TensorSpec], Box],
) -> None:
    box = moody_box(moody.matrices(), moody.SIDES, moody.TOTAL)
    (expected,) = box.engine.run([0], [moody.QUICK])
    with pytest.raises(EngineDiedError, match=r"not done after 2\.\d s, while running moody"):
        box.engine.run([0], [moody.ENDLESS], REQUEST)
    assert [said["request"] for said in box.restarts()] == ["0a0b/7"]
    np.testing.assert_array_equal(box.engine.run([0], [moody.QUICK])[0], expected)


def test_a_part_that_kills_while_it_is_loaded_is_named_and_left_out(
    moody_box: Callable[[bytes, TensorSpec, TensorSpec], Box],
) -> None:
    image = TensorSpec("image", SHAPE)
    box = moody_box(crashing(), image, image)
    (problem,) = box.engine.prepare([0])
    assert "moody.tflite: the runtime crashed with SIGSEGV while loading moody" in problem
    assert box.engine.timings() == ()
    assert len(box.restarts()) == 1


@pytest.mark.parametrize("claimed", ["=d", "=dQ"])
def test_a_worker_that_says_nonsense_is_replaced(
    box: Box, monkeypatch: pytest.MonkeyPatch, claimed: str
) -> None:
    """A model that took its process over may send anything; the agent lives on."""
    monkeypatch.setattr(engine_worker, "TIMES", struct.Struct(claimed))
    worker = box.engine.pid
    (problem,) = box.engine.prepare(PATH[:1])
    assert "while loading stem" in problem
    assert box.engine.pid not in (worker, -1)
    assert box.engine.timings() == ()


def test_no_request_is_blamed_for_a_death_that_came_before_it(box: Box) -> None:
    box.engine.prepare(PATH)
    before = box.engine.run(PATH, [IMAGE])[0]
    worker = box.engine.pid
    os.kill(worker, signal.SIGKILL)
    until(lambda: gone(worker))
    np.testing.assert_array_equal(box.engine.run(PATH, [IMAGE], REQUEST)[0], before)
    (said,) = box.restarts()
    assert said["request"] == ""
    assert "SIGKILL" in said["problem"]


def test_after_a_death_all_parts_come_back(box: Box) -> None:
    every = range(len(BUNDLE.part_names))
    box.engine.prepare(every)
    worker = box.engine.pid
    os.kill(worker, signal.SIGKILL)
    until(lambda: gone(worker))
    box.engine.run(PATH[:1], [IMAGE])
    until(lambda: all(box.runner.holds(part) for part in every))


def test_a_keeper_that_died_is_replaced(box: Box) -> None:
    box.engine.prepare(PATH)
    before = box.engine.run(PATH, [IMAGE])[0]
    keeper, worker = box.keeper(), box.engine.pid
    os.kill(keeper, signal.SIGKILL)
    until(lambda: gone(worker))  # no worker outlives its keeper
    np.testing.assert_array_equal(box.engine.run(PATH, [IMAGE], REQUEST)[0], before)
    assert box.keeper() != keeper


def test_an_engine_that_cannot_be_started_is_no_engine(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_worker, "START", "raise SystemExit({descriptor})")
    os.kill(box.keeper(), signal.SIGKILL)
    with pytest.raises(EngineLostError, match="cannot be started"):
        box.engine.run(PATH[:1], [IMAGE])


def test_what_tells_an_agent_to_stop_does_not_stop_its_engine(box: Box) -> None:
    for pid in (box.keeper(), box.engine.pid):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    worker = box.engine.pid
    box.engine.run(PATH[:1], [IMAGE])
    assert box.engine.pid == worker
