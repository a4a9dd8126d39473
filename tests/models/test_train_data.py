"""Reading training data in both formats, splitting it, and drawing batches."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from continuer.errors import UsageError
from models import catalog, images
from models.images import CLASSES
from models.train_data import BINARY_FORM, RECORD_BYTES, TEST_FILES, Batches, read, split
from tests.models.material import easy_images, write_binary


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """40 shipped images to train on and 20 to test on, in folders."""
    pytest.importorskip("PIL", reason='needs Pillow: pip install "continuer[train]"')
    source = catalog.images_directory() / "cifar10-test-1000.zip"
    with zipfile.ZipFile(source) as archive:
        for label in CLASSES:
            names = sorted(n for n in archive.namelist() if n.startswith(f"{label}/"))[:6]
            for index, name in enumerate(names):
                path = tmp_path / "data" / ("train" if index < 4 else "test") / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))
    return tmp_path / "data"


def test_folders_are_read_and_kept_decoded(folders: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    data = read(folders, cache)
    assert (data.train.shape, data.test.shape) == ((40, 32, 32, 3), (20, 32, 32, 3))
    assert np.bincount(data.train_labels).tolist() == [4] * 10
    assert data.form == "JPEG quality 75, 4:2:0"
    (kept,) = cache.iterdir()
    written = kept.stat().st_mtime_ns
    again = read(folders, cache)
    assert (again.train == data.train).all()
    assert (again.test_labels == data.test_labels).all()
    assert kept.stat().st_mtime_ns == written


def test_changed_folders_are_decoded_anew(folders: Path, tmp_path: Path) -> None:
    read(folders, tmp_path / "cache")
    next((folders / "train" / "frog").iterdir()).unlink()
    assert len(read(folders, tmp_path / "cache").train) == 39


def test_binary_format_is_read(tmp_path: Path) -> None:
    written = write_binary(tmp_path / "binary", 12)
    data = read(tmp_path / "binary", tmp_path / "cache")
    assert (data.train == written.train).all()
    assert (data.train_labels == written.train_labels).all()
    assert (data.test == written.test).all()
    assert data.form == BINARY_FORM


def test_a_record_of_the_binary_format_is_a_label_and_three_planes(tmp_path: Path) -> None:
    """Byte by byte: the format's own description, and not what wrote the other test's files."""
    directory = tmp_path / "binary"
    write_binary(directory, 12)
    record = bytearray(RECORD_BYTES)
    record[0] = CLASSES.index("ship")
    record[1] = 11  # red, upper left corner
    record[1 + 1024 + 1] = 22  # green, first row, second column
    record[1 + 2 * 1024 + 32] = 33  # blue, second row, first column
    (directory / TEST_FILES[0]).write_bytes(bytes(record))
    data = read(directory, tmp_path / "cache")
    assert data.test_labels.tolist() == [8]
    assert data.test.shape == (1, 32, 32, 3)
    assert data.test[0, 0, 0].tolist() == [11, 0, 0]
    assert data.test[0, 0, 1].tolist() == [0, 22, 0]
    assert data.test[0, 1, 0].tolist() == [0, 0, 33]
    assert data.test.sum() == 11 + 22 + 33


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ({"quality": 90, "subsampling": 0}, "JPEG quality 90, 4:4:4"),
        ({"quality": 40, "subsampling": 2}, "JPEG quality 40, 4:2:0"),
        ({"qtables": [list(range(1, 65))] * 2}, "JPEG with tables of its own, 4:2:0"),
    ],
)
def test_the_form_of_images_is_read_from_them(
    options: dict[str, Any], form: str, folders: Path
) -> None:
    from PIL import Image

    for path in (folders / "train").glob("*/*.jpg"):
        Image.new("RGB", (32, 32)).save(path, "JPEG", **options)
    assert images.form(folders / "train") == form
    Image.new("RGB", (32, 32)).save(folders / "train" / "frog" / "0000.jpg", "PNG")
    assert images.form(folders / "train") == f"{form} and PNG"


def test_data_in_no_known_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: holds neither test_batch\.bin nor"):
        read(tmp_path / "nowhere", tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(UsageError, match=r"give a directory of CIFAR-10"):
        read(tmp_path, tmp_path)


def test_damaged_binary_files_are_named(tmp_path: Path) -> None:
    directory = tmp_path / "binary"
    write_binary(directory, 12)
    batch = directory / "data_batch_3.bin"
    content = batch.read_bytes()
    batch.write_bytes(content[:-1])
    with pytest.raises(UsageError, match=rf"data_batch_3.bin: {len(content) - 1} bytes, not a"):
        read(directory, tmp_path)
    batch.write_bytes(bytes([10]) + content[1:])
    with pytest.raises(UsageError, match="label 10"):
        read(directory, tmp_path)
    batch.unlink()
    with pytest.raises(UsageError, match=r"data_batch_3.bin: No such file"):
        read(directory, tmp_path)
    assert len(content) == 12 * RECORD_BYTES


def test_images_of_another_size_are_refused(folders: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (32, 31)).save(folders / "train" / "frog" / "9999.jpg")
    with pytest.raises(UsageError, match=r"frog/9999.jpg: \(32, 31\) pixels"):
        read(folders, tmp_path / "cache")


def test_split_is_fixed_by_the_seed_and_overlaps_nowhere() -> None:
    train, validation = split(50_000, 7, 1.0)
    assert (len(train), len(validation)) == (45_000, 5_000)
    assert not set(train.tolist()) & set(validation.tolist())
    again = split(50_000, 7, 0.2)
    assert (again[0] == train[:9_000]).all()
    assert (again[1] == validation).all()
    assert (split(50_000, 8, 1.0)[1] != validation).any()


def test_batches_take_every_image_once_and_depend_on_epoch_and_step() -> None:
    pixels, _ = easy_images(60, 1)
    batches = Batches(pixels, np.arange(60), seed=3, size=20)
    assert len(batches) == 3
    first = list(batches.epoch(0))
    taken = np.concatenate([labels for _, _, labels in first])
    assert sorted(taken.tolist()) == list(range(60))
    # From the middle of an epoch on, the same batches come.
    (step, late, labels) = next(batches.epoch(0, 2))
    assert step == 2
    assert (late == first[2][1]).all()
    assert (labels == first[2][2]).all()
    other = np.concatenate([labels for _, _, labels in batches.epoch(1)])
    assert (other != taken).any()


def test_images_are_shifted_and_mirrored_with_reflected_edges() -> None:
    """Each image of a batch is a window of the reflected original, some of them mirrored."""
    pixels = np.random.default_rng(5).integers(0, 256, (32, 32, 32, 3)).astype(np.uint8)
    around = np.pad(pixels, ((0, 0), (4, 4), (4, 4), (0, 0)), "reflect")
    (_, batch, chosen) = next(Batches(pixels, np.arange(32), seed=4, size=32).epoch(0))
    seen = set()
    for image, index in zip(batch, chosen, strict=True):
        found = [
            (row, column, mirror)
            for row in range(9)
            for column in range(9)
            for mirror in (1, -1)
            if (image[:, ::mirror] == around[index, row : row + 32, column : column + 32]).all()
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert {mirror for _, _, mirror in seen} == {1, -1}
    assert len({row for row, _, _ in seen}) > 4
    assert len({column for _, column, _ in seen}) > 4
