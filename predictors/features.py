"""A variant of a network after an epoch, as numbers of fixed length.

The paper gives the statistics of every layer's weights. Variants run different layers, and
networks have different numbers of them, so the statistics are aggregated: over all arrays of
a kind along the path, over what is left out, and over the part right behind the cut, which
gets an input that it sees less often. To these come the parameters of the paper's Table III
and what describes the variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from continuer.bundle import Variant
from predictors.accuracy_runs import Floats, Run, path_arrays

KINDS = ("kernel", "gamma", "beta", "moving_mean", "moving_variance", "bias")
STATISTICS = ("mean", "variance", "p0", "p25", "p50", "p75", "p100")
#: Kinds that are looked at in what is left out and behind the cut.
CUT_KINDS = ("kernel", "gamma", "moving_variance")
TRAINING = ("train_loss", "train_accuracy")
#: Numbers that are codes for words; the words of Table III.
WORDS = ("activation", "b_init", "dnn_architecture", "optimiser")
NUMBERS = ("epochs", "learning_rate", "num_layers", "train_fraction", "batch", "width")
TECHNIQUES = ("repartition", "early_exit", "skip", "mixed")

_SETTING = (*WORDS, *NUMBERS, "epoch", "progress", "rate_now", "frozen", *TRAINING)
_VARIANT = (
    *("technique", "blocks_run", "share_run", "exit_depth", "skipped", "first_skipped"),
    *("last_skipped", "bypassed", "arrays_run"),
)
_GROUPS = tuple(
    f"{group}_{kind}_{statistic}"
    for group, kinds in (("path", KINDS), ("cut", CUT_KINDS), ("behind", CUT_KINDS))
    for kind in kinds
    for statistic in STATISTICS
)
NAMES = (*_SETTING, *_VARIANT, *_GROUPS)


@dataclass(frozen=True)
class Rows:
    """What the model learns from, a row a variant and epoch.

    ``features``: (rows, len(NAMES)), NaN where a network has none of a kind. ``accuracy``: in
    percent of ``images``. ``run``, ``epoch``: indices; ``deployable``: the epoch's weights
    might be deployed; ``variant``: (exit, skipped blocks).
    """

    features: Floats
    accuracy: Floats
    images: Floats
    run: npt.NDArray[np.int64]
    epoch: npt.NDArray[np.int64]
    deployable: npt.NDArray[np.bool_]
    technique: npt.NDArray[np.str_]
    network: npt.NDArray[np.str_]
    variant: list[tuple[str | None, tuple[str, ...]]]


class _Record(NamedTuple):
    """Where a row comes from, and what was measured."""

    number: int
    epoch: int
    run: Run
    measured: Variant


def _rows(features: Floats, records: Sequence[_Record]) -> Rows:
    variants = [(r.measured.exit, r.measured.skipped) for r in records]
    return Rows(
        features,
        np.array([100 * r.measured.accuracy for r in records]),
        np.array([r.measured.total for r in records], np.float64),
        np.array([r.number for r in records], np.int64),
        np.array([r.epoch for r in records], np.int64),
        np.array([r.run.deployable(r.epoch) for r in records], np.bool_),
        np.array([technique_of(*variant) for variant in variants]),
        np.array([r.run.network for r in records]),
        variants,
    )


def technique_of(exit_name: str | None, skipped: Sequence[str]) -> str:
    """The paper's name for how a variant comes about."""
    if skipped:
        return "mixed" if exit_name else "skip"
    return "early_exit" if exit_name else "repartition"


def column(features: Floats, name: str) -> Floats:
    """One feature of all rows: (rows,)."""
    found: Floats = features[:, NAMES.index(name)]
    return found


