"""What is learned of failovers, by node and by technique, and what predictions make of it."""

from __future__ import annotations

import msgspec
import pytest

from coordinator.downtimes import WEIGHT, Timings
from coordinator.planner import candidates, full_layout, make_step, metrics_of
from tests.unit.settings import setting_of


def test_telling_is_learned_for_each_technique_and_others_keep_what_is_usual() -> None:
    usual = Timings()
    learned = usual.with_telling(6.0, "skip")
    assert learned.tell("skip") == pytest.approx((1 - WEIGHT) * usual.tell_ms + WEIGHT * 6.0)
    twice = learned.with_telling(1.0, "repartition")
    assert twice.tell("skip") == learned.tell("skip")
    assert twice.tell("early_exit") == twice.tell_ms


def test_a_plan_that_nothing_waits_for_says_nothing_of_a_technique() -> None:
    learned = Timings().with_telling(6.0, None)
    assert learned.tell_ms_of == {}
    assert learned.tell("skip") == learned.tell_ms > Timings().tell_ms


def test_candidates_differ_by_what_was_learned_of_their_technique() -> None:
    before = setting_of()
    setting = msgspec.structs.replace(before, timings=Timings(tell_ms_of={"early_exit": 9.0}))
    layout = full_layout(setting)
    assert layout is not None
    base = make_step(setting, layout, "none")
    assert base is not None
    found = candidates(setting, layout, frozenset({"n3"}), metrics_of(base.step))
    downtimes_ms = {c.step.technique: c.step.downtime_ms for c in found if not c.missing}
    assert downtimes_ms["early_exit"] - downtimes_ms["skip"] == pytest.approx(
        9.0 - setting.timings.tell_ms
    )
