"""Training data: CIFAR-10 as a folder of images per class, or in its binary format."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from continuer.errors import UsageError
from models import images
from models.images import CLASSES, SIDE, Images, Labels

#: The binary format: a byte of label, then the planes of red, green and blue.
TRAIN_FILES = tuple(f"data_batch_{n}.bin" for n in range(1, 6))
TEST_FILES = ("test_batch.bin",)
RECORD_BYTES = 1 + 3 * SIDE * SIDE
BINARY_FORM = "CIFAR-10 binary, lossless"
#: One in so many training images is kept for validation.
VALIDATION = 10
#: Pixels that are reflected at each edge before an image is cut out again.
PADDING = 4


@dataclass(frozen=True)
class Data:
    """All images, uint8 (N, 32, 32, 3), labels (N,).

    ``form``: how they were stored, such as ``JPEG quality 75, 4:2:0``. An accuracy on one form
    is none on another.
    """

    train: Images
    train_labels: Labels
    test: Images
    test_labels: Labels
    form: str


def read(directory: Path, cache: Path) -> Data:
    """Read a directory of data; decoded images are kept in the directory ``cache``.

    The directory holds ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``, or the files
    of CIFAR-10's binary format. Raises UsageError when it holds neither.
    """
    if (directory / TEST_FILES[0]).is_file():
        train, test = _read_binary(directory, TRAIN_FILES), _read_binary(directory, TEST_FILES)
        return Data(*train, *test, form=BINARY_FORM)
    for half in ("train", "test"):
        if not (directory / half).is_dir():
            raise UsageError(
                f"{directory}: holds neither {TEST_FILES[0]} nor the directories train and test; "
                "give a directory of CIFAR-10's binary files, or one of train/<class>/*.jpg and "
                "test/<class>/*.jpg"
            )
    return Data(*_read_folders(directory, cache), form=images.form(directory / "train"))


def _read_binary(directory: Path, names: tuple[str, ...]) -> tuple[Images, Labels]:
    records = []
    for name in names:
        try:
            content = np.frombuffer((directory / name).read_bytes(), np.uint8)
        except OSError as error:
            raise UsageError(f"{directory / name}: {error.strerror}; copy it again") from error
        if content.size == 0 or content.size % RECORD_BYTES:
            raise UsageError(
                f"{directory / name}: {content.size} bytes, not a multiple of {RECORD_BYTES}; "
                "copy it again"
            )
        records.append(content.reshape(-1, RECORD_BYTES))
    table = np.concatenate(records)
    labels = table[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise UsageError(f"{directory}: label {labels.max()}; CIFAR-10 has {len(CLASSES)} classes")
    planes = table[:, 1:].reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _read_folders(directory: Path, cache: Path) -> tuple[Images, Labels, Images, Labels]:
    """Decode, or take what was decoded before from files unchanged since."""
    path = cache / f"images-{_fingerprint(directory)}.npz"
    if path.is_file():
        with np.load(path) as kept:
            return kept["train"], kept["train_labels"], kept["test"], kept["test_labels"]
    train, train_labels, _ = images.read(directory / "train")
    test, test_labels, _ = images.read(directory / "test")
    cache.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(scratch, train=train, train_labels=train_labels, test=test, test_labels=test_labels)
    scratch.replace(path)
    return train, train_labels, test, test_labels


def _fingerprint(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*/*/*.jpg")):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def split(count: int, seed: int, fraction: float) -> tuple[Labels, Labels]:
    """Indices to train on and indices to validate on, shuffled by the seed.

    A tenth validates; of the rest the first ``fraction`` is trained on. Neither depends
    on the other, so runs that differ in fraction are validated on the same images.
    """
    order = np.random.default_rng([seed, 0]).permutation(count)
    kept = count // VALIDATION
    return order[kept : kept + max(1, round(fraction * (count - kept)))], order[:kept]


class Batches:
    """Batches of training images: each image once an epoch, shifted and mirrored at random.

    What a batch holds depends on seed, epoch and step alone. A last batch that is not full
    is left out, unless it is the only one.
    """

    def __init__(self, pixels: Images, labels: Labels, seed: int, size: int) -> None:
        around = ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0))
        self._padded = np.pad(pixels, around, "reflect")
        self._labels = labels
        self._seed = seed
        self._size = min(size, len(labels))

    def __len__(self) -> int:
        return len(self._labels) // self._size

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[int, Images, Labels]]:
        """Steps of an epoch from ``first`` on: number, images (n, 32, 32, 3), labels (n,)."""
        order = np.random.default_rng([self._seed, 1, epoch]).permutation(len(self._labels))
        windows = np.lib.stride_tricks.sliding_window_view(self._padded, (SIDE, SIDE), axis=(1, 2))
        for step in range(first, len(self)):
            chosen = order[step * self._size : (step + 1) * self._size]
            generator = np.random.default_rng([self._seed, 2, epoch, step])
            rows, columns = generator.integers(0, 2 * PADDING + 1, (2, len(chosen)))
            batch = windows[chosen, rows, columns].transpose(0, 2, 3, 1)
            mirrored = generator.random(len(chosen)) < 0.5
            batch[mirrored] = batch[mirrored, :, ::-1]
            yield step, batch, self._labels[chosen]
