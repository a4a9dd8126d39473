"""A box whose work stands still keeps silent; one that is slow, or idle, does not."""

from __future__ import annotations

import pytest

from agent.standstill import FACTOR, LEAST_MS, MS, Standstill
from continuer.notify import Pulse

NOW = 10**12


def pulses(*ages_ms: float) -> list[Pulse]:
    made = []
    for name, age_ms in zip(("stage", "ingress"), ages_ms, strict=True):
        pulse = Pulse(name)
        pulse.beat_ns = NOW - int(age_ms * MS)
        made.append(pulse)
    return made


@pytest.mark.parametrize("late", [0, 1])
def test_a_thread_that_does_not_come_around_hangs(late: int) -> None:
    ages = [10.0, 10.0]
    ages[late] = LEAST_MS + 1
    found = Standstill(pulses(*ages), lambda: 1500.0).hung(NOW)
    assert found == [("stage", "ingress")[late]]


def test_idle_threads_that_come_around_do_not() -> None:
    assert not Standstill(pulses(LEAST_MS - 1, 200), lambda: 1500.0).hung(NOW)


def test_a_box_on_which_everything_takes_long_is_given_as_much_longer() -> None:
    slow_us = 300_000.0
    limit_ms = FACTOR * slow_us / 1000
    assert not Standstill(pulses(limit_ms - 1, 0), lambda: slow_us).hung(NOW)
    assert Standstill(pulses(limit_ms + 1, 0), lambda: slow_us).hung(NOW) == ["stage"]


def test_a_thread_that_goes_on_hangs_no_more() -> None:
    stage, ingress = pulses(5000, 0)
    standstill = Standstill((stage, ingress), lambda: 0.0)
    assert standstill.hung(NOW) == ["stage"]
    stage.beat_ns = NOW
    assert not standstill.hung(NOW + 1)
