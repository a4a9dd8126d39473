"""How predictions follow what a node really takes, within bounds."""

from __future__ import annotations

import math

import pytest

from continuer.drift import (
    FASTEST,
    LEARNING_WINDOWS,
    MIN_PREDICTED_US,
    SLOWEST,
    Drift,
    DriftAlarm,
)

ENOUGH_US = MIN_PREDICTED_US


def work(drift: Drift, times: float, windows: int = 1, node: str = "a") -> list[DriftAlarm]:
    """So many windows of work that takes ``times`` as long as predicted."""
    alarms = (drift.observe(node, times * ENOUGH_US, ENOUGH_US) for _ in range(windows))
    return [alarm for alarm in alarms if alarm is not None]


def test_nothing_is_corrected_before_anything_was_seen() -> None:
    assert Drift().factor("a") == 1.0


def test_the_factor_comes_to_what_the_work_takes() -> None:
    drift = Drift()
    work(drift, 1.5, windows=40)
    work(drift, 0.8, windows=40, node="b")
    assert drift.factor("a") == pytest.approx(1.5, rel=0.01)
    assert drift.factor("b") == pytest.approx(0.8, rel=0.01)
    assert drift.factor("c") == 1.0


def test_one_hiccup_moves_the_factor_little() -> None:
    drift = Drift()
    work(drift, 1.0, windows=10)
    assert [*work(drift, 1.9), *work(drift, 1.0, windows=20)] == []
    assert drift.factor("a") < 1.05


def test_the_factor_stays_within_bounds_whatever_is_seen() -> None:
    drift = Drift()
    work(drift, 1000.0, windows=100)
    work(drift, 0.0, windows=100, node="b")
    assert drift.factor("a") == pytest.approx(SLOWEST)
    assert drift.factor("b") == pytest.approx(FASTEST)


def test_what_work_takes_in_a_chain_is_learned_without_an_alarm() -> None:
    drift = Drift()
    assert work(drift, 1.6, windows=LEARNING_WINDOWS + 20) == []
    assert drift.factor("a") == pytest.approx(1.6)


def test_slow_drift_is_corrected_without_an_alarm() -> None:
    drift = Drift()
    work(drift, 1.0, windows=LEARNING_WINDOWS)
    assert [a for step in range(100) for a in work(drift, 1 + step / 100)] == []
    assert drift.factor("a") > 1.9


def test_an_alarm_is_raised_when_a_node_suddenly_takes_longer_and_ends_once_it_is_learned() -> None:
    drift = Drift()
    work(drift, 1.0, windows=LEARNING_WINDOWS)
    assert work(drift, 1.15, windows=50) == []
    raised, ended = work(drift, 2.0, windows=50)
    assert (raised.node, raised.raised, ended.raised) == ("a", True, False)
    assert raised.error_percent > 20
    assert ended.error_percent < 20
    assert 1.15 < raised.factor < ended.factor <= 2.0


def test_a_node_that_is_suddenly_quicker_is_an_error_too() -> None:
    drift = Drift()
    work(drift, 2.0, windows=LEARNING_WINDOWS)
    raised, _ = work(drift, 0.7, windows=50)
    assert raised.error_percent < -20


def test_beyond_the_bounds_the_alarm_stays() -> None:
    drift = Drift()
    work(drift, 1.0, windows=LEARNING_WINDOWS)
    (alarm,) = work(drift, 2 * SLOWEST, windows=200)
    assert alarm.raised


def test_little_work_is_added_up_before_it_is_judged() -> None:
    drift = Drift()
    for _ in range(9):
        drift.observe("a", 2 * ENOUGH_US / 10, ENOUGH_US / 10)
    assert drift.factor("a") == 1.0
    drift.observe("a", 2 * ENOUGH_US / 10 + 1, ENOUGH_US / 10 + 1)
    assert drift.factor("a") > 1.1


@pytest.mark.parametrize(
    ("measured_us", "predicted_us"),
    [
        (math.nan, ENOUGH_US),
        (math.inf, ENOUGH_US),
        (-ENOUGH_US, ENOUGH_US),
        (ENOUGH_US, 0.0),
        (ENOUGH_US, math.nan),
        (ENOUGH_US, math.inf),
        (ENOUGH_US, -1.0),
    ],
)
def test_figures_that_cannot_be_are_ignored(measured_us: float, predicted_us: float) -> None:
    drift = Drift()
    assert drift.observe("a", measured_us, predicted_us) is None
    assert drift.factor("a") == 1.0
    work(drift, 1.0, windows=5)
    assert drift.factor("a") == pytest.approx(1.0)


def test_a_node_with_a_new_life_begins_anew() -> None:
    drift = Drift()
    work(drift, 2.0, windows=20)
    drift.forget("a")
    assert drift.factor("a") == 1.0
    drift.forget("never seen")
