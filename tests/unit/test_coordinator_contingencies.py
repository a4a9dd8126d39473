"""The decisions prepared for a plan: which, in which order, and what becomes of them."""

from __future__ import annotations

import itertools

from coordinator.contingencies import Contingencies
from coordinator.holdings import wanted_parts
from coordinator.planner import full_layout
from tests.unit.settings import FIVE, NAMES, full_metrics, setting_of


def prepared(contingencies: Contingencies) -> Contingencies:
    while not contingencies.done:
        contingencies.prepare_next()
    return contingencies


def test_every_node_then_every_link_of_the_route_then_every_pair_is_decided_beforehand() -> None:
    setting = setting_of()
    decisions = prepared(Contingencies(setting, FIVE, full_metrics(setting))).decisions
    singles, pairs = ([*itertools.combinations(NAMES, n)] for n in (1, 2))
    links = [(f"{a}>{b}",) for a, b in zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True)]
    assert list(decisions) == [frozenset(failed) for failed in (*singles, *links, *pairs)]
    assert all(frozenset(d.failed) == failed for failed, d in decisions.items())


def test_single_failures_come_first_and_one_decision_is_made_at_a_time() -> None:
    setting = setting_of()
    contingencies = Contingencies(setting, FIVE, full_metrics(setting))
    for count in range(1, 6):
        assert not contingencies.singles_done
        contingencies.prepare_next()
        assert len(contingencies.decisions) == count
    assert contingencies.singles_done
    assert not contingencies.done
    assert {d.failed for d in contingencies.decisions.values()} == {(name,) for name in NAMES}
    assert contingencies.beyond_singles() == ()
    prepared(contingencies)
    assert len(contingencies.beyond_singles()) == len(contingencies.decisions) - len(NAMES)


def test_what_has_failed_often_is_prepared_first() -> None:
    setting = setting_of()
    often = {"n4": 3, "n2": 1}
    contingencies = Contingencies(
        setting, FIVE, full_metrics(setting), lambda name: often.get(name, 0)
    )
    order = [sorted(failed) for failed in prepared(contingencies).decisions]
    assert order[:2] == [["n4"], ["n2"]]
    assert next(names for names in order if len(names) == 2) == ["n2", "n4"]


def test_what_nobody_could_do_anything_about_is_not_decided() -> None:
    setting = setting_of(2)
    layout = full_layout(setting)
    assert layout is not None
    full = full_metrics(setting, layout)
    decisions = prepared(Contingencies(setting, layout, full)).decisions
    assert {failed for failed in decisions if len(failed) > 1} == set()
    assert {frozenset({"n1"}), frozenset({"n2"})} <= set(decisions)


def test_the_tightest_capacity_is_that_of_the_slowest_candidate() -> None:
    setting = setting_of()
    contingencies = prepared(Contingencies(setting, FIVE, full_metrics(setting)))
    everything = [c for d in contingencies.decisions.values() for c in d.candidates]
    assert contingencies.tightest_per_s == min(c.step.capacity_per_s for c in everything)


def test_spares_come_after_those_at_work_and_a_plan_does_not_wait_for_them() -> None:
    setting = setting_of(8)
    contingencies = Contingencies(setting, FIVE, full_metrics(setting), lambda name: name == "n8")
    for _ in FIVE:
        contingencies.prepare_next()
    assert set(contingencies.decisions) == {frozenset({name}) for name in FIVE}
    assert contingencies.singles_done
    order = list(prepared(contingencies).decisions)
    spares, first_pair = [frozenset({f"n{i}"}) for i in (8, 6, 7)], frozenset({"n1", "n2"})
    assert [failed for failed in order if failed in spares] == spares
    assert max(map(order.index, spares)) < order.index(first_pair)
    told = {frozenset(c.failed) for c in contingencies.beyond_singles()}
    assert told == {failed for failed in order if len(failed) > 1 or ">" in min(failed)}
    assert {name for failed in told if len(failed) > 1 for name in failed} == set(FIVE)


def test_bridges_are_held_against_the_failure_of_nodes_at_work_only() -> None:
    few = setting_of(6, node={"loaded": frozenset(), "standby": "none"})
    full = full_metrics(few)
    # A node that has no block makes no gap when it fails, so nobody holds anything against it.
    assert wanted_parts(few, FIVE, full) == {
        **wanted_parts(setting_of(5, node={"loaded": frozenset(), "standby": "none"}), FIVE, full),
        "n6": wanted_parts(few, FIVE, full)["n6"],
    }
