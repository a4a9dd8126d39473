"""Hyper-parameters of the latency regressors, by Optuna, starting from the paper's.

``python -m predictors.tuning PROFILE`` writes what ``predictors.latency`` uses by default.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import optuna

from predictors.latency import PAPER_SETTINGS, SEED, TUNED_FILE, learned_from
from predictors.latency_eval import cross_predicted, random_splits
from predictors.profile import Profile, Timing, load

TRIALS = 20
#: More rounds than the paper's take longer than they are worth.
MAX_ROUNDS = 1000
#: A quarter of the timings says too little about fewer.
MIN_TIMINGS = 40


def tune(
    profile: Profile, trials: int = TRIALS, kinds: Sequence[str] | None = None
) -> dict[str, dict[str, float | int]]:
    """Settings by kind, for kinds with enough timings. The same again for the same profile."""
    return {
        kind: tune_kind(profile.of_kind(kind), trials)
        for kind in (profile.kinds if kinds is None else kinds)
        if len(profile.of_kind(kind)) >= MIN_TIMINGS
    }


def tune_kind(timings: Sequence[Timing], trials: int = TRIALS) -> dict[str, float | int]:
    """The settings with the least cross-validated error; never worse than the paper's there."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=SEED))
    study.enqueue_trial(PAPER_SETTINGS)
    study.optimize(lambda trial: _error(timings, _suggested(trial)), n_trials=trials)
    return {**PAPER_SETTINGS, **study.best_params}


def _suggested(trial: optuna.Trial) -> dict[str, float | int]:
    return {
        "rounds": trial.suggest_int("rounds", 100, MAX_ROUNDS, step=50),
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
        "max_depth": trial.suggest_int("max_depth", 2, 10),
        "colsample_bytree": trial.suggest_float("colsample_bytree", 0.4, 1.0),
        "min_child_weight": trial.suggest_float("min_child_weight", 0.5, 8.0, log=True),
    }


def _error(timings: Sequence[Timing], settings: dict[str, float | int]) -> float:
    """Root of the mean squared error of the logarithm: relative errors, large ones more."""
    _, measured = learned_from(timings)
    predicted = cross_predicted(timings, random_splits(len(timings)), settings)
    return float(np.sqrt(np.mean(np.log(predicted / measured) ** 2)))


def main(profile: Path) -> None:
    """Tune on a profile and write the file."""
    settings = tune(load(profile))
    TUNED_FILE.write_bytes(msgspec.json.format(msgspec.json.encode(settings), indent=1) + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
