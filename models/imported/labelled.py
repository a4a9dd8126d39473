"""Labelled images of any classes and sizes: a folder per class, split for fitting and testing.

Three sets that share no image: *fit* trains heads and corrections, *choice* decides which
corrections are kept, *test* gives the accuracies that go into the manifest.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt

from continuer.errors import UsageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
#: Of a directory without train/ and test/, so much is for testing; of the rest, for choosing.
TEST_SHARE = 0.3
CHOICE_SHARE = 0.2

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Wanted:
    """What the model takes (height, width, channels), and how many images at most."""

    shape: tuple[int, int, int]
    train: int
    test: int
    seed: int


@dataclass(frozen=True)
class Split:
    """Images (N, height, width, channels) and the index of each one's class."""

    pixels: Pixels
    labels: Labels


@dataclass(frozen=True)
class Labelled:
    """The three sets, and the classes that the labels index."""

    classes: tuple[str, ...]
    fit: Split
    choice: Split
    test: Split


def read(directory: Path, classes: Sequence[str], wanted: Wanted) -> Labelled:
    """Read ``<class>/<image>``, or ``train/`` and ``test/`` of these; resizes what does not fit.

    ``classes``: the model's, in the order of its outputs; where it has none, the folders' names
    in alphabetical order. Raises UsageError for a directory that does not hold enough.
    """
    halves = [directory / "train", directory / "test"]
    if all(half.is_dir() for half in halves):
        train, test = (_files(half, wanted.seed) for half in halves)
    else:
        train, test = _divide(_files(directory, wanted.seed), 1 - TEST_SHARE)
    fit, choice = _divide(train, 1 - CHOICE_SHARE)
    known = tuple(classes or sorted(train))
    foreign = sorted((set(train) | set(test)) - set(known))
    if foreign:
        raise UsageError(
            f"{directory}: {foreign[0]!r} is no class of the model; it has {', '.join(known)}"
        )
    share = round(wanted.train * CHOICE_SHARE)
    return Labelled(
        known,
        _read(fit, known, wanted.train - share, wanted),
        _read(choice, known, share, wanted),
        _read(test, known, wanted.test, wanted),
    )


def _files(directory: Path, seed: int) -> dict[str, list[Path]]:
    """Image files per class, shuffled."""
    found: dict[str, list[Path]] = {}
    if not directory.is_dir():
        raise UsageError(f"--data {directory}: not a directory; give one with a folder per class")
    for folder in sorted(path for path in directory.iterdir() if path.is_dir()):
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        random.Random(seed).shuffle(files)  # noqa: S311  # an order, not a secret
        if files:
            found[folder.name] = files
    if len(found) < 2:
        raise UsageError(f"--data {directory}: holds no images in folders of two or more classes")
    return found


def _divide(
    files: Mapping[str, list[Path]], share: float
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The first part of each class, and what is left."""
    at = {name: round(share * len(paths)) for name, paths in files.items()}
    return (
        {name: paths[: at[name]] for name, paths in files.items()},
        {name: paths[at[name] :] for name, paths in files.items()},
    )


def _read(
    files: Mapping[str, list[Path]], classes: Sequence[str], limit: int, wanted: Wanted
) -> Split:
    """Decode up to ``limit`` images, an equal number of each class as far as they go."""
    rows = zip_longest(*([(name, path) for path in paths] for name, paths in files.items()))
    chosen = [pair for row in rows for pair in row if pair is not None][:limit]
    if not chosen:
        raise UsageError("--data: too few images to fit, choose and test with; give more")
    height, width, channels = wanted.shape
    pixels = np.empty((len(chosen), height, width, channels), np.uint8)
    for index, (_, path) in enumerate(chosen):
        pixels[index] = _decode(path, wanted.shape)
    labels = np.array([classes.index(name) for name, _ in chosen], np.int64)
    return Split(pixels, labels)


def _decode(path: Path, shape: tuple[int, int, int]) -> Pixels:
    try:
        # Imported here: only those who read image files need it.
        from PIL import Image
    except ImportError as error:
        raise UsageError(
            'reading images needs Pillow, which is not installed: pip install "continuer[demo]"'
        ) from error
    height, width, channels = shape
    try:
        image = Image.open(path).convert("RGB" if channels == 3 else "L")
    except OSError as error:
        raise UsageError(f"{path}: not an image ({error}); remove it or copy it again") from error
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(shape)
