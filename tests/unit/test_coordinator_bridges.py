"""What bridges a failure, and what nodes hold in memory so that something does."""

from __future__ import annotations

from typing import Any

import pytest

from continuer.objectives import Metrics, Objectives, score
from coordinator.holdings import wanted_parts
from coordinator.planner import Setting, full_layout
from tests.unit.harness import BUNDLE
from tests.unit.settings import (
    EVERYTHING,
    FIVE,
    MIB,
    NAMES,
    PARTS,
    decided,
    full_metrics,
    holding,
    setting_of,
    the,
    with_node,
)

# --- bridges ------------------------------------------------------------------------------


def bridged_setting(**changes: Any) -> Setting:
    """Every node holds its blocks, n2 also exit06 and n1 bypass06: no more."""
    held = {
        **FIVE,
        "n1": (*FIVE["n1"], BUNDLE.part_ids["bypass06"]),
        "n2": (*FIVE["n2"], BUNDLE.part_ids["exit06"]),
    }
    return holding(setting_of(**changes), held)


def test_what_is_in_memory_bridges_while_the_best_loads() -> None:
    decision = decided(bridged_setting(), "n3")
    bridge, best = decision.chosen
    assert bridge.missing == {}
    assert best.step.technique == "repartition"
    assert best.missing
    assert "bridged by what is in memory" in decision.why
    assert [step.technique for step in decision.contingency().steps] == ["skip", "repartition"]


def test_of_equally_quick_bridges_the_one_of_the_highest_score_is_taken() -> None:
    decision = decided(bridged_setting(), "n3")
    ready = [c for c in decision.candidates if not c.missing]
    assert {c.step.exit for c in ready} == {None, "exit06"}  # the skip and one exit
    assert decision.chosen[0].score == max(c.score for c in ready)
    assert decision.chosen[0].step.downtime_ms == min(c.step.downtime_ms for c in ready)


def test_a_bridge_meets_the_thresholds_too() -> None:
    objectives = Objectives(min_accuracy=0.85)
    decision = decided(bridged_setting(objectives=objectives), "n3")
    assert [c.step.technique for c in decision.chosen] == ["repartition"]
    assert decision.chosen[0].missing


def test_a_bridge_is_of_the_forced_technique() -> None:
    decision = decided(bridged_setting(forced="early_exit"), "n3")
    assert [c.step.technique for c in decision.chosen] == ["early_exit"]
    assert decision.chosen[0].step.exit == "exit06"
    # Exits that must be loaded first are no better than the one that is there.
    assert not decision.chosen[0].missing


def test_another_technique_is_no_bridge_to_the_forced_one() -> None:
    decision = decided(bridged_setting(forced="repartition"), "n3")
    assert [c.step.technique for c in decision.chosen] == ["repartition"]
    assert decision.chosen[0].missing


def test_what_loads_behind_a_bridge_is_judged_by_the_bridges_downtime() -> None:
    slow_to_load = dict.fromkeys(EVERYTHING, 2e6)
    setting = bridged_setting(node={"loaded": EVERYTHING, "load_us": slow_to_load})
    decision = decided(setting, "n3")
    bridge, best = decision.chosen
    assert best.step.technique == "repartition"
    assert best.step.downtime_ms > 2000  # its own, as the prediction of when it is in force
    felt = Metrics(0.8694, best.step.latency_ms, bridge.step.downtime_ms)
    assert best.score == score(setting.objectives, felt, full_metrics(setting))
    assert best.score > bridge.score


def test_without_a_bridge_loading_counts_as_the_downtime_that_it_is() -> None:
    slow_to_load = dict.fromkeys(EVERYTHING, 2e6)
    setting = holding(setting_of(node={"load_us": slow_to_load}), FIVE)
    decision = decided(setting, "n2")  # neither an exit nor the bypass is in memory
    assert all(c.missing for c in decision.candidates)
    quickest = min(decision.candidates, key=lambda c: c.step.downtime_ms)
    assert len(decision.chosen) == 1
    assert decision.chosen[0] == max(decision.candidates, key=lambda c: c.score)
    assert decision.chosen[0].step.downtime_ms == quickest.step.downtime_ms


