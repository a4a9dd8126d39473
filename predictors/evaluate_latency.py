"""Table V: latency of plans as predicted, against what was measured through a running chain.

Calibration comes first and is frozen: by how much parts are slower in a chain than alone, what
calling one costs, what a hop and its bytes cost, and what a client adds, fitted on plans of all
boxes, of this fleet and of others. The plans that are tested, each of one technique after the loss
of one box, take no part in it. As in operation, the drift of the boxes is corrected by what was
measured while all of them were at work, which was before the failure: nothing of the plan that is
predicted is known by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple, TypedDict

import msgspec
import numpy as np
from scipy.optimize import nnls

from continuer.bundle import Bundle
from continuer.placement import Link
from predictors.chain import TECHNIQUES, Measured, Stage
from predictors.plans import Links, PartFigures, predict_plan


class Cell(TypedDict):
    """A cell of Table V; None where nothing was measured.

    ``noise_percent``: by how much two measurements of a plan differ, after drift.
    """

    error_percent: float | None
    noise_percent: float | None


class ComparedPlan(NamedTuple):
    """A plan, and its latency in ms as predicted and as measured, of every pass.

    Predictions differ from pass to pass by the drift of the boxes before the failure.
    """

    technique: str
    failed: str
    predictions_ms: tuple[float, ...]
    passes_ms: tuple[float, ...]

    @property
    def predicted_ms(self) -> float:
        """The middle of all passes."""
        return float(np.median(self.predictions_ms))

    @property
    def measured_ms(self) -> float:
        """The middle of all passes."""
        return float(np.median(self.passes_ms))

    @property
    def ratios(self) -> list[float]:
        """Measured to predicted, of every pass."""
        return [m / p for m, p in zip(self.passes_ms, self.predictions_ms, strict=True)]


class Calibration(NamedTuple):
    """What is fitted before anything is tested.

    ``in_chain``: by how much parts are slower than alone; ``part_ms``: of calling one; ``hop``;
    ``client_ms``: what a client adds to a request.
    """

    in_chain: float
    part_ms: float
    hop: Link
    client_ms: float


def compared_plans(
    entries: Sequence[Measured], bundle: Bundle, latency_us: Sequence[float]
) -> list[ComparedPlan]:
    """Every plan of this bundle that was measured, predicted from its parts' latencies.

    ``latency_us``: of each part on an undelayed box. Empty where the calibration is lacking.
    """
    own = [e for e in entries if e.bundle == bundle.hash.hex() and e.route is not None]
    calibration = calibrate(own, bundle, latency_us)
    if calibration is None:
        return []
    # What answers without a box is planned anew in every session: another route, another plan.
    plans: dict[tuple[str, str, object], list[Measured]] = {}
    for entry in own:
        if entry.technique in TECHNIQUES:
            plans.setdefault((entry.technique, entry.failed, entry.route), []).append(entry)
    return [
        ComparedPlan(
            technique,
            failed,
            tuple(after_drift_ms(entry, bundle, latency_us, calibration) for entry in found),
            tuple(entry.latency_ms for entry in found),
        )
        for (technique, failed, _), found in plans.items()
    ]


def calibrate(
    entries: Sequence[Measured], bundle: Bundle, latency_us: Sequence[float]
) -> Calibration | None:
    """Fit to plans of all boxes, relative errors, no figure negative; None with fewer than four.

    Of an entry that is no calibration, that is the plan before the failure.
    """
    measured: dict[object, list[Measured]] = {}
    for entry in entries:
        if entry.technique == "calibration":
            full = entry
        elif entry.before is not None:
            full = msgspec.structs.replace(entry, route=entry.before, latency_ms=entry.before_ms)
        else:
            continue
        measured.setdefault((full.fleet, full.route), []).append(full)
    if len(measured) < 4:
        return None
    rows = [_terms(found[0], bundle, latency_us) for found in measured.values()]
    middle = np.array([np.median([e.latency_ms for e in found]) for found in measured.values()])
    table = np.array(rows) / middle[:, np.newaxis]
    found = [float(figure) for figure in nnls(table, np.ones(len(middle)))[0]]
    in_chain, part_ms, hop_ms, byte_ms, client_ms = found
    return Calibration(in_chain, part_ms, Link(1e3 * hop_ms, byte_ms), client_ms)


def _terms(entry: Measured, bundle: Bundle, latency_us: Sequence[float]) -> list[float]:
    """What the latency is a sum of: compute in ms, parts, hops, kilobytes on them, one client."""
    assert entry.route is not None
    compute_ms = sum(
        entry.slowdown[node] * latency_us[bundle.part_ids[part]] / 1e3
        for node, parts in entry.route
        for part in parts
    )
    calls = sum(entry.slowdown[node] * len(parts) for node, parts in entry.route)
    if len(entry.route) == 1:
        return [compute_ms, calls, 0.0, 0.0, 1.0]  # the ingress is the only stage
    figures = _figures(entry, bundle, latency_us)
    carried = [figures.input_bytes[bundle.part_ids[parts[0]]] for _, parts in entry.route[1:]]
    answer = figures.output_bytes[bundle.part_ids[entry.route[-1][1][-1]]]
    return [compute_ms, calls, len(entry.route), (sum(carried) + answer) / 1e3, 1.0]


def after_drift_ms(
    entry: Measured, bundle: Bundle, latency_us: Sequence[float], calibration: Calibration
) -> float:
    """Latency of a plan, corrected by what the plan before the failure took."""
    latency_ms = predicted_ms(entry, bundle, latency_us, calibration)
    if entry.before is None:
        return latency_ms
    before = msgspec.structs.replace(entry, route=entry.before)
    return latency_ms * entry.before_ms / predicted_ms(before, bundle, latency_us, calibration)


def predicted_ms(
    entry: Measured, bundle: Bundle, latency_us: Sequence[float], calibration: Calibration
) -> float:
    """Latency of a plan entered at its first box, on boxes that do not drift."""
    assert entry.route is not None
    ingress = entry.route[0][0]
    links = Links(calibration.hop, {(ingress, ingress): Link(0.0)})
    called_us = [calibration.in_chain * us + 1e3 * calibration.part_ms for us in latency_us]
    return calibration.client_ms + predict_plan(
        _numbered(entry.route, bundle), _figures(entry, bundle, called_us), links, ingress=ingress
    )


def _numbered(route: Sequence[Stage], bundle: Bundle) -> list[tuple[str, list[int]]]:
    return [(node, [bundle.part_ids[part] for part in parts]) for node, parts in route]


def _figures(entry: Measured, bundle: Bundle, latency_us: Sequence[float]) -> PartFigures:
    parts = bundle.manifest.parts
    return PartFigures(
        {
            node: tuple(us * slowdown / 1e3 for us in latency_us)
            for node, slowdown in entry.slowdown.items()
        },
        tuple(sum(tensor.nbytes for tensor in part.inputs) for part in parts),
        tuple(sum(tensor.nbytes for tensor in part.outputs) for part in parts),
    )


def table_5(plans: Sequence[ComparedPlan]) -> dict[str, Cell]:
    """The average error and noise of each technique."""
    return {technique: _cell([p for p in plans if p.technique == technique])
            for technique in TECHNIQUES}  # fmt: skip


def _cell(plans: Sequence[ComparedPlan]) -> Cell:
    if not plans:
        return Cell(error_percent=None, noise_percent=None)
    errors = [abs(1 / float(np.median(p.ratios)) - 1) for p in plans]
    apart = [max(pair) / min(pair) - 1 for p in plans for pair in combinations(p.ratios, 2)]
    return Cell(
        error_percent=100 * float(np.mean(errors)),
        noise_percent=100 * float(np.mean(apart)) if apart else None,
    )
