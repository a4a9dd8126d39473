"""What a training run writes: checkpoint, metrics, weight statistics. Each survives a kill.

A file is written beside its place and then renamed into it. Metrics and statistics of an
epoch are written before its checkpoint; when a run goes on from an older checkpoint, it
drops what lies beyond.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from continuer.errors import UsageError

Arrays = Mapping[str, npt.NDArray[np.float32]]

CHECKPOINT = "checkpoint.npz"
METRICS = "metrics.jsonl"
STATISTICS = "statistics.npz"
WEIGHTS = "weights.npz"
RESULT = "result.json"
PERCENTILES = (0, 25, 50, 75, 100)


@dataclass
class State:
    """Where a run stands: ``step`` of ``epoch`` comes next; sums over the epoch so far."""

    weights: Arrays
    momenta: Arrays
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    skip_weights: dict[str, float] | None = None


def save_state(directory: Path, state: State) -> None:
    """Replace the checkpoint."""
    place = {k: v for k, v in vars(state).items() if k not in ("weights", "momenta")}
    arrays: dict[str, Any] = {f"weights/{name}": array for name, array in state.weights.items()}
    arrays |= {f"momenta/{name}": array for name, array in state.momenta.items()}
    save_arrays(directory / CHECKPOINT, {**arrays, "state": np.array(json.dumps(place))})


def load_state(directory: Path) -> State | None:
    """The checkpoint; None when there is none. Raises UsageError when it is damaged."""
    path = directory / CHECKPOINT
    try:
        with np.load(path, allow_pickle=False) as archive:
            groups: dict[str, dict[str, npt.NDArray[np.float32]]] = {"weights": {}, "momenta": {}}
            for name in archive.files:
                group, _, rest = name.partition("/")
                if rest:
                    groups[group][rest] = archive[name]
            place: dict[str, Any] = json.loads(str(archive["state"]))
            return State(groups["weights"], groups["momenta"], **place)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: not a checkpoint ({error}); delete it to start again") from error


def save_arrays(path: Path, arrays: Mapping[str, Any], *, compress: bool = False) -> None:
    """Write an ``.npz`` in one move."""
    scratch = path.with_name(f".{path.name}")
    with scratch.open("wb") as file:
        (np.savez_compressed if compress else np.savez)(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def save_json(path: Path, value: object) -> None:
    """Write a JSON file in one move."""
    scratch = path.with_name(f".{path.name}")
    scratch.write_text(json.dumps(value, indent=1) + "\n")
    scratch.replace(path)


class History:
    """Metrics and weight statistics, a row an epoch.

    ``metrics.jsonl`` has one JSON object a line. ``statistics.npz`` has ``parameters``
    (JSON: the training parameters), ``names`` (A,) of arrays, and ``values`` (epochs, A,
    7): mean, variance and percentiles 0, 25, 50, 75 and 100 of each array after the epoch.
    """

    def __init__(self, directory: Path, parameters: Mapping[str, object], epochs: int) -> None:
        """Go on after ``epochs`` rows; later ones are dropped."""
        self._directory = directory
        self._parameters = json.dumps(parameters)
        self.rows: list[dict[str, Any]] = []
        self._values: list[npt.NDArray[np.float32]] = []
        if epochs:
            lines = (directory / METRICS).read_text().splitlines()
            self.rows = [json.loads(line) for line in lines[:epochs]]
            with np.load(directory / STATISTICS, allow_pickle=False) as archive:
                self._values = list(archive["values"][:epochs])

    def add(self, row: Mapping[str, Any], weights: Arrays) -> None:
        """Append an epoch to both files."""
        self.rows.append(dict(row))
        self._values.append(np.stack([_statistics(array) for array in weights.values()]))
        scratch = self._directory / f".{METRICS}"
        scratch.write_text("".join(json.dumps(each) + "\n" for each in self.rows))
        scratch.replace(self._directory / METRICS)
        table = {
            "parameters": np.array(self._parameters),
            "names": np.array(list(weights)),
            "values": np.stack(self._values),
        }
        save_arrays(self._directory / STATISTICS, table, compress=True)


def _statistics(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    percentiles = np.percentile(array, PERCENTILES)
    return np.array([array.mean(), array.var(), *percentiles], np.float32)
