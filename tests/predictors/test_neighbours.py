"""Kriging: what a run's own measurements say of variants and epochs that were not measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from predictors.accuracy import logit
from predictors.accuracy_eval import Material, r2, select
from predictors.accuracy_runs import find_runs
from predictors.features import Rows
from predictors.neighbours import SCALES, Neighbours, Places, covariance
from predictors.neighbours_tuning import error, tune

RUNS = Path(__file__).parent / "runs"


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Of one run, which is enough: runs do not see each other."""
    return Material.of(find_runs(RUNS)[:1]).rows


def test_what_was_not_measured_is_predicted_from_what_was(rows: Rows) -> None:
    held = np.random.default_rng(5).permutation(len(rows.run)) % 4 == 0
    target = logit(rows.accuracy)
    found = Neighbours(select(rows, ~held), target[~held]).predict(select(rows, held))
    score = r2(target[held], found)
    assert score is not None
    assert score > 0.8


def test_of_a_run_of_which_nothing_was_measured_it_says_nothing(rows: Rows) -> None:
    known = Neighbours(rows, logit(rows.accuracy))
    assert np.isnan(known.predict(replace(rows, run=rows.run + 7))).all()
    assert np.isfinite(known.predict(rows)).all()


def test_a_row_left_out_is_predicted_as_if_it_had_never_been_measured(rows: Rows) -> None:
    target = logit(rows.accuracy)
    quick = Neighbours(rows, target).left_one_out()
    for row in (3, 40):
        others = np.arange(len(target)) != row
        slow = Neighbours(select(rows, others), target[others]).predict(select(rows, ~others))
        assert quick[row] == pytest.approx(slow[0], abs=1e-6)


def test_skips_that_share_blocks_are_alike_and_their_costs_add_up_once_frozen(rows: Rows) -> None:
    def alike(a: tuple[str, ...], b: tuple[str, ...]) -> float:
        one, other = (_place(rows, None, skipped) for skipped in (a, b))
        return float(covariance(one, other, SCALES)[0, 0] - covariance(one, full, SCALES)[0, 0])

    full = _place(rows, None, ())
    near, far = alike(("block05",), ("block05", "block06")), alike(("block05",), ("block14",))
    assert near > 2 * far > 0
    # Twice the blocks, twice the cost: the variance is more than doubled.
    assert alike(("block05", "block06"), ("block05", "block06")) > 2 * alike(
        ("block05",), ("block05",)
    )


def test_neighbouring_exits_are_more_alike_than_distant_ones(rows: Rows) -> None:
    first, second, last = (_place(rows, name, ()) for name in ("exit03", "exit04", "exit13"))
    assert covariance(first, second, SCALES)[0, 0] > covariance(first, last, SCALES)[0, 0]


def test_the_search_for_scales_starts_from_those_in_use_and_finds_none_worse(rows: Rows) -> None:
    assert tune(rows, trials=1) == SCALES
    found = tune(rows, trials=3)
    assert error(rows, found) <= error(rows, SCALES)
    # Were every row a world of its own, there would be nothing to predict from.
    assert error(rows, replace(SCALES, epochs=1e-3, depth=1e-3)) > error(rows, SCALES)


def _place(rows: Rows, exit_name: str | None, skipped: tuple[str, ...]) -> Places:
    """Where a variant lies after the first run's last, frozen epoch."""
    runs = find_runs(RUNS)
    asked = Material.of(runs[:1]).encoder.asked(
        runs[0], len(runs[0].epochs) - 1, [(exit_name, skipped)]
    )
    assert np.isnan(asked.accuracy).all()
    assert asked.run[0] == rows.run[0]
    return Places.of(asked)
