"""Finding bundles and images that installed packages ship, by name.

The shared package imports none of the others: they announce what they have by entry points,
``continuer.bundles`` (a function that returns a directory of bundles) and
``continuer.images`` (a function that returns images, labels and names).
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continuer.bundle import MANIFEST
from continuer.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


def find_bundle(name_or_path: str) -> Path:
    """Directory of a bundle, given its path or the name of a shipped one.

    Raises UsageError that lists the names there are.
    """
    path = Path(name_or_path)
    if (path / MANIFEST).is_file():
        return path.resolve()
    known = shipped_bundles()
    if name_or_path in known:
        return known[name_or_path]
    names = ", ".join(sorted(known)) or "none is installed"
    raise UsageError(
        f"model = {name_or_path!r}: neither a directory with {MANIFEST} nor a shipped model; "
        f"shipped: {names}"
    )


def shipped_bundles() -> dict[str, Path]:
    """Directories of the bundles that installed packages ship, by name."""
    known = {}
    for entry in entry_points(group="continuer.bundles"):
        directory: Path = entry.load()()
        known.update({p.parent.name: p.parent for p in directory.glob(f"*/{MANIFEST}")})
    return known


def find_images(name: str) -> tuple[Array, Array]:
    """Shipped images (uint8, N x height x width x 3) and their class indices (N).

    Raises UsageError that lists the names there are.
    """
    found = {entry.name: entry for entry in entry_points(group="continuer.images")}
    if name not in found:
        raise UsageError(
            f"images = {name!r}: not installed; there are {', '.join(found) or 'none'}"
        )
    images, labels, _ = found[name].load()(name)
    return images, labels
