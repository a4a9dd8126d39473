"""What the tests of the shipped bundle share."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from continuer.bundle import Bundle, load
from continuer.client import preprocess
from models import catalog, images


@pytest.fixture(scope="session")
def shipped() -> Bundle:
    """The committed ResNet-32 bundle."""
    return load(catalog.bundle_directory("resnet32-cifar10"))


@pytest.fixture
def copied(shipped: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle's directory, to be damaged."""
    return Path(shutil.copytree(shipped.directory, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def prepared(shipped: Bundle) -> tuple[npt.NDArray[np.float32], images.Labels]:
    """The 1,000 shipped images as network input (1000, 32, 32, 3), and their labels."""
    pixels, labels, _ = catalog.load_images("cifar10-test-1000")
    preprocessing = shipped.manifest.input.preprocessing
    assert preprocessing is not None
    return preprocess(pixels, preprocessing), labels
