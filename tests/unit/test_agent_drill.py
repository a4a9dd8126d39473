"""An agent that was told to die stays away for as long as it was told, and only once."""

from __future__ import annotations

import time

import pytest

from agent.drill import AWAY, MAX_AWAY_S, away_s, stay_away


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2.5", 2.5), ("0", 0.0), ("-3", 0.0), ("nan", 0.0), ("soon", 0.0), ("1e9", MAX_AWAY_S)],
)
def test_the_time_to_stay_away_is_bounded_and_nonsense_is_none(text: str, expected: float) -> None:
    assert away_s({AWAY: text}) == expected


def test_a_process_that_is_no_drills_does_not_wait() -> None:
    assert away_s({}) == 0.0


def test_it_stays_away_once() -> None:
    environment = {AWAY: "0.2", "NOTIFY_SOCKET": ""}
    begun = time.monotonic()
    assert stay_away(environment) == 0.2
    assert time.monotonic() - begun >= 0.2
    assert AWAY not in environment
    assert stay_away(environment) == 0.0
