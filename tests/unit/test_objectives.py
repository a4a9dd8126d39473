"""Thresholds and scores: what the operator asked for decides, and nothing beside it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuer.errors import ConfigError
from continuer.objectives import DOWNTIME_UNIT_MS, Metrics, Objectives, score, violations

FULL = Metrics(accuracy=0.9, latency_ms=4.0, downtime_ms=0.0)
NAN, INF = float("nan"), float("inf")

METRICS = st.builds(
    Metrics,
    st.floats(0.01, 1),
    st.floats(0.01, 1e4),
    st.floats(0, 1e4),
)
WEIGHTS = st.builds(
    lambda a, latency, d: Objectives(weight_accuracy=a, weight_latency=latency, weight_downtime=d),
    st.floats(0.01, 10),
    st.floats(0, 10),
    st.floats(0, 10),
)


# --- scores ---------------------------------------------------------------------------------


def test_the_score_is_equation_2_relative_to_the_full_plan() -> None:
    objectives = Objectives(weight_accuracy=0.5, weight_latency=0.25, weight_downtime=2.0)
    candidate = Metrics(accuracy=0.45, latency_ms=8.0, downtime_ms=DOWNTIME_UNIT_MS / 2)
    assert score(objectives, candidate, FULL) == pytest.approx(0.5 * 0.5 - 0.25 * 2 - 2.0 * 0.5)


def test_the_full_plan_itself_scores_its_weights() -> None:
    assert score(Objectives(), FULL, FULL) == pytest.approx(0.6 - 0.3)


def test_nothing_is_earned_for_being_faster_than_what_the_operator_deployed() -> None:
    faster = Metrics(FULL.accuracy, FULL.latency_ms / 4, 0.0)
    assert score(Objectives(), faster, FULL) == score(Objectives(), FULL, FULL)
    early_exit = Metrics(0.8, 1.0, 0.0)
    assert score(Objectives(), early_exit, FULL) < score(Objectives(), FULL, FULL)


@given(WEIGHTS, METRICS, METRICS, st.floats(1e-3, 1))
def test_more_accuracy_is_never_worse(
    objectives: Objectives, full: Metrics, metrics: Metrics, by: float
) -> None:
    better = Metrics(metrics.accuracy + by, metrics.latency_ms, metrics.downtime_ms)
    assert score(objectives, better, full) > score(objectives, metrics, full)


@given(WEIGHTS, METRICS, METRICS, st.floats(0, 100), st.floats(0, 100))
def test_more_latency_or_downtime_is_never_better(
    objectives: Objectives, full: Metrics, metrics: Metrics, slower: float, longer: float
) -> None:
    worse = Metrics(metrics.accuracy, metrics.latency_ms + slower, metrics.downtime_ms + longer)
    assert score(objectives, worse, full) <= score(objectives, metrics, full)


def ranked(objectives: Objectives, candidates: list[Metrics], full: Metrics) -> list[Metrics]:
    """As a planner ranks: by score, the first found winning a tie."""
    return sorted(candidates, key=lambda metrics: -score(objectives, metrics, full))


@given(WEIGHTS, st.lists(METRICS, min_size=2, max_size=6), METRICS)
def test_a_bad_candidate_more_never_flips_the_order_of_the_others(
    objectives: Objectives, candidates: list[Metrics], full: Metrics
) -> None:
    bad = Metrics(accuracy=1e-3, latency_ms=1e9, downtime_ms=1e9)
    with_bad = ranked(objectives, [*candidates, bad], full)
    with_bad.remove(bad)
    assert with_bad == ranked(objectives, candidates, full)


def min_max_scaled(objectives: Objectives, candidates: list[Metrics]) -> Metrics:
    """The best by the paper's scaling, between the extremes of the candidates."""

    def scaled(value: float, values: list[float]) -> float:
        return (value - min(values)) / (max(values) - min(values))

    accuracies = [c.accuracy for c in candidates]
    latencies = [c.latency_ms for c in candidates]
    return max(
        candidates,
        key=lambda c: (
            objectives.weight_accuracy * scaled(c.accuracy, accuracies)
            - objectives.weight_latency * scaled(c.latency_ms, latencies)
        ),
    )


