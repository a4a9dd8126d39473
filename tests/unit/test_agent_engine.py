"""The engine with the shipped bundle and the real runtime: memory, loading, damage."""

from __future__ import annotations

import math
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from agent.engine import Engine
from continuer import bundle as bundles
from continuer.bundle import Bundle
from continuer.errors import BundleError
from continuer.runtime import PathRunner
from tests.unit.harness import BUNDLE

SIZES = [part.memory_bytes for part in BUNDLE.manifest.parts]
STEM, HEAD = BUNDLE.part_ids["stem"], BUNDLE.part_ids["head"]
IMAGE = np.random.default_rng(5).standard_normal((1, 32, 32, 3)).astype(np.float32)


def in_memory(engine: Engine) -> list[int]:
    return [timing.part for timing in engine.timings()]


@pytest.fixture
def copied(tmp_path: Path) -> Bundle:
    """A copy of the bundle, to be damaged."""
    return bundles.load(shutil.copytree(BUNDLE.directory, tmp_path / "bundle"))


def test_prepared_parts_are_in_memory_with_what_they_cost_here() -> None:
    engine = Engine(BUNDLE, math.inf)
    assert engine.prepare([1, STEM]) == []
    timings = engine.timings()
    assert [timing.part for timing in timings] == [STEM, 1]
    assert all(0 < timing.latency_us < timing.load_us for timing in timings)
    assert engine.latency_us((STEM, 1)) == sum(timing.latency_us for timing in timings)


def test_the_latency_is_infinite_while_a_part_is_not_in_memory() -> None:
    engine = Engine(BUNDLE, math.inf)
    engine.prepare([STEM])
    assert engine.latency_us((STEM, 1)) == math.inf
    assert engine.latency_us(()) == 0


def test_what_is_in_memory_is_not_loaded_again() -> None:
    engine = Engine(BUNDLE, math.inf)
    engine.prepare([STEM])
    before = engine._loaded[STEM]
    engine.prepare([STEM, 1])
    assert engine._loaded[STEM] is before


def test_parts_run_one_after_the_other_as_the_whole_does() -> None:
    engine = Engine(BUNDLE, math.inf)
    path = BUNDLE.path(skipped=["block06"], exit_name="exit07")
    ids = [BUNDLE.part_ids[name] for name in path]
    engine.prepare(ids)
    (logits,) = engine.run(ids, [IMAGE])
    (expected,) = PathRunner(BUNDLE).run(path, [IMAGE])
    np.testing.assert_array_equal(logits, expected)


def test_a_part_that_is_absent_is_loaded_on_the_spot() -> None:
    engine = Engine(BUNDLE, math.inf)
    (flow,) = engine.run((STEM,), [IMAGE])
    assert flow.shape == (1, 32, 32, 16)
    assert in_memory(engine) == [STEM]


def test_a_part_that_is_needed_is_loaded_even_beyond_the_budget() -> None:
    engine = Engine(BUNDLE, 1)
    engine.run((STEM,), [IMAGE])
    assert in_memory(engine) == [STEM]


def test_the_memory_budget_is_honoured_and_the_rest_reported() -> None:
    engine = Engine(BUNDLE, sum(SIZES[:3]) + 1000)
    problems = engine.prepare([0, 1, 2, 3, HEAD])
    assert in_memory(engine) == [0, 1, 2]
    assert problems == [
        "part 'block03': needs 544768 bytes, 1000 are left; raise 'memory_mib'",
        "part 'head': needs 104448 bytes, 1000 are left; raise 'memory_mib'",
    ]


def test_a_smaller_part_still_fits_after_one_that_does_not() -> None:
    engine = Engine(BUNDLE, SIZES[STEM] + SIZES[HEAD])
    problems = engine.prepare([STEM, 1, HEAD])
    assert in_memory(engine) == [STEM, HEAD]
    assert len(problems) == 1


def test_parts_that_are_not_wanted_leave_where_the_budget_demands_it() -> None:
    engine = Engine(BUNDLE, sum(SIZES[:4]))
    engine.prepare([0, 1, 2, 3])
    assert engine.prepare([2, 4]) == []
    held = in_memory(engine)
    assert {2, 4} <= set(held)
    assert 0 not in held
    assert sum(SIZES[part] for part in held) <= sum(SIZES[:4])


def test_parts_stay_while_there_is_room() -> None:
    engine = Engine(BUNDLE, sum(SIZES[:4]))
    engine.prepare([0, 1])
    engine.prepare([2, 3])
    assert in_memory(engine) == [0, 1, 2, 3]


def test_a_part_that_left_is_loaded_again_when_it_is_needed() -> None:
    engine = Engine(BUNDLE, max(SIZES))
    engine.prepare([STEM])
    engine.prepare([BUNDLE.part_ids["exit01"]])
    assert STEM not in in_memory(engine)
    engine.run((STEM,), [IMAGE])
    assert STEM in in_memory(engine)


def test_an_altered_file_is_not_run(copied: Bundle) -> None:
    path = copied.file_of("stem")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    engine = Engine(copied, math.inf)
    with pytest.raises(BundleError, match=r"stem\.tflite: SHA-256 .*altered.*copy the bundle"):
        engine.run((STEM,), [IMAGE])
    (problem,) = engine.prepare([STEM, 1])
    assert "stem.tflite" in problem
    assert in_memory(engine) == [1]  # one bad part does not keep the others out


def test_a_file_that_is_gone_is_reported(copied: Bundle) -> None:
    copied.file_of("block01").unlink()
    (problem,) = Engine(copied, math.inf).prepare([1])
    assert "block01.tflite: No such file" in problem


def test_two_threads_that_need_the_same_part_load_it_once() -> None:
    engine = Engine(BUNDLE, math.inf)
    gate = threading.Barrier(4)
    got = []

    def need() -> None:
        gate.wait()
        got.append(engine._load(12))

    threads = [threading.Thread(target=need) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(got) == 4
    assert all(loaded is got[0] for loaded in got)


def test_a_slowed_box_reports_slower_parts_and_waits_in_proportion() -> None:
    engine = Engine(BUNDLE, math.inf, slowdown=3.0)
    engine.prepare([STEM])
    (timing,) = engine.timings()
    assert timing.latency_us == 3 * engine._loaded[STEM].latency_us
    assert engine.latency_us([STEM]) == timing.latency_us
    started = time.perf_counter_ns()
    time.sleep(0.005)
    spent = time.perf_counter_ns() - started
    engine._drag(started)
    assert time.perf_counter_ns() - started >= 3 * spent