class Encoder:
    """Makes features; words get their codes from the runs it was made of."""

    def __init__(self, words: dict[str, list[str]], runs: Sequence[str]) -> None:
        """``words``: for every one of ``WORDS`` those that are known; others become NaN.

        ``runs``: the names of those that rows number.
        """
        self.words = words
        self.runs = tuple(runs)

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Encoder:
        """An encoder that knows the words of these runs."""
        words = {w: sorted({str(r.parameters.get(w)) for r in runs}) for w in WORDS}
        return cls(words, [run.name for run in runs])

    def encode(
        self, run: Run, index: int, variants: Sequence[tuple[str | None, tuple[str, ...]]]
    ) -> Floats:
        """(variants, len(NAMES)) of the run's epoch of this index, from 0."""
        setting = np.array(list(self._setting(run, index)), np.float64)
        groups = _Groups.of(run)
        rows = [
            np.concatenate([setting, _variant(run, *variant), groups.encode(index, *variant)])
            for variant in variants
        ]
        return np.stack(rows)

    def rows(self, runs: Sequence[Run]) -> Rows:
        """Everything that was measured in these runs, which are numbered as they come."""
        features, records = [], []
        for number, run in enumerate(runs):
            for index, epoch in enumerate(run.epochs):
                measured = epoch.validation
                features.append(self.encode(run, index, [(v.exit, v.skipped) for v in measured]))
                records += [_Record(number, index, run, v) for v in measured]
        return _rows(np.concatenate(features), records)

    def asked(
        self, run: Run, index: int, variants: Sequence[tuple[str | None, tuple[str, ...]]]
    ) -> Rows:
        """Rows to be predicted, of the run's epoch of this index: accuracies are NaN."""
        number = self.runs.index(run.name) if run.name in self.runs else -1
        rows = _rows(
            self.encode(run, index, variants),
            [_Record(number, index, run, Variant(0, 1, *way)) for way in variants],
        )
        return replace(rows, accuracy=np.full(len(variants), np.nan))

    def _setting(self, run: Run, index: int) -> Iterator[float]:
        """The parameters of Table III, in the order of their names."""
        epoch, parameters = run.epochs[index], run.parameters
        for word in WORDS:
            known, own = self.words[word], str(parameters.get(word))
            yield known.index(own) if own in known else np.nan
        for name in NUMBERS:
            yield _number(parameters.get(name))
        yield from (epoch.epoch, epoch.epoch / max(1.0, _number(parameters.get("epochs"))))
        yield from (epoch.learning_rate, epoch.frozen, epoch.train_loss, epoch.train_accuracy)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def _variant(run: Run, exit_name: str | None, skipped: tuple[str, ...]) -> Floats:
    """What describes the variant, in the order of its names."""
    depth = run.exit_depth[exit_name] if exit_name else len(run.blocks)
    positions = [run.blocks.index(name) for name in skipped]
    bypassed = sum(
        name.replace("block", "bypass") in run.parts
        or any(array.startswith(f"{name}/shortcut/") for array in run.arrays)
        for name in skipped
    )
    return np.array(
        [
            TECHNIQUES.index(technique_of(exit_name, skipped)),
            depth - len(skipped),
            (depth - len(skipped)) / len(run.blocks),
            depth if exit_name else np.nan,
            len(skipped),
            min(positions, default=np.nan),
            max(positions, default=np.nan),
            bypassed,
            path_arrays(run, exit_name, skipped).sum(),
        ]
    )


class _Groups:
    """Aggregated statistics of one run."""

    _last: tuple[Run, _Groups] | None = None

    def __init__(self, run: Run) -> None:
        self._run = run
        kinds = np.array([array.rpartition("/")[2] for array in run.arrays])
        self._of_kind = {kind: kinds == kind for kind in KINDS}
        self._parts = np.array([array.partition("/")[0] for array in run.arrays])
        self._masks: dict[tuple[str | None, tuple[str, ...]], tuple[npt.NDArray[np.bool_], ...]]
        self._masks = {}

    @classmethod
    def of(cls, run: Run) -> _Groups:
        """Those of the run; kept for the next epoch."""
        if cls._last is None or cls._last[0] is not run:
            cls._last = (run, cls(run))
        return cls._last[1]

    def encode(self, index: int, exit_name: str | None, skipped: tuple[str, ...]) -> Floats:
        """Means of the statistics over path, cut and what is behind it, in order of names."""
        path, cut, behind = self._masks_of(exit_name, skipped)
        found = [self._means(index, path, kind) for kind in KINDS]
        found += [self._means(index, mask, kind) for mask in (cut, behind) for kind in CUT_KINDS]
        return np.concatenate(found)

    def _means(self, index: int, mask: npt.NDArray[np.bool_], kind: str) -> Floats:
        chosen = mask & self._of_kind[kind]
        if not chosen.any():
            return np.full(len(STATISTICS), np.nan)
        means: Floats = self._run.statistics[index, chosen].mean(axis=0)
        return means

    def _masks_of(
        self, exit_name: str | None, skipped: tuple[str, ...]
    ) -> tuple[npt.NDArray[np.bool_], ...]:
        key = (exit_name, skipped)
        if key not in self._masks:
            blocks = self._run.blocks
            last = blocks.index(skipped[-1]) if skipped else len(blocks) - 2
            behind = exit_name or blocks[min(last + 1, len(blocks) - 1)]
            self._masks[key] = (
                path_arrays(self._run, exit_name, skipped),
                np.isin(self._parts, skipped),
                self._parts == behind,
            )
        return self._masks[key]
