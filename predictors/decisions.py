"""Are the choices those that measured values would have made? Tables VII and VIII of the paper.

The paper's Table VII (section IV-C): for every node that may fail and every combination of
the three weights from 0.1 to 0.9 in steps of 0.1, the technique that predicted accuracy,
latency and downtime choose is compared with the one that measured values choose. Where two
techniques are so near that the measured values themselves would choose now this one, now
that one, the instance is a tie and listed apart. Table VIII: how long it takes to retrieve
what is predicted and to select.

Both tables use what a campaign recorded (``python -m bench.decisions``): each technique was
forced at each failing node of a real chain, several times.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from continuer.errors import UsageError
from continuer.objectives import Metrics, Objectives, score

SCHEMA = 1
#: Weights of the sweep.
STEPS = tuple(round(0.1 * step, 1) for step in range(1, 10))


class Case(msgspec.Struct, frozen=True):
    """A technique at a failing node: what was predicted, and what was measured, run by run."""

    node: str
    technique: str
    predicted: Metrics
    measured: tuple[Metrics, ...]

    @property
    def middle(self) -> Metrics:
        """The medians of the runs."""
        return Metrics(
            *(
                statistics.median(getattr(run, field) for run in self.measured)
                for field in Metrics.__struct_fields__
            )
        )


class Campaign(msgspec.Struct, frozen=True):
    """What was recorded of one network. ``full``: of the plan before any failure.

    ``select_ms``: from the coordinator's judgement that a node has failed to its choice, which
    is a look-up of what was prepared; one figure a run.
    """

    network: str
    full: Case
    cases: tuple[Case, ...]
    select_ms: tuple[float, ...] = ()


class Recorded(msgspec.Struct, frozen=True):
    """The file: schema 1."""

    schema: int
    campaigns: tuple[Campaign, ...]


def load(path: Path) -> Recorded:
    """Read a recorded campaign; raises UsageError where it is none."""
    try:
        recorded = msgspec.json.decode(path.read_bytes(), type=Recorded)
    except OSError as error:
        raise UsageError(f"--measured {path}: {error.strerror}; record it first") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"--measured {path}: not a recorded campaign ({error})") from error
    if recorded.schema != SCHEMA:
        raise UsageError(
            f"--measured {path}: schema {recorded.schema}; this version reads {SCHEMA}"
        )
    for campaign in recorded.campaigns:
        if not all(case.measured for case in (campaign.full, *campaign.cases)):
            raise UsageError(f"--measured {path}: a case of {campaign.network} has no run")
    return recorded


def weights() -> Iterator[Objectives]:
    """Every combination of the sweep."""
    for accuracy, latency, downtime in itertools.product(STEPS, repeat=3):
        yield Objectives(weight_accuracy=accuracy, weight_latency=latency, weight_downtime=downtime)


def choose(objectives: Objectives, cases: Sequence[Case], full: Case) -> tuple[Case, Case, float]:
    """What predictions choose, what measured values choose, and how much less the former scores.

    Scores are the planner's own (``continuer.objectives.score``) without thresholds.
    """
    predicted = max(cases, key=lambda c: score(objectives, c.predicted, full.predicted))
    measured = max(cases, key=lambda c: score(objectives, c.middle, full.middle))
    best, chosen = (score(objectives, c.middle, full.middle) for c in (measured, predicted))
    return predicted, measured, best - chosen


def is_tie(objectives: Objectives, one: Case, other: Case, full: Case) -> bool:
    """Whether the runs of two techniques overlap in score: measuring again may turn them."""
    ranges = []
    for case in (one, other):
        scores = [score(objectives, run, full.middle) for run in case.measured]
        ranges.append((min(scores), max(scores)))
    (low, high), (other_low, other_high) = ranges
    return low <= other_high and other_low <= high


def table_7(campaign: Campaign) -> dict[str, Any]:
    """Agreement and regret over the sweep, in per cent; ties apart.

    Regret is relative to the range of measured scores among the techniques of the instance.
    """
    nodes = sorted({case.node for case in campaign.cases})
    agreed = differed = ties = 0
    regrets = []
    for node in nodes:
        cases = [case for case in campaign.cases if case.node == node]
        if len(cases) < 2:
            continue  # nothing to choose from
        for objectives in weights():
            predicted, measured, regret = choose(objectives, cases, campaign.full)
            if predicted == measured:
                agreed += 1
                regrets.append(0.0)
                continue
            regrets.append(100 * regret / spread(objectives, cases, campaign.full))
            if is_tie(objectives, predicted, measured, campaign.full):
                ties += 1
            else:
                differed += 1
    decided = agreed + differed
    return {
        "agreement_percent": round(100 * agreed / decided, 2) if decided else None,
        "regret_percent": round(statistics.mean(regrets), 3) if regrets else None,
        "instances": agreed + differed + ties,
        "ties": ties,
    }


def spread(objectives: Objectives, cases: Sequence[Case], full: Case) -> float:
    """Between the best and the worst technique, by measured values."""
    scores = [score(objectives, case.middle, full.middle) for case in cases]
    return max(scores) - min(scores)


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


def evaluate(recorded: Recorded) -> dict[str, Any]:
    """Both tables, schema 1, by network."""
    return {
        "schema": 1,
        "table_7": {c.network: table_7(c) for c in recorded.campaigns},
        "table_8": {c.network: table_8(c) for c in recorded.campaigns},
    }