def test_a_bad_candidate_flips_the_choice_by_the_papers_scaling_and_not_by_ours() -> None:
    objectives, full = Objectives(), Metrics(0.9, 10.0, 0.0)
    accurate, quick = Metrics(0.9, 10.0, 0.0), Metrics(0.7, 4.0, 0.0)
    bad = Metrics(0.1, 9.0, 0.0)
    assert min_max_scaled(objectives, [accurate, quick]) is accurate
    assert min_max_scaled(objectives, [accurate, quick, bad]) is quick
    assert ranked(objectives, [quick, accurate], full)[0] is accurate
    assert ranked(objectives, [bad, quick, accurate], full)[0] is accurate


# --- thresholds -----------------------------------------------------------------------------


def test_without_thresholds_nothing_is_violated() -> None:
    assert violations(Objectives(), Metrics(0.0, 1e9, 1e9)) == {}


def test_a_threshold_that_is_just_met_is_met() -> None:
    objectives = Objectives(min_accuracy=0.8, max_latency_ms=5.0, max_downtime_ms=10.0)
    assert violations(objectives, Metrics(0.8, 5.0, 10.0)) == {}


def test_every_broken_threshold_is_named_with_its_share() -> None:
    objectives = Objectives(min_accuracy=0.8, max_latency_ms=5.0, max_downtime_ms=10.0)
    broken = violations(objectives, Metrics(0.6, 10.0, 12.5))
    assert broken == {
        "min_accuracy": pytest.approx(0.25),
        "max_latency_ms": pytest.approx(1.0),
        "max_downtime_ms": pytest.approx(0.25),
    }
    assert violations(objectives, Metrics(0.9, 6.0, 1.0)).keys() == {"max_latency_ms"}


@given(METRICS, METRICS)
def test_what_is_worse_in_everything_violates_at_least_as_much(
    limits: Metrics, metrics: Metrics
) -> None:
    objectives = Objectives(
        min_accuracy=limits.accuracy,
        max_latency_ms=limits.latency_ms,
        max_downtime_ms=limits.downtime_ms + 1,
    )
    worse = Metrics(metrics.accuracy / 2, metrics.latency_ms * 2, metrics.downtime_ms * 2)
    found, more = violations(objectives, metrics), violations(objectives, worse)
    assert all(more[key] >= share > 0 for key, share in found.items())


# --- nonsense -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"weight_accuracy": NAN}, "weight_accuracy"),
        ({"weight_latency": -0.1}, "weight_latency"),
        ({"weight_downtime": INF}, "weight_downtime"),
        ({"min_accuracy": 80.0}, "min_accuracy"),
        ({"min_accuracy": -0.1}, "min_accuracy"),
        ({"min_accuracy": NAN}, "min_accuracy"),
        ({"max_latency_ms": 0.0}, "max_latency_ms"),
        ({"max_latency_ms": NAN}, "max_latency_ms"),
        ({"max_downtime_ms": -1.0}, "max_downtime_ms"),
        ({"max_downtime_ms": INF}, "max_downtime_ms"),
        ({"weight_accuracy": 0, "weight_latency": 0, "weight_downtime": 0}, "weight_*"),
    ],
)
def test_nonsense_is_refused_by_name(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Objectives(**values).check()
    assert caught.value.key == f"objectives.{key}"
    found = values.get(key, 0)
    assert caught.value.value == found or math.isnan(found)
    with pytest.raises(ConfigError, match=r"^--"):
        Objectives(**values).check("--")


def test_sensible_objectives_are_taken() -> None:
    Objectives().check()
    Objectives(min_accuracy=0.0, max_latency_ms=1e-3, max_downtime_ms=1.0).check()
    # Only thresholds count, and that is said: taken.
    Objectives(min_accuracy=0.8, weight_accuracy=0, weight_latency=0, weight_downtime=0).check()
