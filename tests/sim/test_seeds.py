"""A few seeds on every run; ``make sim SEEDS=1000`` runs more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.faults import Fault
from tests.sim.mutants import MUTANTS
from tests.sim.run import explain, run, shrink

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_every_invariant_holds(seed: int) -> None:
    report = run(seed)
    assert not report.rule, explain(shrink(report))


# Each has once found a defect of the product; what it was is said in docs/simulator.md.
@pytest.mark.parametrize("seed", [29, 43, 67])
def test_seeds_that_found_defects_find_none_any_more(seed: int) -> None:
    report = run(seed)
    assert not report.rule, explain(shrink(report))


def test_the_same_seed_gives_the_same_transcript_and_another_one_another() -> None:
    first, again, other = run(4), run(4), run(5)
    assert first.lines == again.lines
    assert first.digest == again.digest != other.digest


def test_a_failing_schedule_is_shrunk_to_the_faults_that_matter() -> None:
    mutation = MUTANTS["a_suspect_is_never_trusted_again"].mutation()
    clock = Fault(100, "clock", ("n1",), 20)
    faults = (clock, Fault(500, "pause", ("n3",), 2000), Fault(5000, "ghost", ("n2",), 20))
    report = run(1, faults, mutation)
    assert report.rule == "all_converge"
    shortest = shrink(report, mutation)
    assert shortest.faults == (faults[1],)
    told = explain(shortest)
    assert "pause" in told
    assert "--seed 1" in told


def test_a_seed_is_replayed_from_the_command_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.sim", "--seed", "4", "--steps"],
        capture_output=True, text=True, timeout=100, cwd=ROOT,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert run(4).digest in ended.stdout
    assert "plan_formed" in ended.stdout
