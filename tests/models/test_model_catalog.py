"""Finding shipped bundles and reading images."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from continuer.errors import UsageError
from models import catalog, images


def picture(side: int, value: int) -> bytes:
    """A JPEG of one grey."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_shipped_bundle_is_found() -> None:
    assert catalog.bundle_names() == [
        "mobilenetv2-cifar10",
        "mobilenetv2-cifar10-int8",
        "resnet32-cifar10",
        "resnet32-cifar10-int8",
    ]
    directory = catalog.bundle_directory("resnet32-cifar10")
    assert directory.parent == catalog.bundles_directory()
    assert (directory / "manifest.json").is_file()


@pytest.mark.parametrize("name", ["resnet33", "", "..", "../bundles/resnet32-cifar10"])
def test_unknown_bundle(name: str) -> None:
    with pytest.raises(
        UsageError, match=re.escape(f"shipped models: {', '.join(catalog.bundle_names())}")
    ) as caught:
        catalog.bundle_directory(name)
    assert repr(name) in str(caught.value)


def test_shipped_images_are_balanced() -> None:
    pixels, labels, names = catalog.load_images("cifar10-test-1000")
    assert pixels.shape == (1000, 32, 32, 3)
    assert pixels.dtype == np.uint8
    assert labels.dtype == np.int64
    assert labels[:20].tolist() == [*range(10), *range(10)]
    assert np.bincount(labels).tolist() == [100] * 10
    assert len(set(names)) == 1000
    assert names[:2] == ["airplane/0000.jpg", "automobile/0000.jpg"]
    # Decoded colours, not noise: a ship's and a frog's mean colour differ.
    assert pixels[labels == 8].mean((0, 1, 2))[2] > pixels[labels == 6].mean((0, 1, 2))[2] + 20


def test_shipped_images_are_as_the_readme_says() -> None:
    path = catalog.images_directory() / "cifar10-test-1000.zip"
    with zipfile.ZipFile(path) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {Path(name).stem for name in archive.namelist()} == {
            f"{n:04}" for n in range(0, 1000, 10)
        }
    readme = (catalog.images_directory() / "README.md").read_text()
    assert path.name in readme
    assert "Krizhevsky" in readme


def test_directory_and_zip_read_alike(tmp_path: Path) -> None:
    """Also of unequal classes: the longer one fills the end."""
    files = {"cat/1.jpg": 10, "cat/2.jpg": 90, "airplane/9.jpg": 200}
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, value in files.items():
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / name).write_bytes(picture(32, value))
            archive.writestr(name, picture(32, value))
    for source in (tmp_path / "set", tmp_path / "set.zip"):
        pixels, labels, names = catalog.load_images(source)
        assert names == ["airplane/9.jpg", "cat/1.jpg", "cat/2.jpg"]
        assert labels.tolist() == [0, 3, 3]
        assert [round(float(image.mean()), -1) for image in pixels] == [200, 10, 90]


def test_unknown_images() -> None:
    with pytest.raises(UsageError, match="shipped sets: cifar10-test-1000"):
        catalog.load_images("imagenet")


def test_zip_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"a\.zip"):
        catalog.load_images(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("zebra/1.jpg", picture(32, 0), "lies in no class"),
        ("cat/1.jpg", picture(16, 0), r"\(16, 16\) pixels"),
        ("cat/1.jpg", b"nothing", "not an image"),
        ("cat/1.txt", b"nothing", "holds no"),
    ],
)
def test_foreign_files(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, content)
    with pytest.raises(UsageError, match=problem):
        catalog.load_images(tmp_path / "a.zip")


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError, match=r"continuer\[demo\]"):
        catalog.load_images("cifar10-test-1000")


def test_classes_match_the_bundle() -> None:
    from continuer.bundle import load

    bundle = load(catalog.bundle_directory("resnet32-cifar10"))
    assert bundle.manifest.classes == images.CLASSES
