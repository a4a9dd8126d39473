"""The scales of ``predictors.neighbours``, by Optuna, starting from those in use.

``python -m predictors.neighbours_tuning RUNS`` prints what it finds for the runs in a directory.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import optuna

from predictors.accuracy import expit, logit
from predictors.accuracy_eval import Material, select
from predictors.accuracy_runs import find_runs
from predictors.features import Rows, column
from predictors.neighbours import SCALES, Neighbours, Scales

TRIALS = 240
FOLDS = 5
#: Another order than the evaluation's, so that its parts are not the ones tuned on.
SEED = 7
#: Deployable checkpoints are few, and what is predicted in the end.
DEPLOYABLE_WEIGHT = 4.0
#: No scale is sought further away from those in use than by this factor.
REACH = 4.0


def tune(rows: Rows, trials: int = TRIALS) -> Scales:
    """The scales with the least error of rows left out; never worse than those in use there."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=SEED, multivariate=True))
    study.enqueue_trial(asdict(SCALES))
    study.optimize(lambda trial: error(rows, _suggested(trial)), n_trials=trials)
    return Scales(**study.best_params)


def _suggested(trial: optuna.Trial) -> Scales:
    return Scales(
        **{
            name: trial.suggest_float(name, value / REACH, value * REACH, log=True)
            for name, value in asdict(SCALES).items()
        }
    )


def error(rows: Rows, scales: Scales) -> float:
    """Root mean square in percentage points, and the mean at deployable checkpoints, weighted."""
    anchor = logit(100 * column(rows.features, "train_accuracy"))
    target = logit(rows.accuracy) - anchor
    parts = np.random.default_rng(SEED).permutation(len(target)) % FOLDS
    found = np.zeros(len(target))
    for part in range(FOLDS):
        known, asked = parts != part, parts == part
        kriging = Neighbours(select(rows, known), target[known], scales)
        found[asked] = kriging.predict(select(rows, asked))
    apart = np.abs(expit(found + anchor) - rows.accuracy)
    deployable = apart[rows.deployable]
    late = float(deployable.mean()) if len(deployable) else 0.0
    return float(np.sqrt(np.mean(apart**2))) + DEPLOYABLE_WEIGHT * late


def main(arguments: Sequence[str]) -> None:
    """Tune on the runs in a directory and print the scales."""
    rows = Material.of(find_runs(Path(arguments[0]))).rows
    for name, value in asdict(tune(rows)).items():
        print(f"{name} = {value:.3g}")


if __name__ == "__main__":
    main(sys.argv[1:])
