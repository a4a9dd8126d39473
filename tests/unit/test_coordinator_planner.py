"""What could be done when nodes fail, and which of it is chosen."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from continuer.bundle import Accuracy, Bundle
from continuer.objectives import Metrics, Objectives, score
from coordinator.accuracies import accuracy_of
from coordinator.layouts import Layout, exit_layouts, skip_layout
from coordinator.planner import (
    NodeFacts,
    decide,
    full_layout,
    make_step,
    metrics_of,
    part_latency_us,
)
from tests.unit.harness import BUNDLE
from tests.unit.settings import (
    FIVE,
    MIB,
    NAMES,
    PARTS,
    blocks,
    decided,
    exits_of,
    found,
    full_metrics,
    path_of,
    setting_of,
    the,
    with_node,
)

# --- which candidates there are -----------------------------------------------------------


def test_all_blocks_over_all_nodes_are_the_full_layout() -> None:
    assert full_layout(setting_of()) == FIVE


def test_a_middle_node_leaves_repartition_skip_and_the_exits_before_it() -> None:
    options = found(setting_of(), "n3")
    assert path_of(the("repartition", options)) == BUNDLE.path()
    assert path_of(the("skip", options)) == BUNDLE.path(skipped=blocks(7, 9))
    assert exits_of(options) == {f"exit{i:02}" for i in range(1, 7)}
    # Exits behind the skipped blocks can be left at too, with both losses.
    mixed = [c for c in options if c.step.technique == "mixed"]
    assert {c.step.exit for c in mixed} == {f"exit{i:02}" for i in range(10, 15)}
    assert all(c.accuracy.source == "estimated" for c in mixed)
    assert len(options) == 13


def test_the_first_node_leaves_no_exit() -> None:
    options = found(setting_of(), "n1")
    assert exits_of(options) == set()
    skip = the("skip", options)
    assert path_of(skip) == BUNDLE.path(skipped=blocks(1, 3))
    assert skip.step.route[0].node == "n2"
    assert skip.step.route[0].parts == (0, 4, 5, 6)  # the stem finds a new home


def test_the_last_node_leaves_every_exit_before_it_and_its_head_to_the_one_before() -> None:
    options = found(setting_of(), "n5")
    assert exits_of(options) == {f"exit{i:02}" for i in range(1, 13)}
    skip = the("skip", options)
    assert path_of(skip) == BUNDLE.path(skipped=blocks(13, 15))
    assert skip.step.route[-1].node == "n4"
    assert skip.step.route[-1].parts == (10, 11, 12, 16)


def test_two_adjacent_nodes_are_skipped_as_one_run() -> None:
    options = found(setting_of(), "n2", "n3")
    skip = the("skip", options)
    assert path_of(skip) == BUNDLE.path(skipped=blocks(4, 9))
    assert (skip.step.accuracy, skip.accuracy.source) == (0.7877, "measured")
    assert exits_of(options) == {"exit01", "exit02", "exit03"}


def test_two_nodes_apart_are_skipped_as_two_runs() -> None:
    options = found(setting_of(), "n2", "n4")
    skip = the("skip", options)
    assert path_of(skip) == BUNDLE.path(skipped=[*blocks(4, 6), *blocks(10, 12)])
    assert skip.accuracy.source == "estimated"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_candidate_visits_a_failed_node_and_every_one_is_a_path_of_the_bundle(
    count: int,
) -> None:
    setting = setting_of()
    for failed in itertools.combinations(NAMES, count):
        options = found(setting, *failed)
        assert options
        for candidate in options:
            assert not candidate.step.nodes & set(failed)
            exit_name, skipped = BUNDLE.variant_of(path_of(candidate))
            assert path_of(candidate) == BUNDLE.path(skipped, exit_name)
            assert candidate.step.exit == exit_name
            lives = {hop.node: hop.incarnation for hop in candidate.step.route}
            assert lives == {name: int(name[1:]) for name in lives}


def test_with_every_node_failed_nothing_is_left() -> None:
    setting = setting_of()
    assert found(setting, *NAMES) == ()
    assert decide(setting, FIVE, frozenset(NAMES), full_metrics(setting)) is None


def test_without_memory_for_every_block_there_is_no_repartition() -> None:
    setting = setting_of(node={"memory_bytes": 2.4 * MIB})
    assert full_layout(setting) is not None
    options = found(setting, "n3", "n4")
    assert "repartition" not in {c.step.technique for c in options}
    assert options


# --- exits and skips ----------------------------------------------------------------------


def test_exits_come_only_before_the_first_failed_node() -> None:
    layouts = exit_layouts(BUNDLE, FIVE, frozenset({"n4", "n2"}))
    assert layouts == [
        {"n1": (0, 1, BUNDLE.part_ids["exit01"])},
        {"n1": (0, 1, 2, BUNDLE.part_ids["exit02"])},
        {"n1": (0, 1, 2, 3, BUNDLE.part_ids["exit03"])},
    ]
    later = exit_layouts(BUNDLE, FIVE, frozenset({"n3"}))
    assert later[-1] == {"n1": FIVE["n1"], "n2": (4, 5, 6, BUNDLE.part_ids["exit06"])}


def test_a_skipped_block_that_changes_the_shape_is_replaced_by_its_bypass() -> None:
    bypass = BUNDLE.part_ids["bypass06"]
    layout = skip_layout(BUNDLE, FIVE, frozenset({"n2"}))
    assert layout == {**{n: p for n, p in FIVE.items() if n != "n2"}, "n1": (0, 1, 2, 3, bypass)}
    first = skip_layout(BUNDLE, FIVE, frozenset({"n1", "n2"}))
    assert first is not None
    assert first["n3"] == (0, bypass, 7, 8, 9)  # nobody before: carried to the one after


def test_bypasses_and_the_head_of_failed_nodes_move_to_the_survivor_before() -> None:
    bypass = BUNDLE.part_ids["bypass11"]
    layout = skip_layout(BUNDLE, FIVE, frozenset({"n4", "n5"}))
    assert layout == {"n1": FIVE["n1"], "n2": FIVE["n2"], "n3": (7, 8, 9, bypass, 16)}


def test_a_bypass_that_is_in_use_already_is_kept_when_its_node_fails() -> None:
    bypass = BUNDLE.part_ids["bypass06"]
    degraded: Layout = {"n1": (0, 1, 2, 3, bypass), "n3": (7, 8, 9), "n4": FIVE["n4"]}
    layout = skip_layout(BUNDLE, {**degraded, "n5": FIVE["n5"]}, frozenset({"n1"}))
    assert layout is not None
    assert layout["n3"] == (0, bypass, 7, 8, 9)


def test_nothing_is_skipped_where_the_failed_node_holds_nothing_to_skip() -> None:
    assert skip_layout(BUNDLE, {"n1": (0,), "n2": tuple(range(1, 17))}, frozenset({"n1"})) is None
    assert skip_layout(BUNDLE, {"n1": tuple(range(17))}, frozenset({"n1"})) is None


# --- accuracy -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "accuracy"),
    [
        (BUNDLE.path(), 0.8694),
        (BUNDLE.path(exit_name="exit09"), 0.8297),
        (BUNDLE.path(skipped=blocks(7, 9)), 0.8475),
    ],
)
def test_accuracy_is_what_was_measured_of_the_path(path: tuple[str, ...], accuracy: float) -> None:
    assert accuracy_of(BUNDLE, path) == (accuracy, "measured", accuracy)


def test_a_skip_of_two_runs_is_estimated_by_the_drop_of_each() -> None:
    path = BUNDLE.path(skipped=[*blocks(4, 6), *blocks(10, 12)])
    assert BUNDLE.measured_accuracy(path) is None
    estimate = accuracy_of(BUNDLE, path)
    assert estimate is not None
    accuracy, source, _ = estimate
    assert accuracy == pytest.approx(0.8694 * (0.8484 / 0.8694) * (0.8232 / 0.8694))
    assert source == "estimated"


@pytest.mark.parametrize(
    "path",
    [
        BUNDLE.path(skipped=blocks(1, 9)),
        BUNDLE.path(skipped=[*blocks(1, 9), "block12"]),
        BUNDLE.path(skipped=blocks(1, 9), exit_name="exit11"),
    ],
)
def test_a_path_that_cannot_be_estimated_is_no_candidate(path: tuple[str, ...]) -> None:
    assert accuracy_of(BUNDLE, path) is None
    ids = tuple(BUNDLE.part_ids[name] for name in path)
    assert make_step(setting_of(), {"n1": ids}, "mixed") is None


def test_an_exit_behind_a_skip_is_estimated_from_both_losses() -> None:
    estimate = accuracy_of(BUNDLE, BUNDLE.path(skipped=["block12"], exit_name="exit13"))
    exit13 = BUNDLE.measured_accuracy(BUNDLE.path(exit_name="exit13"))
    skip12 = BUNDLE.measured_accuracy(BUNDLE.path(skipped=["block12"]))
    assert exit13 is not None
    assert skip12 is not None
    assert estimate is not None
    assert estimate[0] == pytest.approx(exit13 * skip12 / 0.8694)
    assert estimate.source == "estimated"


def unlabelled() -> Bundle:
    """The bundle as if it had come without labels."""
    accuracy = Accuracy(data="none", form="none", images=0, variants=())
    manifest = msgspec.structs.replace(BUNDLE.manifest, accuracy=accuracy)
    return Bundle(BUNDLE.directory, manifest, BUNDLE.hash)


def test_a_model_without_labels_runs_all_of_its_blocks_and_promises_no_accuracy() -> None:
    setting = setting_of(bundle=unlabelled())
    decision = decided(setting, "n3")
    assert {c.step.technique for c in decision.candidates} == {"repartition"}
    assert decision.chosen[0].step.accuracy is None
    assert decision.chosen[0].feasible
    strict = msgspec.structs.replace(setting, objectives=Objectives(min_accuracy=0.5))
    assert decided(strict, "n3").chosen[0].problems == {"min_accuracy": 1.0}


# --- latency, capacity, downtime ----------------------------------------------------------


def test_latency_is_the_parts_and_one_hop_more_than_there_are_stages() -> None:
    whole = make_step(setting_of(hop_us=250.0), FIVE, "none")
    assert whole is not None
    parts_us = sum(PARTS[part].latency_us for part in range(17))
    assert whole.step.latency_ms == pytest.approx((parts_us + 6 * 250) / 1000)


def test_capacity_is_what_the_slowest_stage_can_do() -> None:
    slow = dict.fromkeys(FIVE["n4"], 600.0)
    setting = with_node(setting_of(hop_us=200.0), "n4", latency_us=slow)
    whole = make_step(setting, FIVE, "none")
    assert whole is not None
    assert whole.step.capacity_per_s == pytest.approx(1e6 / (3 * 600 + 200))


def test_a_part_costs_what_the_node_has_measured_and_else_what_its_speed_suggests() -> None:
    slow = {0: 3 * PARTS[0].latency_us, 1: 3 * PARTS[1].latency_us}
    node = NodeFacts("n1", 1, latency_us={**slow, 2: 3 * PARTS[2].latency_us})
    setting = setting_of()
    assert part_latency_us(setting, node, 1) == 3 * PARTS[1].latency_us
    assert part_latency_us(setting, node, 9) == pytest.approx(3 * PARTS[9].latency_us)
    unknown = NodeFacts("n2", 1)
    assert part_latency_us(setting, unknown, 9) == PARTS[9].latency_us


def test_a_slow_node_gets_fewer_blocks() -> None:
    slow = {part: 4 * PARTS[part].latency_us for part in range(17)}
    layout = full_layout(with_node(setting_of(), "n2", latency_us=slow))
    assert layout is not None
    assert len(layout["n2"]) < len(FIVE["n2"])


def test_downtime_is_detecting_deciding_and_telling_where_nothing_is_missing() -> None:
    setting = setting_of()
    timings = setting.timings
    for candidate in found(setting, "n3"):
        assert candidate.missing == {}
        assert candidate.step.downtime_ms == pytest.approx(
            timings.detect_ms + timings.decide_ms + timings.tell_ms
        )


def test_downtime_adds_the_slowest_nodes_loading_and_one_more_exchange() -> None:
    setting = setting_of(node={"loaded": frozenset(), "load_us": {0: 5000.0}})
    setting = with_node(setting, "n5", loaded=frozenset(FIVE["n5"]))
    whole = make_step(setting, FIVE, "none")
    assert whole is not None
    assert whole.missing == {name: FIVE[name] for name in ("n1", "n2", "n3", "n4")}
    slowest_us = 5000 + sum(PARTS[part].load_us for part in (1, 2, 3))
    timings = setting.timings
    assert whole.step.downtime_ms == pytest.approx(
        timings.detect_ms + timings.decide_ms + 2 * timings.tell_ms + slowest_us / 1000
    )


# --- choosing -----------------------------------------------------------------------------


def test_candidates_come_by_score() -> None:
    setting = setting_of()
    scores = [c.score for c in found(setting, "n4")]
    assert scores == sorted(scores, reverse=True)
    full = full_metrics(setting)
    for candidate in found(setting, "n4"):
        assert candidate.score == score(setting.objectives, metrics_of(candidate.step), full)


def test_with_everything_in_memory_full_accuracy_is_chosen_at_once() -> None:
    decision = decided(setting_of(), "n3")
    (chosen,) = decision.chosen
    assert chosen.step.technique == "repartition"
    assert decision.contingency().failed == ("n3",)
    assert decision.contingency().steps == (chosen.step,)
    assert decision.why == "highest score of 13 feasible candidates"


def test_weights_decide_between_accuracy_and_latency() -> None:
    # Only what takes longer than the full plan costs anything: make the detour dear.
    slow = {part: 10 * PARTS[part].latency_us for part in range(17)}
    setting = with_node(setting_of(3), "n3", latency_us=slow)
    layout = {"n1": tuple(range(7)), "n2": tuple(range(7, 17))}
    full = Metrics(0.8694, 2.0, 5.0)
    for weights, technique in (((1.0, 0.0), "repartition"), ((0.1, 0.9), "early_exit")):
        objectives = Objectives(weight_accuracy=weights[0], weight_latency=weights[1])
        changed = msgspec.structs.replace(setting, objectives=objectives)
        decision = decide(changed, layout, frozenset({"n2"}), full)
        assert decision is not None
        assert decision.chosen[-1].step.technique == technique


def test_thresholds_go_before_scores() -> None:
    # With a limit on latency only exits are left, however much more the repartition would score.
    strict = setting_of(objectives=Objectives(max_latency_ms=2.0))
    decision = decided(strict, "n3")
    best = decision.chosen[-1]
    assert best.step.technique in ("early_exit", "mixed")
    assert best.feasible
    assert best.score < the("repartition", decision.candidates).score
    assert the("repartition", decision.candidates).problems.keys() == {"max_latency_ms"}


def test_a_least_accuracy_excludes_what_is_below_it() -> None:
    decision = decided(setting_of(objectives=Objectives(min_accuracy=0.845)), "n3")
    feasible = [c for c in decision.candidates if c.feasible]
    assert {c.step.technique for c in feasible} == {"repartition", "skip", "mixed"}
    assert all(c.step.accuracy is not None and c.step.accuracy >= 0.845 for c in feasible)


def test_where_nothing_meets_the_thresholds_the_least_violation_wins() -> None:
    objectives = Objectives(min_accuracy=0.86, max_latency_ms=2.5)
    decision = decided(setting_of(objectives=objectives), "n3")
    assert all(not c.feasible for c in decision.candidates)
    least = min(sum(c.problems.values()) for c in decision.candidates)
    (chosen,) = decision.chosen
    assert sum(chosen.problems.values()) == least
    assert decision.why.startswith("no candidate meets the objectives; least violation (")


def test_a_rate_beyond_the_capacity_makes_a_candidate_infeasible() -> None:
    quiet, busy = setting_of(), setting_of(rate_per_s=1150.0)
    (repartition,) = [c for c in found(quiet, "n3") if c.step.technique == "repartition"]
    assert repartition.feasible
    limit = repartition.step.capacity_per_s * 0.8
    options = found(busy, "n3")
    assert the("repartition", options).problems == {"capacity": pytest.approx(1150 / limit - 1)}
    assert the("skip", options).feasible
    assert decided(busy, "n3").chosen[-1].step.technique == "skip"


def test_beyond_every_capacity_the_most_capable_candidate_is_taken() -> None:
    decision = decided(setting_of(rate_per_s=50_000.0), "n3")
    assert all(c.problems.keys() == {"capacity"} for c in decision.candidates)
    most = max(c.step.capacity_per_s for c in decision.candidates)
    assert decision.chosen[-1].step.capacity_per_s == most


@pytest.mark.parametrize("technique", ["repartition", "early_exit", "skip"])
def test_a_forced_technique_is_taken_though_another_would_score_more(technique: str) -> None:
    decision = decided(setting_of(forced=technique), "n3")
    assert decision.chosen[-1].step.technique == technique
    assert not decision.fell_back
    assert f"technique {technique} is forced" in decision.why


def test_of_a_forced_technique_the_best_is_taken() -> None:
    assert decided(setting_of(forced="early_exit"), "n5").chosen[-1].step.exit == "exit12"


def test_an_impossible_forced_technique_falls_back_and_says_so() -> None:
    decision = decided(setting_of(forced="early_exit"), "n1")
    assert decision.fell_back
    assert decision.chosen[-1].step.technique == "repartition"
    assert "the forced technique early_exit is impossible here" in decision.why
