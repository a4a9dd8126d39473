"""Files of bundles on this box, by SHA-256: what came over the network, and what is half here.

``objects/`` holds whole files, each named by its SHA-256; ``partial/`` what is being fetched,
under the same names; ``bundles.json`` which bundles they belong to, the latest first. A file is
written aside, checked as a whole and then renamed: an object is right or it is not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from continuer import bundle as bundles
from continuer.bundle import Bundle
from continuer.chunks import digest_of
from continuer.errors import BundleError, ConfigError

# The one that runs and the one before it, to go back to.
BUNDLES_KEPT = 2
INDEX = "bundles.json"


class Store:
    """Raises ConfigError where the directory cannot be used."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._objects = directory / "objects"
        self._partial = directory / "partial"
        try:
            for path in (self._objects, self._partial):
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                "state_dir", str(directory), f"cannot be written: {error.strerror}; give another"
            ) from error

    def find(self, digest: bytes) -> Path | None:
        """The object's file, None where there is none."""
        path = self._objects / digest.hex()
        return path if path.is_file() else None

    def sound(self, digest: bytes) -> bool:
        """The object is there and unaltered; one that is altered is removed."""
        path = self.find(digest)
        try:
            if path is not None and digest_of(path) == digest:
                return True
        except OSError:
            return False
        if path is not None:
            path.unlink(missing_ok=True)
        return False

    def remove(self, digest: bytes) -> None:
        """Do without an object."""
        (self._objects / digest.hex()).unlink(missing_ok=True)

    def partial(self, digest: bytes) -> Path:
        """Where a file is put together; it survives a cut, to be resumed."""
        return self._partial / digest.hex()

    def accept(self, digest: bytes) -> bool:
        """Make an object of what was put together; False where it is wrong."""
        path = self.partial(digest)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        if digest_of(path) != digest:
            return False
        path.replace(self._objects / digest.hex())
        return True

    def bundle(self, digest: bytes) -> Bundle:
        """The bundle whose manifest has this SHA-256 and is here; raises BundleError."""
        path = self.find(digest)
        if path is None or not self.sound(digest):
            raise BundleError(f"{self._objects}: the manifest {digest.hex()[:16]}... is not here")
        return bundles.load_stored(path)

    def keep(self, bundle: Bundle) -> None:
        """Note that this bundle runs here; what the last two do not need is removed."""
        kept = [entry for entry in self._kept() if entry[0] != bundle.hash.hex()]
        kept = [_entry(bundle), *kept][:BUNDLES_KEPT]
        temporary = self._directory / (INDEX + ".new")
        temporary.write_bytes(msgspec.json.encode(kept) + b"\n")
        temporary.replace(self._directory / INDEX)
        self._remove_but(kept)

    def make_room(self, bundle: Bundle) -> None:
        """Remove what neither this bundle, which is to come, nor the last two need."""
        self._remove_but([*self._kept(), _entry(bundle)])

    def _remove_but(self, kept: Iterable[tuple[str, list[str]]]) -> None:
        needed = {name for digest, parts in kept for name in (digest, *parts)}
        _remove_others(self._objects, needed)
        _remove_others(self._partial, needed)

    def _kept(self) -> list[tuple[str, list[str]]]:
        """Bundles and their files, latest first. A damaged index is as good as none."""
        try:
            raw = (self._directory / INDEX).read_bytes()
            return msgspec.json.decode(raw, type=list[tuple[str, list[str]]])
        except (OSError, msgspec.DecodeError, ValueError):
            return []


def _entry(bundle: Bundle) -> tuple[str, list[str]]:
    """A bundle in the index: its hash and its files."""
    return bundle.hash.hex(), [part.sha256 for part in bundle.manifest.parts]


def _remove_others(directory: Path, needed: Iterable[str]) -> None:
    for path in directory.iterdir():
        if path.name not in needed:
            path.unlink(missing_ok=True)
