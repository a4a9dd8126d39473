"""Are the choices those that measured values would have made? Tables VII and VIII of the paper.

The paper's Table VII (section IV-C): for every node that may fail and every combination of
the three weights from 0.1 to 0.9 in steps of 0.1, the technique that predicted accuracy,
latency and downtime choose is compared with the one that measured values choose; metrics are
scaled between the least and the largest of a node's techniques. The same is counted for the
scores that the coordinator itself gives (``continuer.objectives``). Table VIII: how long it
takes to retrieve what is predicted and to select.

Both use what a campaign recorded (``python -m bench.decisions``). Half of its passes calibrate
the predictions (``predictors/decisions_calibration.py``), the other half judges them. Measuring
has noise: an instance is decided where the best technique by measured values would be the best
again if all were measured anew, with 99 % certainty; the others are ties, and listed apart.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from continuer.objectives import DOWNTIME_UNIT_MS
from predictors.decisions_calibration import Calibration, calibrate, cells_of
from predictors.decisions_record import Run

SCHEMA = 1
#: Weights of the sweep.
STEPS = tuple(round(0.1 * step, 1) for step in range(1, 10))
#: Accuracy counts for a candidate, latency and downtime against it.
SIGNS = (1.0, -1.0, -1.0)
#: How often measuring is repeated in thought, and the share of repetitions on either side of the
#: interval in which a difference has to lie. Narrow: one node's runs decide 729 instances at once.
REPEATS = 1000
OUTSIDE = 0.005

Floats = npt.NDArray[np.float64]
#: Scales accuracy, latency and downtime, the last axis, of the techniques on the axis before;
#: the second argument is what the plan before the failure has of them.
Scaling = Callable[[Floats, Floats], Floats]


class Case(NamedTuple):
    """A technique at a failing node: (accuracy, latency in ms, downtime in ms)."""

    node: str
    technique: str
    predicted: Floats
    measured: Floats
    """One row a run."""


class Campaign(NamedTuple):
    """What is judged of one network. ``full_*``: of the plan before any failure.

    ``select_ms``: from the coordinator's judgement that a node has failed to its choice, which
    is a look-up of what was prepared; one figure a run.
    """

    network: str
    full_predicted: Floats
    full_measured: Floats
    cases: tuple[Case, ...]
    select_ms: tuple[float, ...] = ()


def weights() -> Floats:
    """Every combination of the sweep, one a row."""
    return np.array([*itertools.product(STEPS, repeat=3)])


def between_extremes(values: Floats, _: Floats) -> Floats:
    """The paper's scaling: 0 for the least of the techniques, 1 for the largest."""
    least, largest = values.min(axis=-2, keepdims=True), values.max(axis=-2, keepdims=True)
    span = largest - least
    scaled: Floats = np.divide(values - least, span, out=np.zeros_like(values), where=span > 0)
    return scaled


def relative_to_full(values: Floats, full: Floats) -> Floats:
    """The coordinator's scaling, as ``continuer.objectives.score`` has it."""
    accuracy, latency_ms, downtime_ms = np.moveaxis(values, -1, 0)
    scaled = (
        accuracy / full[0],
        np.maximum(1.0, latency_ms / full[1]),
        downtime_ms / DOWNTIME_UNIT_MS,
    )
    return np.stack(scaled, axis=-1)


def campaigns_of(runs: Sequence[Run]) -> tuple[list[Campaign], dict[str, Calibration]]:
    """What the runs for evaluation measured beside what is predicted with the others.

    A network that was not calibrated is left out.
    """
    found, calibrations = [], {}
    for network in dict.fromkeys(run.network for run in runs):
        own = [run for run in runs if run.network == network and run.possible]
        judged = [run for run in own if not run.calibrates]
        calibration = calibrate([run for run in own if run.calibrates])
        if calibration is not None and judged:
            calibrations[network] = calibration
            found.append(_campaign(network, judged, calibration))
    return found, calibrations


def _campaign(network: str, runs: Sequence[Run], calibration: Calibration) -> Campaign:
    before = [run.before for run in runs if run.before is not None]
    compute_ms = statistics.median(plan.compute_ms for plan in before)
    return Campaign(
        network,
        np.array(
            [before[0].predicted_accuracy, calibration.plan_ms(compute_ms, before[0].hops), 0.0]
        ),
        np.array([before[0].accuracy, statistics.median(plan.latency_ms for plan in before), 0.0]),
        tuple(_case(*key, cell, calibration) for key, cell in cells_of(runs).items()),
        tuple(run.select_ms for run in runs),
    )


def _case(node: str, technique: str, runs: Sequence[Run], calibration: Calibration) -> Case:
    plans = [run.after for run in runs if run.after is not None]
    compute_ms = statistics.median(plan.compute_ms for plan in plans)
    latency_ms = calibration.latency_ms((node, technique), compute_ms, plans[0].hops)
    predicted = [
        plans[0].predicted_accuracy,
        latency_ms,
        calibration.downtime_ms((node, technique), latency_ms),
    ]
    measured = [
        [plan.accuracy, plan.latency_ms, run.downtime_ms]
        for plan, run in zip(plans, runs, strict=True)
    ]
    return Case(node, technique, np.array(predicted), np.array(measured))


