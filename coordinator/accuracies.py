"""The accuracy of a path: as measured, or estimated from what was. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from continuer.bundle import Bundle


def accuracy_of(bundle: Bundle, path: Sequence[str]) -> tuple[float | None, bool] | None:
    """(accuracy, measured) of a path.

    A path that was not measured as a whole is estimated: the accuracy of its exit (or of the
    full network) times the drop that each run of skipped blocks causes in the full network.
    None where one of these was not measured either. The path of all blocks can always be
    offered: where the model came without labels, its accuracy is None.
    """
    measured = bundle.measured_accuracy(path)
    if measured is not None:
        return measured, True
    exit_name, skipped = bundle.variant_of(path)
    if exit_name is None and not skipped:
        return None, False
    full = bundle.measured_accuracy(bundle.path())
    estimate = bundle.measured_accuracy(bundle.path(exit_name=exit_name))
    if full is None or estimate is None:
        return None
    for run in _runs([bundle.block_names.index(name) for name in skipped]):
        names = [bundle.block_names[index] for index in run]
        alone = bundle.measured_accuracy(bundle.path(skipped=names))
        if alone is None:
            return None
        estimate *= alone / full
    return estimate, False


def _runs(indices: Iterable[int]) -> list[list[int]]:
    """Maximal runs of consecutive integers."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs
