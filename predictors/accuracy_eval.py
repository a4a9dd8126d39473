"""How well accuracy is predicted: the paper's split, and whole training runs never seen.

*Split*: rows are dealt into five parts at random, each predicted from the other four, so that
every row is predicted once from 80 % of the others. *Unseen runs*: each run is predicted
from all others, where a run of its network and another seed is left. Early epochs spread
widely, which flatters R2; so errors and rankings are also given at deployable checkpoints:
final weights, and epochs with frozen statistics, of runs that reach nine tenths of their
network's best accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from predictors.accuracy import AccuracyModel
from predictors.accuracy_runs import Floats, Run
from predictors.features import Encoder, Rows

FOLDS = 5
SEED = 123
DEPLOYABLE_SHARE = 0.9
PAPER_TECHNIQUES = ("repartition", "early_exit", "skip")

Mask = npt.NDArray[np.bool_]
#: From the rows to learn from and the rows to predict to the predictions.
Predictor = Callable[[Rows, Rows], Floats]


@dataclass(frozen=True)
class Material:
    """The runs, their rows, and which of these count as deployable, and as final weights."""

    runs: Sequence[Run]
    encoder: Encoder
    rows: Rows
    deployable: Mask
    final: Mask

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Material:
        """Everything that was measured in the runs."""
        encoder = Encoder.of(runs)
        rows = encoder.rows(runs)
        last = np.array([len(run.epochs) - 1 for run in runs])
        final = rows.epoch == last[rows.run]
        reached = np.array([_full(rows, final & (rows.run == n)) for n in range(len(runs))])
        networks = np.array([run.network for run in runs])
        best = {network: reached[networks == network].max() for network in set(networks)}
        good = reached >= [DEPLOYABLE_SHARE * best[network] for network in networks]
        kept = good[rows.run]
        return cls(runs, encoder, rows, rows.deployable & kept, final & kept)


@dataclass(frozen=True)
class Predictions:
    """Percent per row; NaN where a row was not predicted, since nothing like it was left."""

    split: Floats
    unseen: Floats


def predict(material: Material, predictor: Predictor) -> Predictions:
    """Every row predicted from others, in both ways."""
    return Predictions(held_out_split(material, predictor), held_out_runs(material, predictor))


def held_out_split(material: Material, predictor: Predictor) -> Floats:
    """Each fifth of the rows, in random order, predicted from the other four."""
    parts = np.random.default_rng(SEED).permutation(len(material.rows.accuracy)) % FOLDS
    return _held_out(material.rows, parts, predictor, np.ones(FOLDS, np.bool_))


def held_out_runs(material: Material, predictor: Predictor) -> Floats:
    """Each run predicted from all others; NaN where no other is of its network.

    Runs of one network and seed are held out together: one may have begun with the other's
    weights, and they are tried on the same images.
    """
    families = [(run.network, str(run.parameters.get("seed", run.name))) for run in material.runs]
    numbers = np.array([families.index(family) for family in families])
    networks = [network for network, _ in set(families)]
    known = np.array([networks.count(network) > 1 for network, _ in families])
    return _held_out(material.rows, numbers[material.rows.run], predictor, known)


def _held_out(
    rows: Rows, groups: npt.NDArray[np.int64], predictor: Predictor, wanted: Mask
) -> Floats:
    found = np.full(len(groups), np.nan)
    for group in np.flatnonzero(wanted):
        held = groups == group
        if held.any() and not held.all():
            found[held] = predictor(select(rows, ~held), select(rows, held))
    return found


def select(rows: Rows, mask: Mask) -> Rows:
    """Some of the rows."""
    arrays = {k: v[mask] for k, v in vars(rows).items() if k != "variant"}
    variant = [v for v, kept in zip(rows.variant, mask, strict=True) if kept]
    return Rows(**arrays, variant=variant)


def model_predictor(encoder: Encoder, *, training_figures: bool = True) -> Predictor:
    """The accuracy model; without ``training_figures`` it does not see how training went."""

    def predictor(known: Rows, asked: Rows) -> Floats:
        model = AccuracyModel.fit_rows(encoder, known, training_figures=training_figures)
        return model.predict_rows(asked)

    return predictor


def mean_predictor(known: Rows, asked: Rows) -> Floats:
    """The baseline: the mean of the variant, else of its network's technique, else of all."""
    sums: dict[Any, list[float]] = {}
    keys = [*zip(known.network, known.technique, known.variant, strict=True)]
    for (network, technique, variant), accuracy in zip(keys, known.accuracy, strict=True):
        for key in ((network, variant), (network, technique), None):
            sums.setdefault(key, []).append(float(accuracy))
    means = {key: float(np.mean(values)) for key, values in sums.items()}
    return np.array(
        [
            means.get((network, variant), means.get((network, technique), means[None]))
            for network, technique, variant in zip(
                asked.network, asked.technique, asked.variant, strict=True
            )
        ]
    )


