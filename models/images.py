"""Labelled images on disk and in memory.

A set of images is a directory or a ``.zip`` file that holds ``<class>/<name>.jpg``. It
is read interleaved: the first image of each class, then the second of each, so that any
prefix of the set is balanced to within one image a class.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt

from continuer.errors import UsageError

#: CIFAR-10's classes; the index of a class is its label and its place in the logits.
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SIDE = 32

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def read(source: Path) -> tuple[Images, Labels, list[str]]:
    """All images of a directory or ``.zip``, interleaved by class.

    Returns RGB images (N, 32, 32, 3), labels (N,), and names ``<class>/<file>``.
    Raises UsageError when the source is missing, holds no images or foreign ones.
    """
    names = _interleaved(source, _names(source))
    labels = np.array([CLASSES.index(name.partition("/")[0]) for name in names], np.int64)
    return _decode(source, names), labels, names


def _names(source: Path) -> list[str]:
    """Every ``<class>/<file>.jpg`` of the source, sorted."""
    if source.is_dir():
        return sorted(str(p.relative_to(source).as_posix()) for p in source.glob("*/*.jpg"))
    try:
        with zipfile.ZipFile(source) as archive:
            return sorted(name for name in archive.namelist() if name.endswith(".jpg"))
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{source}: {error}; give a directory or .zip of images in class folders"
        ) from error


def _interleaved(source: Path, names: list[str]) -> list[str]:
    folders: dict[str, list[str]] = {label: [] for label in CLASSES}
    for name in names:
        folder = name.partition("/")[0]
        if folder not in folders:
            raise UsageError(f"{source}: {name!r} lies in no class of {', '.join(CLASSES)}")
        folders[folder].append(name)
    mixed = [name for row in zip_longest(*folders.values()) for name in row if name is not None]
    if not mixed:
        raise UsageError(f"{source}: holds no <class>/<name>.jpg; give images in class folders")
    return mixed


def _decode(source: Path, names: list[str]) -> Images:
    if source.is_dir():
        return _pixels({name: (source / name).read_bytes() for name in names})
    try:
        with zipfile.ZipFile(source) as archive:
            return _pixels({name: archive.read(name) for name in names})
    except zipfile.BadZipFile as error:
        raise UsageError(f"{source}: {error}; copy the file again") from error


def _pixels(files: Mapping[str, bytes]) -> Images:
    """The files' images, (N, 32, 32, 3)."""
    try:
        # Imported here: only those who read image files need it.
        from PIL import Image
    except ImportError as error:
        raise UsageError(
            'reading images needs Pillow, which is not installed: pip install "continuer[demo]"'
        ) from error
    pixels = np.empty((len(files), SIDE, SIDE, 3), np.uint8)
    for index, (name, content) in enumerate(files.items()):
        try:
            image = Image.open(io.BytesIO(content)).convert("RGB")
        except OSError as error:
            raise UsageError(f"{name}: not an image ({error}); copy it again") from error
        if image.size != (SIDE, SIDE):
            raise UsageError(f"{name}: {image.size} pixels; images must be {SIDE}x{SIDE}")
        pixels[index] = np.asarray(image)
    return pixels
