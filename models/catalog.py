"""The bundles and images that are installed with this package. Needs no TensorFlow."""

from __future__ import annotations

from pathlib import Path

from continuer.bundle import MANIFEST
from continuer.errors import UsageError
from models.images import Images, Labels, read

_HERE = Path(__file__).resolve().parent


def bundles_directory() -> Path:
    """The directory that holds one directory per shipped bundle."""
    return _HERE / "bundles"


def bundle_names() -> list[str]:
    """Names of the shipped bundles, sorted."""
    return sorted(path.parent.name for path in bundles_directory().glob(f"*/{MANIFEST}"))


def bundle_directory(name: str) -> Path:
    """Directory of the shipped bundle; raises UsageError when there is none of the name."""
    if name not in bundle_names():
        raise UsageError(
            f"unknown model {name!r}; shipped models: {', '.join(bundle_names()) or 'none'}"
        )
    return bundles_directory() / name


def images_directory() -> Path:
    """The directory that holds the shipped images, one ``.zip`` per set."""
    return _HERE / "images"


def image_names() -> list[str]:
    """Names of the shipped sets of images, sorted."""
    return sorted(path.stem for path in images_directory().glob("*.zip"))


def load_images(name_or_path: str | Path) -> tuple[Images, Labels, list[str]]:
    """A shipped set of images by name, or any ``.zip`` or directory of class folders.

    Returns RGB uint8 images (N, 32, 32, 3), int64 labels (N,) that index
    ``models.images.CLASSES``, and names ``<class>/<file>``. Classes alternate, so a
    prefix is balanced. Raises UsageError when there is no such set or no Pillow.
    """
    if name_or_path in image_names():
        return read(images_directory() / f"{name_or_path}.zip")
    if not Path(name_or_path).exists():
        raise UsageError(
            f"no images {str(name_or_path)!r}; give a .zip or directory of class folders, "
            f"or one of the shipped sets: {', '.join(image_names()) or 'none'}"
        )
    return read(Path(name_or_path))
