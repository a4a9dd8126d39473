"""Table II: predictions against what was measured, on operators that were not learned from."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from predictors.latency import PAPER_SETTINGS
from predictors.latency_eval import (
    channel_splits,
    cross_predicted,
    latency_row,
    latency_table,
    r2,
    random_splits,
)
from predictors.operators import PAPER_TYPES
from predictors.profile import Timing
from tests.predictors.made_up import made_up_profile

QUICK = {**PAPER_SETTINGS, "rounds": 60}
PROFILE = made_up_profile()
TABLE = latency_table(PROFILE, dict.fromkeys(PROFILE.kinds, QUICK))


def test_the_table_has_a_row_for_every_layer_type_of_the_paper() -> None:
    assert set(TABLE) == {*PAPER_TYPES, "dropout"}
    for kind in PAPER_TYPES:
        row = TABLE[kind]
        assert row["reason"] is None
        assert row["r2"] is not None
        assert row["r2"] > 0.95, kind
        assert row["r2_unseen"] is not None
        assert row["r2_unseen"] > 0.9, kind
        assert row["mse_ms2"] is not None
        assert 0 < row["mse_ms2"] < 0.1
        # Passes were made up with a spread of 1 %.
        assert row["noise_percent"] is not None
        assert 0.1 < row["noise_percent"] < 2


def test_dropout_has_no_operator_and_the_table_says_so() -> None:
    row = TABLE["dropout"]
    assert row["reason"] is not None
    assert "no such operator at inference" in row["reason"]
    assert [value for key, value in row.items() if key != "reason"] == [None] * 5


def test_shuffled_timings_cannot_be_predicted() -> None:
    timings = PROFILE.of_kind("conv")
    order = np.random.default_rng(3).permutation(len(timings))
    shuffled = [
        Timing(timing.operator, timings[other].passes_us)
        for timing, other in zip(timings, order, strict=True)
    ]
    row = latency_row(shuffled, QUICK)
    assert row["r2"] is not None
    assert row["r2"] < 0.1
    assert row["r2_unseen"] is not None
    assert row["r2_unseen"] < 0.1


def test_every_operator_is_tested_once_on_what_was_learned_from_four_fifths() -> None:
    tested = []
    for learn, test in random_splits(103):
        assert len(learn) + len(test) == 103
        assert not set(learn) & set(test)
        assert len(test) == pytest.approx(20.6, abs=1)
        tested += test.tolist()
    assert sorted(tested) == list(range(103))
    assert tested != list(range(103))


def test_unseen_means_that_no_operator_with_as_many_channels_was_learned_from() -> None:
    timings = PROFILE.of_kind("conv")
    tested = []
    for learn, test in channel_splits(timings):
        channels = [{timings[i].operator.source[2] for i in side} for side in (learn, test)]
        assert not channels[0] & channels[1]
        tested += test.tolist()
    assert sorted(tested) == list(range(len(timings)))


def test_no_prediction_depends_on_the_timing_that_it_is_compared_with() -> None:
    timings = PROFILE.of_kind("relu")
    changed = msgspec.structs.replace(timings[5], passes_us=(5e4, 5e4, 5e4, 5e4))
    both = [
        cross_predicted(found, random_splits(len(timings)), QUICK)[5]
        for found in (timings, [*timings[:5], changed, *timings[6:]])
    ]
    assert both[0] == both[1]


def test_r2_is_one_for_what_is_right_and_zero_for_the_mean() -> None:
    measured = np.array([1.0, 2.0, 6.0])
    assert r2(measured, measured) == 1.0
    assert r2(measured, np.full(3, 3.0)) == 0.0
    assert math.isclose(r2(measured, np.array([2.0, 3.0, 7.0])), 1 - 3 / 14)