def test_a_limit_on_downtime_is_kept_by_the_bridge() -> None:
    objectives = Objectives(max_downtime_ms=5.5)
    decision = decided(bridged_setting(objectives=objectives), "n3")
    bridge, best = decision.chosen
    assert bridge.step.downtime_ms <= 5.5 < best.step.downtime_ms
    assert best.feasible
    alone = decided(holding(setting_of(objectives=objectives), FIVE), "n2")
    assert all(c.problems.keys() == {"max_downtime_ms"} for c in alone.candidates)


def test_a_bridge_does_not_excuse_a_lack_of_capacity() -> None:
    decision = decided(bridged_setting(rate_per_s=1150.0), "n3")
    repartition = the("repartition", decision.candidates)
    assert repartition.problems.keys() == {"capacity"}
    assert [c.step.technique for c in decision.chosen] == ["skip"]


# --- preparing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "memory_mib"),
    [(3, float("inf")), (4, float("inf")), (5, float("inf")), (8, float("inf")), (5, 2.4), (8, 2)],
)
def test_what_nodes_are_told_to_hold_leaves_a_ready_bridge_for_any_single_failure(
    count: int, memory_mib: float
) -> None:
    empty = setting_of(
        count,
        node={"loaded": frozenset(), "standby": "none", "memory_bytes": memory_mib * MIB},
    )
    layout = full_layout(empty)
    assert layout is not None
    full = full_metrics(empty, layout)
    wanted = wanted_parts(empty, layout, full)
    for name, parts in wanted.items():
        assert set(layout[name]) <= set(parts)
        assert len(parts) == len(set(parts))
        assert sum(PARTS[part].memory_bytes for part in parts) <= memory_mib * MIB
        assert len(parts) < 17  # far from everything
    ready = holding(empty, wanted)
    for name in layout:
        assert not decided(ready, name, layout=layout).chosen[0].missing, name


@pytest.mark.parametrize("technique", ["early_exit", "skip"])
def test_the_bridges_held_are_of_the_forced_technique(technique: str) -> None:
    empty = setting_of(node={"loaded": frozenset(), "standby": "none"}, forced=technique)
    ready = holding(empty, wanted_parts(empty, FIVE, full_metrics(empty)))
    for name in NAMES[1:]:
        decision = decided(ready, name)
        assert decision.chosen[0].step.technique == technique
        assert not decision.chosen[0].missing


def test_the_bridges_held_meet_the_thresholds_where_one_does() -> None:
    # A skip would score more, but only ways that leave at an exit are as fast as this.
    objectives = Objectives(max_latency_ms=2.0)
    empty = setting_of(node={"loaded": frozenset(), "standby": "none"}, objectives=objectives)
    ready = holding(empty, wanted_parts(empty, FIVE, full_metrics(empty)))
    bridge = decided(ready, "n3").chosen[0]
    assert bridge.step.exit is not None
    assert (bridge.feasible, bridge.missing) == (True, {})


def test_on_standby_a_node_holds_everything_as_far_as_its_memory_goes() -> None:
    roomy = setting_of(node={"loaded": frozenset(), "standby": "all"})
    full = full_metrics(roomy)
    assert all(set(p) == EVERYTHING for p in wanted_parts(roomy, FIVE, full).values())
    tight = with_node(roomy, "n2", memory_bytes=4 * MIB)
    held = wanted_parts(tight, FIVE, full)["n2"]
    assert held[:3] == FIVE["n2"]
    used = sum(PARTS[part].memory_bytes for part in held)
    assert used <= 4 * MIB
    left_out = EVERYTHING - set(held)
    assert left_out
    assert all(used + PARTS[part].memory_bytes > 4 * MIB for part in left_out)


def test_a_nodes_own_blocks_are_held_whatever_its_budget() -> None:
    tiny = setting_of(node={"loaded": frozenset(), "standby": "all", "memory_bytes": 1.0})
    assert wanted_parts(tiny, FIVE, full_metrics(tiny)) == FIVE


def test_a_node_without_blocks_holds_only_what_bridges_need() -> None:
    idle = setting_of(6, node={"loaded": frozenset(), "standby": "none"})
    assert wanted_parts(idle, FIVE, full_metrics(idle))["n6"] == ()
