"""Reading trained weights from an ``.npz`` file and putting them into Keras models.

An array's name is the path of its layer and the name of the variable, for instance
``block06/shortcut/bn/gamma``. A Keras layer cannot have a slash in its name, so a layer
is called ``block06.shortcut.bn`` and the dots stand for the slashes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from continuer.errors import UsageError

Weights = Mapping[str, npt.NDArray[np.float32]]


def load(path: Path) -> Weights:
    """All arrays of the file by name, as float32.

    Raises UsageError when the file is missing or is not an ``.npz`` of plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name].astype(np.float32) for name in archive.files}
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; give the .npz file") from error
    except (ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: not an .npz of plain arrays ({error})") from error


def begin(path: Path, drawn: Weights) -> Weights:
    """The file's arrays, to train on from, in the order of ``drawn``, those of a new run.

    Raises UsageError when the file lacks an array, has another, or one of another shape.
    """
    found = load(path)
    _refuse_unused(set(found) - set(drawn))
    return {name: _array(found, name, array.shape) for name, array in drawn.items()}


def assign(models: Iterable[Any], weights: Weights) -> None:
    """Set every variable of the Keras models from the array of the same name.

    Several models may use one array. Raises UsageError when an array is missing, has
    another shape, or is used by no model: the file then belongs to another network.
    """
    used = set()
    for model in models:
        for layer in model.layers:
            for variable in layer.weights:
                name = f"{layer.name.replace('.', '/')}/{variable.name}"
                used.add(name)
                variable.assign(_array(weights, name, tuple(variable.shape)))
    _refuse_unused(set(weights) - used)


def _refuse_unused(unused: set[str]) -> None:
    if unused:
        raise UsageError(
            f"weights: {len(unused)} arrays belong to no part, the first is {min(unused)!r}; "
            "give the weights of this network"
        )


def _array(weights: Weights, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if name not in weights:
        raise UsageError(f"weights: no array {name!r}; give the weights of this network")
    array = weights[name]
    if array.shape != shape:
        raise UsageError(
            f"weights: {name!r} has shape {array.shape}, the network needs {shape}; "
            "give the weights of this network"
        )
    return array
