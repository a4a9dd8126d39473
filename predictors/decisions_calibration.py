"""Latency and downtime as a client sees them, fitted to the calibration half of a campaign.

A coordinator predicts a plan's latency from what nodes measure of their parts, and its downtime
from what the coordinator sees of failovers. A client sees more: its own share, that of the
entrance, and of each hop in a running chain; and of a failover the answer by the new route. First
sums are fitted that hold for every plan; what one technique at one node keeps on differing from
them is taken over as far as it exceeds what the noise of the runs explains.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from predictors.decisions_record import Figures, Run

Key = tuple[str, str]
Cells = dict[Key, list[Run]]
#: The variance of a median is larger than that of a mean by this much.
MEDIAN_OVER_MEAN = math.pi / 2


class Calibration(NamedTuple):
    """What is fitted, to so many ``runs``.

    ``in_chain``: how many times as long as alone blocks take in a running chain. ``switch_ms``:
    by node, and by technique what comes on top, from the node's death to the first answer, less
    what a request takes on the new route. ``slower`` (a factor) and ``later_ms``: what a
    technique at a node has of its own.
    """

    in_chain: float
    hop_ms: float
    client_ms: float
    switch_ms: Mapping[str, float]
    slower: Mapping[Key, float]
    later_ms: Mapping[Key, float]
    runs: int

    def plan_ms(self, compute_ms: float, hops: int) -> float:
        """From the client and back, of any plan over so many nodes."""
        return self.in_chain * compute_ms + self.hop_ms * _crossings(hops) + self.client_ms

    def latency_ms(self, key: Key, compute_ms: float, hops: int) -> float:
        """The same, of the plan that (node, technique) names."""
        return self.slower.get(key, 1.0) * self.plan_ms(compute_ms, hops)

    def downtime_ms(self, key: Key, latency_ms: float) -> float:
        """From the node's death to the first answer by a route of this latency."""
        return sum(self.switch_ms[name] for name in key) + self.later_ms.get(key, 0.0) + latency_ms

    def report(self) -> dict[str, Any]:
        """As the JSON shows it."""
        return {
            "runs": self.runs,
            "in_chain": round(self.in_chain, 3),
            "hop_ms": round(self.hop_ms, 3),
            "client_ms": round(self.client_ms, 3),
            "switch_ms": {of: round(ms, 3) for of, ms in self.switch_ms.items()},
        }


def _crossings(hops: int) -> int:
    """An entrance that is the only stage sends nothing to anybody."""
    return hops if hops > 1 else 0


def cells_of(runs: Sequence[Run]) -> Cells:
    """The runs by node and technique."""
    cells: Cells = {}
    for run in runs:
        cells.setdefault((run.node, run.technique), []).append(run)
    return cells


def calibrate(runs: Sequence[Run]) -> Calibration | None:
    """Fit to runs of one network; None with fewer than four plans."""
    cells = cells_of(runs)
    plans = [[run.after for run in cell if run.after is not None] for cell in cells.values()]
    plans.append([run.before for run in runs if run.before is not None])
    if len(cells) < 3:
        return None
    middle = np.array([statistics.median(plan.latency_ms for plan in group) for group in plans])
    terms = np.array([_terms(group) for group in plans])
    # Relative errors, and no figure negative.
    in_chain, hop_ms, client_ms = nnls(terms / middle[:, None], np.ones(len(middle)))[0]
    found = Calibration(float(in_chain), float(hop_ms), float(client_ms), {}, {}, {}, len(runs))
    ratios = {
        key: [plan.latency_ms / found.plan_ms(plan.compute_ms, plan.hops) - 1 for plan in group]
        for key, group in zip(cells, plans, strict=False)
    }
    found = found._replace(slower={key: 1 + own for key, own in shrunk(ratios).items()})
    before_ms = {
        key: [
            run.downtime_ms - found.latency_ms(key, plan.compute_ms, plan.hops)
            for run, plan in pairs
        ]
        for key, cell in cells.items()
        if (pairs := [(run, run.after) for run in cell if run.after is not None])
    }
    switch_ms = _switch_ms(before_ms)
    later_ms = {
        key: [ms - sum(switch_ms[name] for name in key) for ms in each]
        for key, each in before_ms.items()
    }
    return found._replace(switch_ms=switch_ms, later_ms=shrunk(later_ms))


def _terms(plans: Sequence[Figures]) -> list[float]:
    """What the latency is a sum of: compute, crossings, one client."""
    compute_ms = statistics.median(plan.compute_ms for plan in plans)
    return [compute_ms, _crossings(plans[0].hops), 1.0]


def _switch_ms(before_ms: Mapping[Key, Sequence[float]]) -> dict[str, float]:
    """The share of each node and of each technique: least squares over the middles.

    The shares of the techniques have a mean of 0.
    """
    nodes = sorted({node for node, _ in before_ms})
    techniques = sorted({technique for _, technique in before_ms})
    names = [*nodes, *techniques]
    weights = [math.sqrt(len(each)) for each in before_ms.values()]
    rows = [
        [weight * (name in key) for name in names]
        for key, weight in zip(before_ms, weights, strict=True)
    ]
    wanted = [
        weight * statistics.median(each)
        for weight, each in zip(weights, before_ms.values(), strict=True)
    ]
    found = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
    shift = float(np.mean(found[len(nodes) :]))
    found[: len(nodes)] += shift
    found[len(nodes) :] -= shift
    return dict(zip(names, map(float, found), strict=True))


def shrunk(off: Mapping[Key, Sequence[float]]) -> dict[Key, float]:
    """The middle of each list of deviations, less the nearer it is to what noise explains.

    The variance of the middles beyond that of the noise is taken for real differences; each
    middle counts as far as real differences make up its variance.
    """
    scatter = [np.var(each, ddof=1) for each in off.values() if len(each) > 1]
    if not scatter:
        return dict.fromkeys(off, 0.0)
    noise = MEDIAN_OVER_MEAN * float(np.mean(scatter))
    middles = {key: statistics.median(each) for key, each in off.items()}
    explained = float(np.mean([noise / len(each) for each in off.values()]))
    real = max(0.0, float(np.mean(np.square([*middles.values()]))) - explained)
    return {
        key: middle * real / (real + noise / len(off[key])) if real else 0.0
        for key, middle in middles.items()
    }
