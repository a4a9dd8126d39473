"""Tables VII and VIII: calibration, agreements, ties and regret."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bench.decisions import lacking
from continuer import cli
from continuer.errors import UsageError
from continuer.objectives import Metrics, Objectives, score
from predictors.decisions import (
    Campaign,
    Case,
    Noise,
    between_extremes,
    campaigns_of,
    evaluate,
    relative_to_full,
    table_7,
    table_8,
    weights,
)
from predictors.decisions_calibration import calibrate, shrunk
from predictors.decisions_record import Figures, Run, read

FULL = np.array([0.87, 3.0, 0.0])
SLOW, QUICK = np.array([0.87, 3.1, 40.0]), np.array([0.80, 2.0, 5.0])
COMBINATIONS = 9**3
NODES = ("n1", "n2", "n3")
ACCURACY = {"repartition": 0.87, "early_exit": 0.80, "skip": 0.84}
COMPUTE_MS = {"repartition": 1.5, "early_exit": 0.6, "skip": 1.2}
HOPS = {"repartition": 4, "early_exit": 1, "skip": 3}


def case(technique: str, predicted: np.ndarray, *measured: np.ndarray, node: str = "n3") -> Case:
    return Case(node, technique, predicted, np.array(measured or (predicted, predicted)))


def campaign(*cases: Case) -> Campaign:
    return Campaign("resnet32-cifar10", FULL, FULL, cases, (0.02, 0.05, 0.03))


def latency_ms(technique: str, hops: int | None = None) -> float:
    """What a client would see: blocks 1.2 times as long, 0.4 ms a hop, 1 ms for the client."""
    hops = hops or HOPS[technique]
    return 1.2 * COMPUTE_MS[technique] + 0.4 * (hops if hops > 1 else 0) + 1.0


def run_of(number: int, node: str, technique: str, *, noise_ms: float = 0.0) -> Run:
    before = Figures(0.87, 0.87, 5, 1.5, 3.3, latency_ms("repartition", 5))
    own_ms = latency_ms(technique)
    after = Figures(
        ACCURACY[technique],
        ACCURACY[technique],
        HOPS[technique],
        COMPUTE_MS[technique],
        COMPUTE_MS[technique] + 0.3 * (HOPS[technique] + 1),
        own_ms,
    )
    switch_ms = 3.0 + NODES.index(node) + (0.5 if technique == "repartition" else 0.0)
    downtime_ms = switch_ms + own_ms + noise_ms
    return Run("resnet32-cifar10", number, node, technique, before, after, 5.1, downtime_ms, 0.1)


def passes(numbers: Iterable[int], noise_ms: Sequence[float] = (0.0,)) -> list[Run]:
    return [
        run_of(number, node, technique, noise_ms=noise_ms[number % len(noise_ms)])
        for number in numbers
        for node in NODES
        for technique in ACCURACY
    ]


# --- calibration ----------------------------------------------------------------------------


def test_calibration_finds_what_hops_blocks_client_nodes_and_techniques_cost() -> None:
    found = calibrate(passes([0, 2]))
    assert found is not None
    assert found.in_chain == pytest.approx(1.2)
    assert found.hop_ms == pytest.approx(0.4)
    assert found.client_ms == pytest.approx(1.0)
    for node in NODES:
        for technique in ACCURACY:
            key = (node, technique)
            own_ms = found.latency_ms(key, COMPUTE_MS[technique], HOPS[technique])
            assert own_ms == pytest.approx(latency_ms(technique))
            wanted = run_of(0, node, technique).downtime_ms
            assert found.downtime_ms(key, own_ms) == pytest.approx(wanted)
    shares = found.switch_ms
    assert shares["repartition"] - shares["skip"] == pytest.approx(0.5)


def test_what_is_judged_takes_no_part_in_the_calibration() -> None:
    odd = [
        msgspec.structs.replace(run, downtime_ms=99.0, number=1) for run in passes([1])
    ]  # every run for evaluation is wrong in the same way
    (with_odd,), calibrations = campaigns_of([*passes([0, 2]), *odd])
    alone = calibrate(passes([0, 2]))
    assert calibrations["resnet32-cifar10"] == alone
    assert all(c.predicted[2] < 15 for c in with_odd.cases)
    assert all(c.measured[0, 2] == 99.0 for c in with_odd.cases)


def test_only_differences_beyond_the_noise_are_taken_over() -> None:
    noisy = {("n1", "skip"): [-5.0, 5.1], ("n2", "skip"): [4.9, -5.0]}
    assert set(shrunk(noisy).values()) == {0.0}
    steady = {("n1", "skip"): [3.0, 3.1, 2.9], ("n2", "skip"): [-3.0, -3.1, -2.9]}
    found = shrunk(steady)
    assert found[("n1", "skip")] == pytest.approx(3.0, abs=0.05)
    assert found[("n2", "skip")] == pytest.approx(-3.0, abs=0.05)


def test_too_few_plans_cannot_be_calibrated_and_the_network_is_left_out() -> None:
    few = [run_of(0, "n1", "skip"), run_of(1, "n1", "skip")]
    assert calibrate(few[:1]) is None
    assert evaluate(few)["table_7"] == {}


# --- the sweep ------------------------------------------------------------------------------


def test_predictions_that_are_right_always_agree() -> None:
    found = table_7(campaign(case("repartition", SLOW), case("early_exit", QUICK)))
    # Where the weights balance, both are equally good.
    assert found["instances"] + found["ties"] == COMBINATIONS
    assert found["instances"] > 0.9 * COMBINATIONS
    assert found["agreement_percent"] == 100.0
    assert found["regret_percent"] == 0.0


def test_predictions_that_are_swapped_choose_wrongly_wherever_it_matters() -> None:
    swapped = campaign(
        case("repartition", QUICK, SLOW, SLOW), case("early_exit", SLOW, QUICK, QUICK)
    )
    found = table_7(swapped)
    assert found["agreement_percent"] == 0.0
    assert found["regret_percent"] == pytest.approx(100.0)


def test_techniques_within_the_noise_are_ties_and_no_disagreement() -> None:
    """Both scatter by 10 ms about nearly the same downtime, and are alike otherwise."""
    runs = [np.array([0.87, 3.0, 20.0 + off]) for off in (-10.0, -5.0, 0.0, 5.0, 10.0)]
    other = [run + np.array([0.0, 0.0, 0.5]) for run in runs]
    near = campaign(case("repartition", other[2], *runs), case("skip", runs[2], *other))
    found = table_7(near)
    assert found["instances"] == 0
    assert found["ties"] == COMBINATIONS
    assert found["agreement_percent"] is None
    assert found["ties_agreement_percent"] == 0.0
    assert found["with_ties_agreement_percent"] == 0.0


def test_the_same_small_difference_decides_where_runs_hardly_scatter() -> None:
    runs = [np.array([0.87, 3.0, 20.0 + off]) for off in (-0.1, -0.05, 0.0, 0.05, 0.1)]
    other = [run + np.array([0.0, 0.0, 0.5]) for run in runs]
    found = table_7(campaign(case("repartition", other[2], *runs), case("skip", runs[2], *other)))
    assert found["ties"] == 0
    assert found["agreement_percent"] == 0.0


def test_a_choice_is_wrong_also_where_two_others_tie_for_the_best() -> None:
    best = [np.array([0.87, 3.0, 20.0 + off]) for off in (-1.0, 0.0, 1.0)]
    worst = [np.array([0.60, 9.0, 90.0 + off]) for off in (-1.0, 0.0, 1.0)]
    wrong = campaign(
        case("repartition", worst[1], *best),
        case("skip", worst[1], *best),
        case("early_exit", best[1], *worst),
    )
    found = table_7(wrong)
    assert found["instances"] == COMBINATIONS
    assert found["agreement_percent"] == 0.0


def test_noise_is_that_of_all_cases_together() -> None:
    steady = case("repartition", SLOW, SLOW, SLOW)
    wild = case("skip", QUICK, *(QUICK + np.array([0.0, 0.0, off]) for off in (-3.0, 0.0, 3.0)))
    again = Noise([steady, wild]).again(steady)
    assert again[:, 2].std() > 0.5
    assert np.median(again[:, 2]) == pytest.approx(SLOW[2], abs=0.5)


def test_the_papers_scaling_runs_from_0_to_1_and_equal_values_count_nothing() -> None:
    values = np.array([[0.8, 2.0, 5.0], [0.9, 4.0, 5.0], [0.85, 3.0, 5.0]])
    wanted = [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.5, 0.5, 0.0]]
    assert between_extremes(values, FULL) == pytest.approx(np.array(wanted))


def test_the_coordinators_scaling_gives_the_coordinators_scores() -> None:
    full = Metrics(0.87, 3.0, 0.0)
    for weighting in weights()[::97]:
        objectives = Objectives(
            weight_accuracy=weighting[0], weight_latency=weighting[1], weight_downtime=weighting[2]
        )
        for values in (SLOW, QUICK):
            ours = relative_to_full(values[None], FULL)[0] @ (weighting * (1, -1, -1))
            assert ours == pytest.approx(score(objectives, Metrics(*values), full))


def test_a_node_without_a_choice_is_no_instance() -> None:
    both = (case("repartition", SLOW), case("early_exit", QUICK))
    alone = case("repartition", SLOW, node="n1")
    found = table_7(campaign(*both, alone))
    assert found["instances"] + found["ties"] == COMBINATIONS
    assert table_7(campaign(alone))["agreement_percent"] is None


def test_selection_times_are_summed_up() -> None:
    assert table_8(campaign()) == {"p50_ms": 0.03, "p99_ms": 0.05, "n": 3}
    assert table_8(campaign()._replace(select_ms=()))["p50_ms"] is None


# --- the file and the verb ------------------------------------------------------------------


def write(path: Path, runs: Sequence[Run]) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(run) + b"\n" for run in runs))
    return path


def test_a_recorded_campaign_is_read_and_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = passes(range(6), noise_ms=(0.02, -0.02, 0.01, 0.0))
    cannot = Run("resnet32-cifar10", 0, "n4", "skip")
    path = write(tmp_path / "decisions.jsonl", [*runs, cannot])
    assert read(path) == [*runs, cannot]
    assert cli.main(["plan", "evaluate", "--measured", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    row = found["table_7"]["resnet32-cifar10"]
    assert row["agreement_percent"] == 100.0
    assert row["instances"] + row["ties"] == len(NODES) * COMBINATIONS
    assert found["passes"] == {"calibration": [0, 2, 4], "evaluation": [1, 3, 5]}
    assert found["table_8"]["resnet32-cifar10"]["p99_ms"] == 0.1
    assert cli.main(["plan", "evaluate", "--measured", str(path)]) == 0
    text = capsys.readouterr().out
    assert "calibrated with 3 passes of the campaign and judged by 3 others" in text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{}", "not a recorded campaign"),
        (b"{", "not a recorded campaign"),
        (b'{"network": "x", "number": "one"}', "not a recorded campaign"),
        (None, "No such file"),
    ],
)
def test_what_is_no_campaign_is_refused(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "decisions.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=problem):
        read(path)


def test_a_campaign_goes_on_with_what_it_lacks() -> None:
    network = "resnet32-cifar10"
    runs = [run_of(0, "n1", "skip"), Run(network, 0, "n2", "skip"), run_of(0, "n3", "early_exit")]
    assert lacking(runs, network, "skip", 0) == ["n3", "n4", "n5"]
    assert lacking(runs, network, "skip", 1) == ["n1", "n3", "n4", "n5"]
    assert lacking(runs, "mobilenetv2-cifar10", "skip", 0) == ["n1", "n2", "n3", "n4", "n5"]
