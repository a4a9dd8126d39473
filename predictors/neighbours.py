"""What the other measurements of a training run say of a variant after an epoch: kriging.

Variants of one checkpoint rise and fall together, so do neighbouring exits, skips that leave
out the same blocks, and one variant in successive epochs. A Gaussian process within each run says
so in numbers: from everything measured of a run it predicts the rest. Where normalisation is
frozen, what skipped blocks cost adds up (on the logit's scale); before, a skip wrecks the
statistics behind it, and only like skips are alike. Of a run of which nothing was measured
it knows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from predictors.accuracy_runs import Floats
from predictors.features import Rows, column


@dataclass(frozen=True)
class Scales:
    """How far measurements are alike; amplitudes are standard deviations of a logit.

    Of the level of a run, of a checkpoint, and of what changes slowly (``kept``); of exits and
    skips, each in one checkpoint (``now``) and lasting (``kept``), with frozen statistics or
    before. ``epochs``, ``depth``, ``blocks``: within how many of these likeness falls to a third.
    ``across``: how alike epochs before and after the freezing are. ``sampled``: the part of the
    noise of counting finitely many images that variants do not share, since all are tried on the
    same images. ``rest``: noise besides, by phase.

    Found by Optuna, as ``predictors.neighbours_tuning`` does it, on the runs ``resnet32-seed1``
    and ``mobilenetv2-seed1``: figures on these are a little flattered.
    """

    run: float = 2.0
    level_now: float = 0.074
    level_kept: float = 0.168
    exit_now: float = 0.0167
    exit_kept: float = 0.212
    skip_now_frozen: float = 0.0114
    skip_kept_frozen: float = 0.125
    skip_now: float = 0.108
    skip_kept: float = 0.527
    skip_lasting: float = 0.071
    exit_before: float = 4.5
    skip_before: float = 6.9
    epochs: float = 58.0
    depth: float = 7.6
    blocks: float = 3.5
    across: float = 0.073
    sampled: float = 0.55
    rest_frozen: float = 0.019
    rest: float = 0.022


SCALES = Scales()
#: Blocks of the longest network.
MOST_BLOCKS = 64


@dataclass(frozen=True)
class Places:
    """Where rows of one run lie: (rows,) each, ``left_out`` (rows, blocks) is 1 for a skip."""

    epoch: Floats
    frozen: npt.NDArray[np.bool_]
    depth: Floats
    left_out: Floats

    @classmethod
    def of(cls, rows: Rows) -> Places:
        """Of these rows. An exit lies at its depth, the full network at its last block's.

        What skips blocks and has no exit lies at none: it is judged by its skips alone.
        """
        skipped = column(rows.features, "skipped")
        first, last = (np.nan_to_num(column(rows.features, f"{end}_skipped"), nan=-1.0)
                       for end in ("first", "last"))  # fmt: skip
        run = column(rows.features, "blocks_run")
        exits = column(rows.features, "exit_depth")
        numbers = np.arange(MOST_BLOCKS)
        inside = (numbers >= first[:, None]) & (numbers <= last[:, None]) & (first >= 0)[:, None]
        depth = np.where(np.isnan(exits), np.where(skipped > 0, 0.0, run), exits)
        return cls(
            rows.epoch.astype(np.float64),
            column(rows.features, "frozen") > 0,
            depth,
            inside.astype(np.float64),
        )

    def take(self, index: npt.NDArray[np.intp]) -> Places:
        """Some of the rows."""
        return Places(
            self.epoch[index], self.frozen[index], self.depth[index], self.left_out[index]
        )


def covariance(a: Places, b: Places, s: Scales) -> Floats:
    """How rows vary together, before any noise: (rows of a, rows of b)."""
    apart = np.abs(np.subtract.outer(a.epoch, b.epoch))
    now = apart == 0
    same_phase = a.frozen[:, None] == b.frozen[None]
    kept = np.exp(-apart / s.epochs) * np.where(same_phase, 1.0, s.across)
    level = s.run**2 + s.level_now**2 * now + s.level_kept**2 * kept
    whole = (a.depth > 0)[:, None] & (b.depth > 0)[None]
    near = whole * np.exp(-np.abs(np.subtract.outer(a.depth, b.depth)) / s.depth)
    exits = factor(a, b, s.exit_before) * near * (s.exit_now**2 * now + s.exit_kept**2 * kept)
    numbers = np.arange(MOST_BLOCKS)
    alike = np.exp(-np.abs(np.subtract.outer(numbers, numbers)) / s.blocks)
    alike = (alike + np.eye(MOST_BLOCKS)) / 2
    added = a.left_out @ alike @ b.left_out.T
    own = [np.einsum("ij,jk,ik->i", p.left_out, alike, p.left_out) for p in (a, b)]
    counts = np.abs(np.subtract.outer(a.left_out.sum(1), b.left_out.sum(1)))
    shaped = added / np.sqrt(np.maximum(np.outer(*own), 1e-9)) * np.exp(-counts / 3)
    both = same_phase & a.frozen[:, None]
    skips = np.where(
        both,
        added * (s.skip_now_frozen**2 * now + s.skip_kept_frozen**2 * kept),
        same_phase * shaped * (s.skip_now**2 * now + s.skip_kept**2 * kept),
    )
    lasting = added * s.skip_lasting**2 * np.exp(-apart / s.epochs) * factor(a, b, s.skip_before)
    found: Floats = level + exits + skips + lasting
    return found


def factor(a: Places, b: Places, before: float) -> Floats:
    """What amplitudes are multiplied by: ``before`` for each row of a phase not yet frozen."""
    return np.outer(*(np.where(place.frozen, 1.0, before) for place in (a, b)))


def noise(rows: Rows, places: Places, s: Scales) -> Floats:
    """Variance of each measured logit by itself."""
    share = np.clip(rows.accuracy / 100, 0.03, 0.97)
    counted = s.sampled / (rows.images * share * (1 - share))
    found: Floats = counted + np.where(places.frozen, s.rest_frozen, s.rest) ** 2
    return found


class Neighbours:
    """Learned from ``target``, a logit for each of ``rows``, whose accuracies are known."""

    def __init__(self, rows: Rows, target: Floats, scales: Scales = SCALES) -> None:
        places = Places.of(rows)
        variance = noise(rows, places, scales)
        self._scales = scales
        self._of_run = {}
        for run in np.unique(rows.run):
            index = np.flatnonzero(rows.run == run)
            one = _OneRun.fit(index, places.take(index), target[index], variance[index], scales)
            self._of_run[int(run)] = one

    def predict(self, rows: Rows) -> Floats:
        """A logit for each row; NaN for rows of runs that it does not know."""
        places, found = Places.of(rows), np.full(len(rows.run), np.nan)
        for number, run in self._of_run.items():
            asked = np.flatnonzero(rows.run == number)
            if len(asked):
                found[asked] = run.predict(places.take(asked), self._scales)
        return found

    def left_one_out(self) -> Floats:
        """What each row that it was learned from is predicted to be by the others of its run."""
        found = np.full(sum(len(run.index) for run in self._of_run.values()), np.nan)
        for run in self._of_run.values():
            found[run.index] = run.left_one_out()
        return found


@dataclass(frozen=True)
class _OneRun:
    """One run's rows: which these are, and their covariance, factored."""

    index: npt.NDArray[np.intp]
    places: Places
    target: Floats
    solved: Any

    @classmethod
    def fit(
        cls,
        index: npt.NDArray[np.intp],
        places: Places,
        target: Floats,
        variance: Floats,
        scales: Scales,
    ) -> _OneRun:
        matrix = covariance(places, places, scales) + np.diag(variance)
        return cls(index, places, target, cho_factor(matrix, lower=True))

    def predict(self, asked: Places, scales: Scales) -> Floats:
        shared = covariance(asked, self.places, scales)
        found: Floats = shared @ cho_solve(self.solved, self.target)
        return found

    def left_one_out(self) -> Floats:
        inverse = cho_solve(self.solved, np.eye(len(self.index)))
        found: Floats = self.target - (inverse @ self.target) / np.diag(inverse)
        return found
