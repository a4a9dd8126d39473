"""Training runs as ``continuer model train`` leaves them: what the accuracy model learns from.

A run is a directory with ``recipe.json``, ``metrics.jsonl`` (a line an epoch) and
``statistics.npz`` (mean, variance and percentiles 0, 25, 50, 75, 100 of every array of
weights after each epoch). Parts are told from the arrays' names, which begin with the part:
``block06/conv1/conv/kernel``. A run that has ended also has ``result.json``: the accuracies of
its final weights on the test images, which are more, and of more variants. They stand in for
what was measured on the validation images after the last epoch.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from continuer.bundle import Variant
from continuer.errors import UsageError

METRICS = "metrics.jsonl"
STATISTICS = "statistics.npz"
RECIPE = "recipe.json"
RESULT = "result.json"
STATISTIC_COUNT = 7

Floats = npt.NDArray[np.float64]


class Epoch(msgspec.Struct, frozen=True):
    """One line of ``metrics.jsonl``. ``frozen``: normalisation no longer adapts.

    ``validation``: right answers per variant on the validation images; of the last epoch of
    a run that has ended, on the test images.
    """

    epoch: int
    frozen: bool
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation: tuple[Variant, ...]


@dataclass(frozen=True)
class Run:
    """One training run. ``statistics``: (epochs, arrays, 7); ``parameters``: of Table III."""

    directory: Path
    parameters: Mapping[str, Any]
    recipe: Mapping[str, Any]
    arrays: tuple[str, ...]
    statistics: Floats
    epochs: tuple[Epoch, ...]

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.directory.name

    @property
    def network(self) -> str:
        """Name of the network that was trained."""
        return str(self.parameters["dnn_architecture"])

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Parts that have weights, in the network's order; a head comes after its block."""
        return tuple(dict.fromkeys(array.partition("/")[0] for array in self.arrays))

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """The chain from stem to head."""
        return tuple(part for part in self.parts if not part.startswith(("exit", "bypass")))

    @cached_property
    def exit_depth(self) -> dict[str, int]:
        """How many blocks run before each exit."""
        depth, found = 0, {}
        for part in self.parts:
            if part in self.blocks:
                depth += 1
            elif part.startswith("exit"):
                found[part] = depth
        return found

    def deployable(self, index: int) -> bool:
        """The epoch leaves weights that one would deploy: statistics frozen, or the last."""
        return self.epochs[index].frozen or index == len(self.epochs) - 1

    def digest(self) -> str:
        """SHA-256 over the files that the model learns from."""
        hasher = hashlib.sha256()
        for name in (RECIPE, METRICS, STATISTICS, RESULT):
            path = self.directory / name
            hasher.update(path.read_bytes() if path.exists() else b"")
        return hasher.hexdigest()


def find_runs(directory: Path) -> list[Run]:
    """All runs in a directory, by name. Raises UsageError where there is none, or one is bad."""
    found = sorted(path.parent for path in directory.glob(f"*/{METRICS}"))
    if not found:
        raise UsageError(
            f"--runs {directory}: no training run in it (a directory with {METRICS}); make one "
            "with 'continuer model train'"
        )
    return [load_run(path) for path in found]


def load_run(directory: Path) -> Run:
    """Read and check one run. Raises UsageError naming the file and what is wrong."""
    recipe = _read_json(directory / RECIPE)
    epochs = _read_metrics(directory / METRICS)
    arrays, statistics, parameters = _read_statistics(directory / STATISTICS)
    if len(epochs) != len(statistics):
        raise UsageError(
            f"{directory}: {METRICS} has {len(epochs)} epochs, {STATISTICS} {len(statistics)}; "
            "the run was copied while it went on, copy it again"
        )
    run = Run(directory, parameters, recipe, arrays, statistics, _with_result(directory, epochs))
    _check(run)
    return run


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; copy the run again") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}; copy the run again") from error


def _read_metrics(path: Path) -> tuple[Epoch, ...]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; copy the run again") from error
    epochs = []
    for number, line in enumerate(lines, 1):
        try:
            # By way of json: it reads NaN, which training writes when it diverges, and which
            # is worth another message than "malformed".
            epochs.append(msgspec.convert(json.loads(line), Epoch))
        except (ValueError, msgspec.ValidationError) as error:
            raise UsageError(f"{path}, line {number}: {error}; copy the run again") from error
    if not epochs:
        raise UsageError(f"{path}: no epoch in it; let the run go on, or remove it")
    return tuple(epochs)


def _with_result(directory: Path, epochs: tuple[Epoch, ...]) -> tuple[Epoch, ...]:
    """The epochs, the last of them with what was measured on the test images."""
    path = directory / RESULT
    if not path.exists():
        return epochs
    try:
        test = msgspec.convert(_read_json(path).get("test"), tuple[Variant, ...])
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: test: {error}; copy the run again") from error
    return (*epochs[:-1], msgspec.structs.replace(epochs[-1], validation=test))


def _read_statistics(path: Path) -> tuple[tuple[str, ...], Floats, dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = tuple(str(name) for name in archive["names"])
            values = archive["values"].astype(np.float64)
            parameters = json.loads(str(archive["parameters"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: not statistics ({error}); copy the run again") from error
    if values.shape[1:] != (len(arrays), STATISTIC_COUNT):
        raise UsageError(
            f"{path}: values of shape {values.shape} for {len(arrays)} arrays; copy the run again"
        )
    return arrays, values, parameters


def _check(run: Run) -> None:
    """What the types cannot say: finite numbers, parameters there, variants that exist."""
    path = run.directory
    if "dnn_architecture" not in run.parameters:
        raise UsageError(f"{path / STATISTICS}: no parameter dnn_architecture; train it anew")
    bad = np.argwhere(~np.isfinite(run.statistics))
    if len(bad):
        epoch, array, _ = bad[0]
        raise UsageError(
            f"{path / STATISTICS}: {run.arrays[array]} is not finite after epoch {epoch + 1}; "
            "the run diverged, leave it out"
        )
    for epoch in run.epochs:
        for name in ("learning_rate", "train_loss", "train_accuracy"):
            value = getattr(epoch, name)
            if not math.isfinite(value):
                raise UsageError(
                    f"{path / METRICS}: {name} = {value} in epoch {epoch.epoch}; the run "
                    "diverged, leave it out"
                )
        for variant in epoch.validation:
            _check_variant(run, epoch, variant)


def _check_variant(run: Run, epoch: Epoch, variant: Variant) -> None:
    unknown = set(variant.skipped) - set(run.blocks)
    if variant.exit is not None and variant.exit not in run.exit_depth:
        unknown.add(variant.exit)
    if unknown or not 0 <= variant.correct <= variant.total or variant.total < 1:
        raise UsageError(
            f"{run.directory / METRICS}: epoch {epoch.epoch} has {variant.correct} of "
            f"{variant.total} for exit {variant.exit}, skipped {list(variant.skipped)}; "
            "copy the run again"
        )


def path_arrays(run: Run, exit_name: str | None, skipped: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which arrays the variant's path uses: (arrays,).

    A skipped block leaves its bypass: the part of that number, or its own shortcut.
    """
    depth = run.exit_depth[exit_name] if exit_name else len(run.blocks)
    ran = set(run.blocks[:depth]) - set(skipped)
    used = {*ran, *(block.replace("block", "bypass") for block in skipped)}
    if exit_name:
        used.add(exit_name)
    shortcuts = tuple(f"{block}/shortcut/" for block in skipped)
    return np.array(
        [
            array.partition("/")[0] in used or (bool(shortcuts) and array.startswith(shortcuts))
            for array in run.arrays
        ]
    )
