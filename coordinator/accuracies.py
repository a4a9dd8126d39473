"""The accuracy of a path: measured, predicted, or estimated from these. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from continuer.bundle import Bundle
from coordinator.predictions import Predictions

Source = Literal["measured", "predicted", "estimated", "unknown"]


class KnownAccuracy(NamedTuple):
    """An accuracy and where it comes from.

    ``least``: what may be promised of it. That is the lower bound of a prediction; else the
    accuracy itself.
    """

    accuracy: float | None
    source: Source
    least: float | None


def accuracy_of(
    bundle: Bundle, path: Sequence[str], predictions: Predictions | None = None
) -> KnownAccuracy | None:
    """The accuracy of a path, as ``variant_accuracy`` has it of the path's variant."""
    return variant_accuracy(bundle, *bundle.variant_of(path), predictions)


def variant_accuracy(
    bundle: Bundle,
    exit_name: str | None,
    skipped: Sequence[str],
    predictions: Predictions | None = None,
) -> KnownAccuracy | None:
    """The accuracy of a variant, as measured where it was, else as predicted.

    One that is neither as a whole is estimated: the accuracy of its exit (or of the full
    network) times the drop that each run of skipped blocks causes in the full network. None
    where one of these is not known either. The path of all blocks can always be offered: where
    the model came without labels, its accuracy is None.
    """
    known = _known(bundle, exit_name, skipped, predictions)
    if known is not None:
        return known
    if exit_name is None and not skipped:
        return KnownAccuracy(None, "unknown", None)
    full = _known(bundle, None, (), predictions)
    leaving = _known(bundle, exit_name, (), predictions)
    if full is None or leaving is None or full.accuracy is None or leaving.accuracy is None:
        return None
    estimate = leaving.accuracy
    for run in _runs([bundle.block_names.index(name) for name in skipped]):
        names = [bundle.block_names[index] for index in run]
        alone = _known(bundle, None, names, predictions)
        if alone is None or alone.accuracy is None:
            return None
        estimate *= alone.accuracy / full.accuracy
    return KnownAccuracy(estimate, "estimated", estimate)


def _known(
    bundle: Bundle,
    exit_name: str | None,
    skipped: Sequence[str],
    predictions: Predictions | None,
) -> KnownAccuracy | None:
    measured = bundle.variant_accuracy(exit_name, skipped)
    if measured is not None:
        return KnownAccuracy(measured, "measured", measured)
    entry = predictions.accuracy(exit_name, skipped) if predictions is not None else None
    return KnownAccuracy(entry.accuracy, "predicted", entry.low) if entry is not None else None


def _runs(indices: Iterable[int]) -> list[list[int]]:
    """Maximal runs of consecutive integers."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs
