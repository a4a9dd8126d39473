"""Labelled images on disk and in memory.

A set of images is a directory or a ``.zip`` file that holds ``<class>/<name>.jpg``. It
is read interleaved: the first image of each class, then the second of each, so that any
prefix of the set is balanced to within one image a class.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from continuer.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

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
#: How much of the colour JPEG files keep, by Pillow's number for it.
CHROMA = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def read(source: Path, limit: int | None = None) -> tuple[Images, Labels, list[str]]:
    """The images of a directory or ``.zip``, the first ``limit`` or all, interleaved by class.

    Returns RGB images (N, 32, 32, 3), labels (N,), and names ``<class>/<file>``.
    Raises UsageError when the source is missing, holds no images or foreign ones.
    """
    names = _interleaved(source, _names(source))[:limit]
    labels = np.array([CLASSES.index(name.partition("/")[0]) for name in names], np.int64)
    return _pixels(_contents(source, names)), labels, names


def form(source: Path) -> str:
    """How the images are stored, such as ``JPEG quality 75, 4:2:0``.

    Judged by the first image of each class; where they differ, all that was found is named.
    Raises UsageError like ``read``.
    """
    names = _interleaved(source, _names(source))[: len(CLASSES)]
    found = {_form(_open(name, content)) for name, content in _contents(source, names).items()}
    return " and ".join(sorted(found))


def _form(image: PILImage) -> str:
    """The form of one image. A quality is the one at which Pillow writes the same tables."""
    tables = _tables(image)
    if tables is None:
        return image.format or "unknown"
    from PIL import JpegImagePlugin

    chroma = CHROMA.get(JpegImagePlugin.get_sampling(image), "other chroma")
    for quality, known in _known_tables(image.mode).items():
        if known == tables:
            return f"JPEG quality {quality}, {chroma}"
    return f"JPEG with tables of its own, {chroma}"


@cache
def _known_tables(mode: str) -> dict[int, dict[int, list[int]] | None]:
    """The tables of each quality, 1 to 100, of an image of the mode."""
    from PIL import Image

    found = {}
    for quality in range(1, 101):
        written = io.BytesIO()
        Image.new(mode, (8, 8)).save(written, "JPEG", quality=quality)
        found[quality] = _tables(Image.open(written))
    return found


def _tables(image: PILImage) -> dict[int, list[int]] | None:
    """How coarsely a JPEG stores each frequency; None for other images."""
    return getattr(image, "quantization", None)


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


def _contents(source: Path, names: list[str]) -> dict[str, bytes]:
    if source.is_dir():
        return {name: (source / name).read_bytes() for name in names}
    try:
        with zipfile.ZipFile(source) as archive:
            return {name: archive.read(name) for name in names}
    except zipfile.BadZipFile as error:
        raise UsageError(f"{source}: {error}; copy the file again") from error


def _pixels(files: Mapping[str, bytes]) -> Images:
    """The files' images, (N, 32, 32, 3)."""
    pixels = np.empty((len(files), SIDE, SIDE, 3), np.uint8)
    for index, (name, content) in enumerate(files.items()):
        image = _open(name, content)
        if image.size != (SIDE, SIDE):
            raise UsageError(f"{name}: {image.size} pixels; images must be {SIDE}x{SIDE}")
        try:
            pixels[index] = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise _no_image(name, error) from error
    return pixels


def _open(name: str, content: bytes) -> PILImage:
    """The image, of which only the head is decoded yet."""
    try:
        # Imported here: only those who read image files need it.
        from PIL import Image
    except ImportError as error:
        raise UsageError(
            'reading images needs Pillow, which is not installed: pip install "continuer[demo]"'
        ) from error
    try:
        return Image.open(io.BytesIO(content))
    except OSError as error:
        raise _no_image(name, error) from error


def _no_image(name: str, error: OSError) -> UsageError:
    return UsageError(f"{name}: not an image ({error}); copy it again")
