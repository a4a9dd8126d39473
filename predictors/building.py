"""Building a table: every part's latency on every kind of box, every variant's accuracy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from continuer.bundle import Bundle
from continuer.errors import UsageError
from continuer.table import SCHEMA, NodeKind, PredictedAccuracy, Provenance, Table
from predictors import profile as profiles
from predictors.accuracy import AccuracyModel
from predictors.accuracy_eval import Material, held_out_runs, held_out_split, model_predictor
from predictors.accuracy_runs import Floats, Run
from predictors.extract import extract_block
from predictors.features import technique_of
from predictors.latency import LatencyModel

#: Programs whose versions a table names.
PROGRAMS = ("continuer", "ai-edge-litert", "lightgbm", "xgboost-cpu")
CONFIDENCE_PERCENT = 95
#: With fewer residuals of a technique than this, those of all techniques bound it.
ENOUGH = 20

Way = tuple[str | None, tuple[str, ...]]


@dataclass(frozen=True)
class Kind:
    """A kind of box: its latency model, and how many times slower than that it is."""

    model: LatencyModel
    slowdown: float = 1.0


def latency_model(file: Path) -> LatencyModel:
    """The model learned from a profile. Raises ProfileError for one that is no use."""
    return LatencyModel.fit(profiles.load(file))


def build_table(
    bundle: Bundle, kinds: Mapping[str, Kind], nodes: Mapping[str, str], accuracy: Accuracies | None
) -> Table:
    """A table for a bundle and a fleet; ``nodes`` names each node's kind, ``*`` any other's.

    Raises UsageError for unknown kinds, LatencyError for operators that a profile has not.
    """
    for node, kind in nodes.items():
        if kind not in kinds:
            raise UsageError(
                f"--node {node}={kind}: no profile is given for {kind!r}; there are "
                f"{', '.join(kinds) or 'none'}"
            )
    note = "" if accuracy else "no training run has this bundle's weights: accuracies as measured"
    return Table(
        schema=SCHEMA,
        bundle=bundle.hash,
        model=bundle.name,
        kinds=_node_kinds(bundle, kinds),
        nodes=dict(nodes),
        accuracies=tuple(accuracy.of(bundle)) if accuracy else (),
        provenance=Provenance(
            built=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            versions=_versions(),
            runs={run.name: run.digest() for run in accuracy.runs} if accuracy else {},
            weights=accuracy.weights.name if accuracy else None,
            interval_from=accuracy.interval_from if accuracy else "",
            note=note,
        ),
    )


def _node_kinds(bundle: Bundle, kinds: Mapping[str, Kind]) -> dict[str, NodeKind]:
    """Parts are read once, and each model is asked once, however many kinds go by it."""
    blocks = [
        extract_block(bundle.file_of(name).read_bytes(), f"part {name!r}")
        for name in (bundle.parts if kinds else ())
    ]
    predicted_ms: dict[str, list[float]] = {}
    found = {}
    for name, kind in kinds.items():
        model = kind.model
        if model.profile_hash not in predicted_ms:
            predicted_ms[model.profile_hash] = model.predict_blocks(blocks)
        found[name] = NodeKind(
            latency_us=tuple(1e3 * ms * kind.slowdown for ms in predicted_ms[model.profile_hash]),
            cpu=model.machine.cpu,
            profile=model.profile_hash,
            slowdown=kind.slowdown,
        )
    return found


def _versions() -> dict[str, str]:
    found = {}
    for name in PROGRAMS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # another distribution of the same module
    return found


def run_of(bundle: Bundle, runs: Sequence[Run], wanted: str | None) -> Run | None:
    """The run whose weights the bundle has: the one named, else the one of its recipe.

    None where nothing is named and no recipe fits. Raises UsageError where the named run is not
    there or is of another network.
    """
    if wanted is not None:
        named = [run for run in runs if run.name == wanted]
        if not named:
            raise UsageError(
                f"--weights {wanted}: no such run; there are {', '.join(r.name for r in runs)}"
            )
        _check_network(bundle, named[0])
        return named[0]
    recipe = bundle.manifest.recipe
    if recipe is None:
        return None
    for run in runs:
        shared = recipe.keys() & run.recipe.keys()
        if shared and all(recipe[key] == run.recipe[key] for key in shared):
            _check_network(bundle, run)
            return run
    return None


def _check_network(bundle: Bundle, run: Run) -> None:
    blocks = bundle.manifest.blocks
    exits = {b.exit: place for place, b in enumerate(blocks, 1) if b.exit is not None}
    if bundle.block_names != run.blocks or exits != run.exit_depth:
        raise UsageError(
            f"run {run.name!r} is of {run.network!r}, whose blocks and exits are not those of "
            f"{bundle.name!r}; name the run that the bundle was built from with --weights"
        )


class Accuracies:
    """Predicts the accuracy of every variant of a bundle, with bounds.

    ``weights``: the run whose final weights the bundle has. Where it is one of ``runs``,
    bounds come from rows that were left out of the others; else from whole runs left out.
    """

    def __init__(self, runs: Sequence[Run], weights: Run) -> None:
        self.runs = runs
        self.weights = weights
        material = Material.of(runs)
        predictor = model_predictor(material.encoder)
        known = any(run.name == weights.name for run in runs)
        self.interval_from = "rows left out" if known else "runs left out"
        held_out = held_out_split if known else held_out_runs
        chosen = material.deployable & (material.rows.network == weights.network)
        residuals = np.abs(held_out(material, predictor) - material.rows.accuracy)
        chosen &= np.isfinite(residuals)
        if not chosen.any():
            raise UsageError(
                f"run {weights.name!r}: no other run of {weights.network!r} to say how far "
                "predictions are off; add one to --runs"
            )
        self._residuals = residuals[chosen]
        self._techniques = material.rows.technique[chosen]
        self._longest_skip = max(len(skipped) for _, skipped in material.rows.variant)
        self._model = AccuracyModel.fit_rows(material.encoder, material.rows)

    def of(self, bundle: Bundle) -> Iterator[PredictedAccuracy]:
        """Every variant: full, exits, and runs of skipped blocks as long as were ever measured."""
        ways = list(variants(bundle, self._longest_skip))
        found: Floats = self._model.predict(self.weights, len(self.weights.epochs) - 1, ways)
        for (exit_name, skipped), percent in zip(ways, found, strict=True):
            reach = self._reach(technique_of(exit_name, skipped))
            low, high = max(0.0, percent - reach), min(100.0, percent + reach)
            yield PredictedAccuracy(
                exit_name, skipped, *(float(p) / 100 for p in (percent, low, high))
            )

    def _reach(self, technique: str) -> float:
        """How far a prediction may be off, in percentage points."""
        own = self._residuals[self._techniques == technique]
        return float(
            np.percentile(own if len(own) >= ENOUGH else self._residuals, CONFIDENCE_PERCENT)
        )


def variants(bundle: Bundle, longest_skip: int) -> Iterator[Way]:
    """(exit, skipped): full, every exit, every run of skippable blocks up to this length."""
    blocks = bundle.manifest.blocks
    yield None, ()
    yield from ((block.exit, ()) for block in blocks if block.exit is not None)
    for length in range(1, longest_skip + 1):
        for start in range(len(blocks) - length + 1):
            run = blocks[start : start + length]
            if all(block.skippable for block in run):
                yield None, tuple(block.part for block in run)
