"""How good latency predictions are: the paper's Table II, and the same for shapes never seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from predictors.latency import SEED, Regressor, Settings, default_settings, learned_from
from predictors.operators import NO_DROPOUT, PAPER_TYPES
from predictors.profile import Profile, Timing, noise_percent

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Split = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]

#: Fifths: each is tested once by what was learned from the others, so each split is 80:20.
FOLDS = 5


class LatencyRow(TypedDict):
    """A row of Table II; all but ``reason`` are None where there is nothing to predict.

    ``r2_unseen``: tested on numbers of input channels that were not learned from.
    """

    r2: float | None
    mse_ms2: float | None
    median_error_percent: float | None
    r2_unseen: float | None
    noise_percent: float | None
    reason: str | None


def latency_table(
    profile: Profile, settings: Mapping[str, Settings] | None = None
) -> dict[str, LatencyRow]:
    """Table II for a profile: of each layer type of the paper, floats, how good predictions are.

    ``settings`` by kind, as in ``LatencyModel.fit``. Nothing is tested on what it was learned
    from, but the default settings were chosen by looking at all of the shipped profile.
    """
    table = {
        kind: latency_row(
            profile.of_kind(kind), {**default_settings(kind), **(settings or {}).get(kind, {})}
        )
        for kind in PAPER_TYPES
    }
    nothing = LatencyRow(
        r2=None,
        mse_ms2=None,
        median_error_percent=None,
        r2_unseen=None,
        noise_percent=None,
        reason=NO_DROPOUT,
    )
    return {**table, "dropout": nothing}


def latency_row(timings: Sequence[Timing], settings: Settings) -> LatencyRow:
    """One row of the table."""
    _, measured_us = learned_from(timings)
    predicted_us = cross_predicted(timings, random_splits(len(timings)), settings)
    unseen_us = cross_predicted(timings, channel_splits(timings), settings)
    apart = np.abs(predicted_us - measured_us) / measured_us
    return LatencyRow(
        r2=r2(measured_us, predicted_us),
        mse_ms2=float(np.mean((predicted_us - measured_us) ** 2)) / 1e6,
        median_error_percent=100 * float(np.median(apart)),
        r2_unseen=r2(measured_us, unseen_us),
        noise_percent=noise_percent(timings),
        reason=None,
    )


def r2(measured: Floats, predicted: Floats) -> float:
    """Coefficient of determination."""
    left = float(np.sum((measured - predicted) ** 2))
    return 1 - left / float(np.sum((measured - measured.mean()) ** 2))


def random_splits(count: int) -> Iterator[Split]:
    """(learn from, test on) for each fifth of a seeded random order."""
    order = np.random.default_rng(SEED).permutation(count)
    return _splits(np.arange(count)[np.argsort(order)] % FOLDS)


def channel_splits(timings: Sequence[Timing]) -> Iterator[Split]:
    """As ``random_splits``, but operators with equal numbers of input channels stay together."""
    channels = np.array([t.operator.source[2] for t in timings])
    values = np.random.default_rng(SEED).permutation(np.unique(channels))
    fold_of = {value: place % FOLDS for place, value in enumerate(values.tolist())}
    return _splits(np.array([fold_of[value] for value in channels.tolist()]))


def _splits(folds: npt.NDArray[np.intp]) -> Iterator[Split]:
    for fold in range(FOLDS):
        tested = np.flatnonzero(folds == fold)
        if len(tested) and len(tested) < len(folds):
            yield np.flatnonzero(folds != fold), tested


def cross_predicted(
    timings: Sequence[Timing], splits: Iterator[Split], settings: Settings
) -> Floats:
    """Predictions in microseconds, each by what was learned from the other folds."""
    operators, us = learned_from(timings)
    found = np.zeros(len(us))
    for learn, test in splits:
        chosen = [operators[place] for place in learn]
        regressor = Regressor.fit(chosen, us[learn], settings)
        found[test] = regressor.predict_us([operators[place] for place in test])
    return found
