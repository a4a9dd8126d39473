"""Optuna's search for the regressors' hyper-parameters."""

from __future__ import annotations

import pytest

from predictors.latency import PAPER_SETTINGS
from predictors.tuning import MIN_TIMINGS, _error, tune, tune_kind
from tests.predictors.made_up import made_up_profile

PROFILE = made_up_profile(0.25)
TIMINGS = PROFILE.of_kind("dense")
#: The paper's, but quick.
START = {**PAPER_SETTINGS, "rounds": 100, "max_depth": 4}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predictors.tuning.PAPER_SETTINGS", START)
    monkeypatch.setattr("predictors.tuning.MAX_ROUNDS", 150)


def test_what_is_found_is_no_worse_than_the_papers_settings_and_found_again() -> None:
    found = tune_kind(TIMINGS, trials=4)
    assert found == tune_kind(TIMINGS, trials=4)
    assert found.keys() == START.keys()
    assert _error(TIMINGS, found) <= _error(TIMINGS, START)


def test_the_search_starts_from_the_papers_settings() -> None:
    assert tune_kind(TIMINGS, trials=1) == START


def test_kinds_with_few_timings_are_left_as_they_are() -> None:
    assert len(PROFILE.of_kind("softmax")) < MIN_TIMINGS
    assert tune(PROFILE, trials=1, kinds=["softmax", "dense"]) == {"dense": START}
