"""Table V: latency of plans as predicted, against what was measured through a running chain.

Calibration comes first and is frozen: by how much parts are slower in a chain than alone, what a
hop and its bytes cost, and what a client adds, fitted on full plans over other fleets. The plans
that are tested, each of one technique after the loss of one box, take no part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from scipy.optimize import nnls

from continuer.bundle import Bundle
from continuer.placement import Link
from predictors.chain import TECHNIQUES, Measured, Stage
from predictors.plans import Links, PartFigures, predict_plan


class Cell(TypedDict):
    """A cell of Table V; None where nothing was measured.

    ``noise_percent``: by how much two measurements of a plan differ.
    """

    error_percent: float | None
    noise_percent: float | None


class ComparedPlan(NamedTuple):
    """A plan, and its latency in ms as predicted and in every pass."""

    technique: str
    failed: str
    predicted_ms: float
    passes_ms: tuple[float, ...]

    @property
    def measured_ms(self) -> float:
        """The middle of all passes."""
        return float(np.median(self.passes_ms))


class Calibration(NamedTuple):
    """What is fitted before anything is tested."""

    in_chain: float
    hop: Link
    client_ms: float


def compared_plans(
    entries: Sequence[Measured], bundle: Bundle, latency_us: Sequence[float]
) -> list[ComparedPlan]:
    """Every plan of this bundle that was measured, predicted from its parts' latencies.

    ``latency_us``: of each part on an undelayed box. Empty where the calibration is lacking.
    """
    own = [e for e in entries if e.bundle == bundle.hash.hex() and e.route is not None]
    calibration = calibrate([e for e in own if e.technique == "calibration"], bundle, latency_us)
    if calibration is None:
        return []
    plans: dict[tuple[str, str], list[Measured]] = {}
    for entry in own:
        if entry.technique in TECHNIQUES:
            plans.setdefault((entry.technique, entry.failed), []).append(entry)
    return [
        ComparedPlan(
            technique,
            failed,
            predicted_ms(found[0], bundle, latency_us, calibration),
            tuple(entry.latency_ms for entry in found),
        )
        for (technique, failed), found in plans.items()
    ]


def calibrate(
    entries: Sequence[Measured], bundle: Bundle, latency_us: Sequence[float]
) -> Calibration | None:
    """Fit to calibration plans, relative errors, no figure negative; None with fewer than four."""
    measured: dict[tuple[float, ...], list[Measured]] = {}
    for entry in entries:
        measured.setdefault(entry.fleet, []).append(entry)
    if len(measured) < 4:
        return None
    rows = [_terms(found[0], bundle, latency_us) for found in measured.values()]
    middle = np.array([np.median([e.latency_ms for e in found]) for found in measured.values()])
    table = np.array(rows) / middle[:, np.newaxis]
    in_chain, hop_ms, byte_ms, client_ms = nnls(table, np.ones(len(middle)))[0]
    return Calibration(float(in_chain), Link(1e3 * float(hop_ms), float(byte_ms)), float(client_ms))


def _terms(entry: Measured, bundle: Bundle, latency_us: Sequence[float]) -> list[float]:
    """What the latency is a sum of: compute in ms, hops, kilobytes on them, one client."""
    assert entry.route is not None
    compute_ms = sum(
        entry.slowdown[node] * latency_us[bundle.part_ids[part]] / 1e3
        for node, parts in entry.route
        for part in parts
    )
    if len(entry.route) == 1:
        return [compute_ms, 0.0, 0.0, 1.0]  # the ingress is the only stage
    figures = _figures(entry, bundle, latency_us)
    carried = [figures.input_bytes[bundle.part_ids[parts[0]]] for _, parts in entry.route[1:]]
    answer = figures.output_bytes[bundle.part_ids[entry.route[-1][1][-1]]]
    return [compute_ms, len(entry.route), (sum(carried) + answer) / 1e3, 1.0]


def predicted_ms(
    entry: Measured, bundle: Bundle, latency_us: Sequence[float], calibration: Calibration
) -> float:
    """Latency of a plan entered at its first box."""
    assert entry.route is not None
    ingress = entry.route[0][0]
    links = Links(calibration.hop, {(ingress, ingress): Link(0.0)})
    nodes = [node for node, _ in entry.route]
    return calibration.client_ms + predict_plan(
        _numbered(entry.route, bundle),
        _figures(entry, bundle, latency_us),
        links,
        ingress=ingress,
        factors=dict.fromkeys(nodes, calibration.in_chain),
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
    errors = [abs(p.predicted_ms - p.measured_ms) / p.measured_ms for p in plans]
    apart = [
        (max(p.passes_ms) - min(p.passes_ms)) / min(p.passes_ms)
        for p in plans
        if len(p.passes_ms) > 1
    ]
    return Cell(
        error_percent=100 * float(np.mean(errors)),
        noise_percent=100 * float(np.mean(apart)) if apart else None,
    )
