"""Accuracy predicted from weight statistics: what is learned, and how it is judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from predictors import accuracy_eval as evaluation
from predictors.accuracy import AccuracyModel, expit, logit
from predictors.accuracy_eval import Material, Predictions
from predictors.accuracy_runs import Run, find_runs, path_arrays
from predictors.features import NAMES, Encoder, Rows

#: Real runs of a narrow ResNet-32 on a few thousand images; quick to train, and poor.
RUNS = Path(__file__).parent / "runs"
# Seconds of work; many more where others use the machine.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return find_runs(RUNS)


@pytest.fixture(scope="module")
def material(runs: list[Run]) -> Material:
    return Material.of(runs)


@pytest.fixture(scope="module")
def predictions(material: Material) -> Predictions:
    return evaluation.predict(material, evaluation.model_predictor(material.encoder))


def column(features: np.ndarray, name: str) -> np.ndarray:
    return features[:, NAMES.index(name)]


# --- features -------------------------------------------------------------------------------


def test_the_path_of_a_variant_has_the_arrays_that_it_runs_and_no_others(runs: list[Run]) -> None:
    run = runs[0]
    used = path_arrays(run, "exit03", ())
    parts = {array.partition("/")[0] for array, own in zip(run.arrays, used, strict=True) if own}
    assert parts == {"stem", "block01", "block02", "block03", "exit03"}
    # Of a skipped block that changes the shape, its projection shortcut is left.
    left = path_arrays(run, None, ("block05", "block06"))
    arrays = [array for array, own in zip(run.arrays, left, strict=True) if own]
    assert not any(array.startswith("block05/") for array in arrays)
    assert {array.split("/")[1] for array in arrays if array.startswith("block06/")} == {"shortcut"}
    assert not any(array.startswith("exit") for array in arrays)


def test_statistics_are_means_over_the_arrays_of_the_path(runs: list[Run]) -> None:
    run = runs[0]
    features = Encoder.of(runs).encode(run, 2, [("exit01", ())])
    kernels = [
        index
        for index, array in enumerate(run.arrays)
        if array.endswith("/kernel") and array.split("/")[0] in ("stem", "block01", "exit01")
    ]
    expected = run.statistics[2, kernels, 1].mean()
    assert column(features, "path_kernel_variance")[0] == pytest.approx(expected)


def test_variants_of_a_network_are_told_apart_and_have_the_parameters_of_their_epoch(
    runs: list[Run],
) -> None:
    ways: list[tuple[str | None, tuple[str, ...]]] = [
        (None, ()),
        ("exit02", ()),
        (None, ("block02",)),
        (None, ("block02", "block03")),
    ]
    features = Encoder.of(runs).encode(runs[1], 4, ways)
    assert list(column(features, "technique")) == [0, 1, 2, 2]
    assert list(column(features, "blocks_run")) == [17, 3, 16, 15]
    assert list(column(features, "skipped")) == [0, 0, 1, 2]
    assert set(column(features, "train_loss")) == {runs[1].epochs[4].train_loss}
    assert set(column(features, "train_fraction")) == {runs[1].parameters["train_fraction"]}


# --- prediction -----------------------------------------------------------------------------


def test_accuracies_are_predicted_in_percent_for_variants_that_were_never_measured(
    runs: list[Run],
) -> None:
    model = AccuracyModel.fit(runs)
    measured = {(v.exit, v.skipped) for epoch in runs[0].epochs for v in epoch.validation}
    way = (None, tuple(f"block{n:02}" for n in range(3, 12)))
    assert way not in measured
    (found,) = model.predict(runs[0], len(runs[0].epochs) - 1, [way])
    assert 5 < found < 60


def test_logits_lead_back_to_percent() -> None:
    percent = np.array([1.0, 37.0, 99.0])
    assert expit(logit(percent)) == pytest.approx(percent)


def test_a_run_better_than_all_that_were_seen_is_not_held_to_the_best_of_them(
    runs: list[Run],
) -> None:
    model = AccuracyModel.fit(runs)
    best = max(epoch.train_accuracy for run in runs for epoch in run.epochs)
    run, last = runs[0], len(runs[0].epochs) - 1
    features = Encoder.of(runs).encode(run, last, [(None, ())])
    features[:, NAMES.index("train_accuracy")] = 0.9
    assert best < 0.5
    assert model.predict_features(features)[0] > 60


def test_the_random_split_is_predicted_well_and_a_run_never_seen_better_than_by_a_mean(
    material: Material, predictions: Predictions
) -> None:
    measured = material.rows.accuracy
    split, unseen = (evaluation.r2(measured, p) for p in (predictions.split, predictions.unseen))
    means = evaluation.predict(material, evaluation.mean_predictor)
    baseline = evaluation.r2(measured, means.unseen)
    assert split is not None
    assert unseen is not None
    assert baseline is not None
    assert split > 0.9
    assert unseen > baseline


def test_what_was_measured_of_a_run_says_more_of_the_rest_than_weights_do(
    material: Material,
) -> None:
    rows = material.rows
    held = np.random.default_rng(3).permutation(len(rows.accuracy)) % 4 == 0
    known, asked = (evaluation.select(rows, mask) for mask in (~held, held))
    model = AccuracyModel.fit_rows(material.encoder, known)
    near = evaluation.mse(asked.accuracy, model.predict_rows(asked))
    weights = evaluation.mse(asked.accuracy, model.predict_features(asked.features))
    assert near is not None
    assert weights is not None
    assert near < 0.9 * weights
    # A run that it does not know is left to the weights.
    unknown = replace(asked, run=asked.run + len(material.runs))
    assert np.array_equal(model.predict_rows(unknown), model.predict_features(asked.features))


def test_the_final_weights_of_a_known_run_are_predicted_by_its_name(
    material: Material, runs: list[Run]
) -> None:
    model = AccuracyModel.fit_rows(material.encoder, material.rows)
    last = (material.rows.run == 1) & (material.rows.epoch == len(runs[1].epochs) - 1)
    ways = [way for way, own in zip(material.rows.variant, last, strict=True) if own]
    found = model.predict(runs[1], len(runs[1].epochs) - 1, ways)
    assert found == pytest.approx(model.predict_rows(evaluation.select(material.rows, last)))


def test_with_shuffled_labels_nothing_is_predicted(material: Material) -> None:
    assert evaluation.shuffled_r2(material) < 0.1


def test_what_is_predicted_of_a_row_does_not_depend_on_its_own_accuracy(
    material: Material, predictions: Predictions
) -> None:
    changed = material.rows.accuracy.copy()
    changed[7] = 99.0
    other = replace(material, rows=replace(material.rows, accuracy=changed))
    again = evaluation.predict(other, evaluation.model_predictor(material.encoder))
    assert again.split[7] == predictions.split[7]
    assert again.unseen[7] == predictions.unseen[7]
    assert not np.array_equal(again.split, predictions.split)


def test_a_network_of_which_there_is_one_run_has_no_figures_on_unseen_runs(
    runs: list[Run],
) -> None:
    alone = Material.of(runs[:1])
    found = evaluation.predict(alone, evaluation.mean_predictor)
    assert np.isnan(found.unseen).all()
    cells = evaluation.table_6(alone, found)["resnet32"]
    assert cells["skip"]["error_percent_unseen_runs"] is None
    assert cells["skip"]["error_percent"] is not None


def test_runs_of_one_seed_are_held_out_together(runs: list[Run]) -> None:
    # As where one began with the weights of the other.
    child = replace(runs[1], parameters={**runs[1].parameters, "seed": runs[0].parameters["seed"]})
    material = Material.of([runs[0], child, runs[2]])
    learned_from: list[set[int]] = []

    def predictor(known: Rows, asked: Rows) -> np.ndarray:
        learned_from.append({int(run) for run in known.run})
        return np.zeros(len(asked.accuracy))

    evaluation.held_out_runs(material, predictor)
    assert learned_from == [{2}, {0, 1}]


# --- figures --------------------------------------------------------------------------------


def test_table_6_averages_relative_errors_of_final_weights(material: Material) -> None:
    rows = material.rows
    too_high = Predictions(rows.accuracy * 1.02, rows.accuracy * 0.95)
    cells = evaluation.table_6(material, too_high)["resnet32"]
    assert cells.keys() == {"repartition", "early_exit", "skip"}
    for cell in cells.values():
        assert cell["error_percent"] == pytest.approx(2)
        assert cell["error_percent_unseen_runs"] == pytest.approx(5)


def test_a_ranking_is_judged_within_a_checkpoint(material: Material) -> None:
    accuracy = material.rows.accuracy
    assert evaluation.ranking(material, accuracy)["spearman"] == pytest.approx(1)
    assert evaluation.ranking(material, -accuracy)["kendall"] == pytest.approx(-1)


def test_only_good_runs_count_as_deployable(material: Material, runs: list[Run]) -> None:
    full = [
        next(v.accuracy for v in run.epochs[-1].validation if v.exit is None and not v.skipped)
        for run in runs
    ]
    good = {n for n, share in enumerate(full) if share >= 0.9 * max(full)}
    assert set(material.rows.run[material.final]) == good
    assert len(good) < len(runs)


def test_noise_is_that_of_counting_images(material: Material) -> None:
    chosen = np.zeros(len(material.rows.accuracy), np.bool_)
    chosen[0] = True
    share, images = material.rows.accuracy[0] / 100, material.rows.images[0]
    expected = 100 * np.sqrt(2 / np.pi * share * (1 - share) / images) / share
    assert evaluation.noise_percent(material.rows, chosen) == pytest.approx(expected)
