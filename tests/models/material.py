"""Weights and images that the tests of networks and training make up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from models.network import Network
from models.ops_shape import initial_weights
from models.train_data import TEST_FILES, TRAIN_FILES, Data

NO_TORCH = 'needs PyTorch: pip install "continuer[train]"'
NO_KERAS = 'needs Keras and TensorFlow: pip install "continuer[models]"'

# Any: savez takes arrays and one flag by keyword.
Arrays = dict[str, Any]


def random_weights(network: Network, seed: int) -> Arrays:
    """Weights in the layout of the .npz, of magnitudes that keep logits small."""
    generator = np.random.default_rng(seed)
    found: Arrays = {}
    for name, array in initial_weights(network, seed).items():
        found[name] = array
        if name.endswith(("moving_variance", "gamma")):
            found[name] = generator.uniform(0.4, 0.9, array.shape).astype(np.float32)
        elif not name.endswith("kernel"):
            found[name] = (0.2 * generator.standard_normal(array.shape)).astype(np.float32)
    return found


def easy_images(count: int, seed: int) -> tuple[Any, Any]:
    """Noise whose brightness tells the class: uint8 (count, 32, 32, 3), labels (count,)."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    noise = generator.integers(0, 60, (count, 32, 32, 3))
    return (noise + 19 * labels[:, None, None, None]).astype(np.uint8), labels.astype(np.int64)


def easy_data(train: int, test: int) -> Data:
    return Data(*easy_images(train, 1), *easy_images(test, 2), form="made up")


def write_binary(directory: Path, per_file: int) -> Data:
    """Files in CIFAR-10's binary format; returns what they hold."""
    directory.mkdir(parents=True)
    data = easy_data(per_file * len(TRAIN_FILES), per_file)
    halves = (
        (TRAIN_FILES, data.train, data.train_labels),
        (TEST_FILES, data.test, data.test_labels),
    )
    for names, pixels, labels in halves:
        planes = pixels.transpose(0, 3, 1, 2).reshape(len(labels), -1)
        records = np.concatenate([labels.astype(np.uint8)[:, None], planes], 1)
        for name, part in zip(names, np.split(records, len(names)), strict=True):
            part.tofile(directory / name)
    return data