class Noise:
    """By how much runs differ from the middle of theirs: all cases of a network together.

    Few runs of each case say little of how far they scatter; all of them say it well. Latency
    scatters in proportion, downtime by milliseconds; what belongs to a run stays together.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        pool = []
        for case in cases:
            count = len(case.measured)
            if count < 2:
                continue
            middle = np.median(case.measured, axis=0)
            # Deviations from the runs' own middle are too small by this much.
            widen = math.sqrt(count / (count - 1))
            off = widen * (case.measured - middle)
            pool.append(np.stack([off[:, 1] / middle[1], off[:, 2]], axis=1))
        self._pool = np.concatenate(pool) if pool else np.zeros((1, 2))
        self._random = np.random.default_rng(0)

    def again(self, case: Case) -> Floats:
        """The middle of the case's runs as it might have come out, ``REPEATS`` rows."""
        count = len(case.measured)
        drawn = self._random.integers(len(self._pool), size=(REPEATS, count))
        off = np.median(self._pool[drawn], axis=1)
        middle = np.tile(np.median(case.measured, axis=0), (REPEATS, 1))
        middle[:, 1] *= 1 + off[:, 0]
        middle[:, 2] += off[:, 1]
        return middle


class Verdicts(NamedTuple):
    """Of every combination of weights at one node: whether it is decided, and the choice the same.

    ``regret``: how much less the choice by predictions scores, by measured values, as a share
    of the range of the node's techniques.
    """

    decided: npt.NDArray[np.bool_]
    same: npt.NDArray[np.bool_]
    regret: Floats


def judge(cases: Sequence[Case], campaign: Campaign, noise: Noise, scaling: Scaling) -> Verdicts:
    """The sweep over the weights for the techniques at one node.

    Where both choices are the same, the instance is decided if that technique beats every
    other one for certain; where they differ, if it beats the one that predictions choose.
    """
    signed = weights() * SIGNS
    predicted = scaling(np.stack([case.predicted for case in cases]), campaign.full_predicted)
    middle = np.stack([np.median(case.measured, axis=0) for case in cases])
    measured = scaling(middle, campaign.full_measured) @ signed.T
    chosen = (predicted @ signed.T).argmax(axis=0)
    best = measured.argmax(axis=0)
    places = np.arange(len(signed))
    again = scaling(np.stack([noise.again(c) for c in cases], axis=1), campaign.full_measured)
    scores = again @ signed.T  # repeat, technique, weights
    ahead = scores[:, best, places][:, None, :] - scores
    surely = np.quantile(ahead, OUTSIDE, axis=0) > 0
    surely[best, places] = True
    same = chosen == best
    decided = np.where(same, surely.all(axis=0), surely[chosen, places])
    span = measured.max(axis=0) - measured.min(axis=0)
    behind = measured[best, places] - measured[chosen, places]
    return Verdicts(decided, same, np.divide(behind, span, out=np.zeros_like(span), where=span > 0))


def table_7(campaign: Campaign, scaling: Scaling = between_extremes) -> dict[str, Any]:
    """Agreement and mean regret over the sweep, in per cent; ties apart."""
    noise = Noise(campaign.cases)
    found = []
    for node in sorted({case.node for case in campaign.cases}):
        cases = [case for case in campaign.cases if case.node == node]
        if len(cases) > 1:  # else there is nothing to choose from
            found.append(judge(cases, campaign, noise, scaling))
    if not found:
        return _row(np.zeros(0, bool), np.zeros(0, bool), np.zeros(0))
    return _row(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _row(
    decided: npt.NDArray[np.bool_], same: npt.NDArray[np.bool_], regret: Floats
) -> dict[str, Any]:
    return {
        "agreement_percent": _percent(same[decided], 2),
        "regret_percent": _percent(regret[decided], 3),
        "instances": int(decided.sum()),
        "ties": int((~decided).sum()),
        "ties_agreement_percent": _percent(same[~decided], 2),
        "ties_regret_percent": _percent(regret[~decided], 3),
        "with_ties_agreement_percent": _percent(same, 2),
    }


def _percent(values: npt.NDArray[Any], digits: int) -> float | None:
    return round(100 * float(values.mean()), digits) if len(values) else None


def table_8(campaign: Campaign) -> dict[str, Any]:
    """Time to retrieve and select, in ms; nulls where it was not recorded."""
    times = sorted(campaign.select_ms)
    if not times:
        return {"p50_ms": None, "p99_ms": None, "n": 0}
    # A value that was measured: with fewer than a hundred, the largest.
    return {
        "p50_ms": round(statistics.median(times), 4),
        "p99_ms": round(times[max(0, -(-99 * len(times) // 100) - 1)], 4),
        "n": len(times),
    }


def evaluate(runs: Sequence[Run]) -> dict[str, Any]:
    """Both tables, schema 1, by network; with what was calibrated, and how far off that is."""
    campaigns, calibrations = campaigns_of(runs)
    return {
        "schema": SCHEMA,
        "table_7": {c.network: table_7(c) for c in campaigns},
        "table_7_as_operated": {c.network: table_7(c, relative_to_full) for c in campaigns},
        "table_8": {c.network: table_8(c) for c in campaigns},
        "calibration": {network: c.report() for network, c in calibrations.items()},
        "passes": {
            use: sorted({run.number for run in runs if run.calibrates == calibrates})
            for use, calibrates in (("calibration", True), ("evaluation", False))
        },
        "errors": {c.network: errors(c) for c in campaigns},
    }


def errors(campaign: Campaign) -> dict[str, Any]:
    """How far predictions are from the measured middle, medians over all cases."""
    pairs = [(case.predicted, np.median(case.measured, axis=0)) for case in campaign.cases]
    off = np.abs([predicted - middle for predicted, middle in pairs])
    latency = np.array([middle[1] for _, middle in pairs])
    return {
        "runs": sum(len(case.measured) for case in campaign.cases),
        "latency_error_percent": round(100 * float(np.median(off[:, 1] / latency)), 2),
        "downtime_error_ms": round(float(np.median(off[:, 2])), 3),
    }