def shuffled_r2(material: Material) -> float:
    """R2 on the split where every row has some other row's accuracy: near 0, or there is a leak."""
    order = np.random.default_rng(SEED).permutation(len(material.rows.accuracy))
    rows = replace(material.rows, accuracy=material.rows.accuracy[order])
    found = held_out_split(replace(material, rows=rows), model_predictor(material.encoder))
    score = r2(rows.accuracy, found)
    assert score is not None
    return score


# --- figures --------------------------------------------------------------------------------


def r2(measured: Floats, predicted: Floats) -> float | None:
    """Share of the variance that is explained; None where too little was predicted."""
    known = np.isfinite(predicted)
    if known.sum() < 2 or np.ptp(measured[known]) == 0:
        return None
    error = np.square(measured - predicted)[known].sum()
    return float(1 - error / np.square(measured[known] - measured[known].mean()).sum())


def mse(measured: Floats, predicted: Floats) -> float | None:
    """Mean squared error, in squared percentage points."""
    return _mean(np.square(measured - predicted))


def error_percent(measured: Floats, predicted: Floats, chosen: Mask) -> float | None:
    """Average of the error relative to what was measured, in percent."""
    return _mean(100 * np.abs(predicted - measured)[chosen] / measured[chosen])


def noise_percent(rows: Rows, chosen: Mask) -> float | None:
    """What an accuracy counted on finitely many images is off on average, in percent of itself.

    Mean absolute deviation of a binomial share; errors below this say nothing about images
    that were not counted.
    """
    share = rows.accuracy[chosen] / 100
    deviation = np.sqrt(2 / np.pi) * np.sqrt(share * (1 - share) / rows.images[chosen])
    return _mean(100 * deviation / share)


def ranking(material: Material, predicted: Floats) -> dict[str, float | None]:
    """How well variants are ordered within a deployable checkpoint, averaged over these."""
    rows = material.rows
    found: list[tuple[float, float]] = []
    for run, epoch in sorted({*zip(rows.run, rows.epoch, strict=True)}):
        chosen = (rows.run == run) & (rows.epoch == epoch) & material.deployable
        chosen &= np.isfinite(predicted)
        pair = rows.accuracy[chosen], predicted[chosen]
        if chosen.sum() > 2 and all(np.ptp(side) > 0 for side in pair):
            spearman, kendall = stats.spearmanr(*pair), stats.kendalltau(*pair)
            found.append((float(spearman.statistic), float(kendall.statistic)))
    if not found:
        return {"spearman": None, "kendall": None}
    return {
        "spearman": float(np.mean([each[0] for each in found])),
        "kendall": float(np.mean([each[1] for each in found])),
    }


def _mean(values: Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _full(rows: Rows, chosen: Mask) -> float:
    """Accuracy of the full network; 0 where it was not measured."""
    values = rows.accuracy[chosen & (rows.technique == "repartition")]
    return float(values[0]) if len(values) else 0.0


# --- the report -----------------------------------------------------------------------------


def describe(material: Material, found: Predictions) -> dict[str, Any]:
    """The figures of one predictor, at all epochs and at deployable checkpoints."""
    measured = material.rows.accuracy

    def figures(predicted: Floats) -> dict[str, Any]:
        at = material.deployable
        return {
            "r2": r2(measured, predicted),
            "mse": mse(measured, predicted),
            "deployable_mae": _mean(np.abs(measured - predicted)[at]),
            "deployable_r2": r2(measured[at], predicted[at]),
            **{f"deployable_{k}": v for k, v in ranking(material, predicted).items()},
        }

    return {"split": figures(found.split), "unseen_runs": figures(found.unseen)}


def table_6(material: Material, found: Predictions) -> dict[str, dict[str, dict[str, Any]]]:
    """The paper's Table VI, of final weights: network, technique, error."""
    rows, table = material.rows, {}
    for network in sorted({run.network for run in material.runs}):
        cells = {}
        for technique in PAPER_TECHNIQUES:
            chosen = material.final & (rows.network == network) & (rows.technique == technique)
            cells[technique] = {
                "error_percent": error_percent(rows.accuracy, found.split, chosen),
                "error_percent_unseen_runs": error_percent(rows.accuracy, found.unseen, chosen),
            }
        table[network] = cells
    return table


def table_6_noise(material: Material) -> dict[str, dict[str, float | None]]:
    """The noise of what Table VI's predictions are compared with."""
    rows = material.rows
    return {
        network: {
            technique: noise_percent(
                rows, material.final & (rows.network == network) & (rows.technique == technique)
            )
            for technique in PAPER_TECHNIQUES
        }
        for network in sorted({run.network for run in material.runs})
    }
