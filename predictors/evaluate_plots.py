"""Plots of measured against predicted: the paper's Figures 7 and 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from predictors.accuracy_eval import PAPER_TECHNIQUES, Material, Predictions
from predictors.evaluate_latency import ComparedPlan

LATENCY_FILE = "predicted-latency.png"
ACCURACY_FILE = "predicted-accuracy.png"
SIZE_INCHES = (8.0, 3.2)


def plot(
    directory: Path,
    plans: Mapping[str, Sequence[ComparedPlan]],
    material: Material,
    predictions: Predictions,
) -> list[Path]:
    """Write what there is something to show of; returns the files."""
    from matplotlib.figure import Figure

    written = []
    shown = {network: found for network, found in plans.items() if found}
    if shown:
        figure = Figure(figsize=(SIZE_INCHES[0], SIZE_INCHES[1] * len(shown)))
        for axes, (network, found) in zip(_rows(figure, len(shown)), shown.items(), strict=True):
            _latency(axes, network, found)
        written.append(_save(figure, directory / LATENCY_FILE))
    networks = sorted(set(material.rows.network[material.final]))
    if networks:
        figure = Figure(figsize=(SIZE_INCHES[0], SIZE_INCHES[1] * len(networks)))
        for axes, network in zip(_rows(figure, len(networks)), networks, strict=True):
            _accuracy(axes, str(network), material, predictions)
        written.append(_save(figure, directory / ACCURACY_FILE))
    return written


def _rows(figure: Any, count: int) -> list[Any]:
    return list(figure.subplots(count, 1, squeeze=False)[:, 0])


def _save(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path


def _latency(axes: Any, network: str, plans: Sequence[ComparedPlan]) -> None:
    """A pair of marks for every plan by box that was killed and technique, the passes' range."""
    boxes = sorted({plan.failed for plan in plans})
    for place, technique in enumerate(PAPER_TECHNIQUES):
        own = [plan for plan in plans if plan.technique == technique]
        # Plans for the same failure beside each other.
        beside = [
            sum(other.failed == plan.failed for other in own[:i]) for i, plan in enumerate(own)
        ]
        x = np.array([boxes.index(plan.failed) for plan in own]) + 0.28 * (place - 1)
        x = x + 0.07 * (np.array(beside) - 1)
        middle = np.array([plan.measured_ms for plan in own])
        low = middle - [min(plan.passes_ms) for plan in own]
        high = [max(plan.passes_ms) for plan in own] - middle
        colour = f"C{place}"
        axes.errorbar(x, middle, [low, high], fmt="o", color=colour, label=f"{technique}, measured")
        axes.plot(x, [p.predicted_ms for p in own], "x", color=colour, label="predicted")
    axes.set_xticks(range(len(boxes)), boxes)
    axes.set(title=network, xlabel="box that failed", ylabel="latency, ms", ylim=(0, None))
    axes.legend(fontsize="x-small", ncols=3)


def _accuracy(axes: Any, network: str, material: Material, predictions: Predictions) -> None:
    """Exits by depth and single skips by block, of the final weights of the best run."""
    rows = material.rows
    best = _best_run(network, material)
    run = material.runs[best]
    chosen = np.flatnonzero(material.final & (rows.run == best))
    points: dict[str, list[tuple[int, float, float]]] = {t: [] for t in PAPER_TECHNIQUES}
    for index in chosen:
        exit_name, skipped = rows.variant[index]
        if exit_name is None and len(skipped) > 1:
            continue
        place = run.exit_depth[exit_name] - 1 if exit_name else 0
        if skipped:
            place = run.blocks.index(skipped[0])
        pair = float(rows.accuracy[index]), float(predictions.split[index])
        points[str(rows.technique[index])].append((place, *pair))
    for place, technique in enumerate(PAPER_TECHNIQUES):
        if not points[technique]:
            continue
        x, measured, predicted = zip(*sorted(points[technique]), strict=True)
        axes.plot(x, measured, "o", color=f"C{place}", label=f"{technique}, measured")
        axes.plot(x, predicted, "x", color=f"C{place}", label="predicted")
    axes.set(
        title=f"{network}, {run.name}", xlabel="block left at, or skipped", ylabel="accuracy, %"
    )
    axes.legend(fontsize="x-small", ncols=3)


def _best_run(network: str, material: Material) -> int:
    rows = material.rows
    full = material.final & (rows.network == network) & (rows.technique == "repartition")
    candidates = np.flatnonzero(full)
    return int(rows.run[candidates[np.argmax(rows.accuracy[candidates])]])
