"""The paper's tables, ours beside them: what predictions are off by, and what noise leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from continuer import bundle as bundles
from continuer.bundle import Bundle
from continuer.catalog import find_bundle
from continuer.errors import ModelError, UsageError
from predictors import accuracy_eval, chain
from predictors.accuracy_eval import Material, Predictions
from predictors.accuracy_runs import Run
from predictors.evaluate_latency import ComparedPlan, compared_plans, table_5
from predictors.extract import extract_block
from predictors.latency import LatencyError, LatencyModel
from predictors.latency_eval import latency_table
from predictors.operators import PAPER_TYPES
from predictors.profile import Profile

NETWORKS = ("resnet32-cifar10", "mobilenetv2-cifar10")
TECHNIQUES = accuracy_eval.PAPER_TECHNIQUES


@dataclass
class Evaluation:
    """``report``: as ``--json`` prints it. The rest is what plots are made of.

    ``unpredicted``: networks whose latency the profile cannot tell, and why.
    """

    report: dict[str, Any]
    plans: dict[str, list[ComparedPlan]] = field(default_factory=dict)
    unpredicted: dict[str, str] = field(default_factory=dict)
    material: Material | None = None
    predictions: Predictions | None = None


def evaluate(
    profile: Profile | None, runs: Sequence[Run], chain_file: Path | None, *, measured: bool
) -> Evaluation:
    """Evaluate everything that there is material for; what was not measured is None.

    ``measured``: use measured values where there are some, as decisions do, instead of
    predictions alone: part latencies as the bundle was built, and accuracies as tested.
    """
    found = Evaluation({"schema": 1})
    found.report["table_2"] = table_2(profile)
    found.report["table_5"] = _table_5(found, profile, chain_file, measured=measured)
    _accuracy(found, runs, measured=measured)
    return found


def table_2(profile: Profile | None) -> dict[str, Any]:
    """Table II of a profile; without one every cell is None."""
    if profile is not None:
        return dict(latency_table(profile))
    empty = dict.fromkeys(("r2", "mse_ms2", "median_error_percent", "r2_unseen", "noise_percent"))
    return {kind: {**empty, "reason": "no profile"} for kind in (*PAPER_TYPES, "dropout")}


def _table_5(
    found: Evaluation, profile: Profile | None, chain_file: Path | None, *, measured: bool
) -> dict[str, Any]:
    entries = chain.read(chain_file) if chain_file is not None else []
    model = LatencyModel.fit(profile) if profile is not None and entries else None
    table = {}
    for network in NETWORKS:
        bundle = bundle_of(network)
        plans: list[ComparedPlan] = []
        if bundle is not None and entries and (measured or model is not None):
            try:
                latency_us = _latencies(bundle, model, measured=measured)
            except (LatencyError, ModelError) as error:
                found.unpredicted[network] = str(error)
            else:
                plans = compared_plans(entries, bundle, latency_us)
        found.plans[network] = plans
        table[network] = table_5(plans)
    return table


def bundle_of(name: str) -> Bundle | None:
    """The shipped bundle of this name; None where there is none."""
    try:
        return bundles.load(find_bundle(name))
    except UsageError:
        return None  # not shipped


def _latencies(bundle: Bundle, model: LatencyModel | None, *, measured: bool) -> Sequence[float]:
    if measured or model is None:
        return bundle.built_latency_us
    blocks = [extract_block(bundle.file_of(p).read_bytes(), f"part {p!r}") for p in bundle.parts]
    return [1e3 * ms for ms in model.predict_blocks(blocks)]


def _accuracy(found: Evaluation, runs: Sequence[Run], *, measured: bool) -> None:
    """Table VI, the accuracy model, and what it is compared with."""
    material = Material.of(runs)
    model = accuracy_eval.model_predictor(material.encoder)
    blind = accuracy_eval.model_predictor(material.encoder, training_figures=False)
    predictions = accuracy_eval.predict(material, model)
    whole = accuracy_eval.describe(material, predictions)
    found.material, found.predictions = material, predictions
    cells = accuracy_eval.table_6(material, predictions)
    none = dict.fromkeys(("error_percent", "error_percent_unseen_runs"))
    found.report["table_6"] = {
        name: {technique: _used(cells, name, technique, none, measured) for technique in TECHNIQUES}
        for name in NETWORKS
    }
    found.report["accuracy_model"] = {
        "r2": whole["split"]["r2"],
        "mse": whole["split"]["mse"],
        "r2_unseen_runs": whole["unseen_runs"]["r2"],
    }
    found.report["details"] = {
        "values": "measured where there are some" if measured else "predictions alone",
        "latency_not_predicted": found.unpredicted,
        "training_runs": {run.name: len(run.epochs) for run in runs},
        "table_6_noise_percent": {
            _named(network): noise
            for network, noise in accuracy_eval.table_6_noise(material).items()
        },
        "accuracy_model": whole,
        "without_training_figures": accuracy_eval.describe(
            material, accuracy_eval.predict(material, blind)
        ),
        "mean_of_variant": accuracy_eval.describe(
            material, accuracy_eval.predict(material, accuracy_eval.mean_predictor)
        ),
        "shuffled_labels_r2": accuracy_eval.shuffled_r2(material),
    }


def _used(
    cells: Mapping[str, Mapping[str, Any]],
    name: str,
    technique: str,
    none: dict[str, Any],
    measured: bool,
) -> dict[str, Any]:
    """A cell of Table VI. What was measured and is used as such has no error to speak of."""
    cell = dict(cells.get(_network(name), {}).get(technique, none))
    if measured and cell["error_percent"] is not None:
        cell["error_percent"] = 0.0
    return cell


def _network(name: str) -> str:
    return name.removesuffix("-cifar10")


def _named(network: str) -> str:
    return f"{network}-cifar10"
