"""The store on a box: what is in it is right, and no more than two bundles stay."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from continuer import bundle as bundles
from continuer.bundle import MANIFEST, Bundle, Manifest
from continuer.errors import BundleError, ConfigError
from continuer.store import BUNDLES_KEPT, Store
from tests.unit.harness import BUNDLE

CONTENT = bytes(range(256)) * 5
DIGEST = hashlib.sha256(CONTENT).digest()


def put(store: Store, content: bytes) -> bytes:
    """Put a file in, as fetching it does."""
    digest = hashlib.sha256(content).digest()
    store.partial(digest).write_bytes(content)
    assert store.accept(digest)
    return digest


def with_bundle(store: Store, version: str) -> Bundle:
    """The shipped bundle under another version, wholly in the store."""
    manifest = msgspec.structs.replace(BUNDLE.manifest, version=version)
    digest = put(store, msgspec.json.encode(manifest))
    for part in manifest.parts:
        put(store, (BUNDLE.directory / part.file).read_bytes())
    return store.bundle(digest)


def test_a_file_is_found_by_its_hash(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find(DIGEST) is None
    assert put(store, CONTENT) == DIGEST
    found = store.find(DIGEST)
    assert found is not None
    assert found.read_bytes() == CONTENT
    assert Store(tmp_path).find(DIGEST) == found


@pytest.mark.parametrize("wrong", [b"", CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"?"])
def test_what_is_wrong_as_a_whole_is_not_taken_in(tmp_path: Path, wrong: bytes) -> None:
    store = Store(tmp_path)
    store.partial(DIGEST).write_bytes(wrong)
    assert not store.accept(DIGEST)
    assert store.find(DIGEST) is None
    assert store.partial(DIGEST).exists()  # to be mended


@pytest.mark.parametrize("altered", [b"", CONTENT[:-1], CONTENT[:-1] + b"?"])
def test_an_object_that_was_altered_since_is_removed(tmp_path: Path, altered: bytes) -> None:
    store = Store(tmp_path)
    put(store, CONTENT)
    assert store.sound(DIGEST)
    path = store.find(DIGEST)
    assert path is not None
    path.write_bytes(altered)
    assert not store.sound(DIGEST)
    assert store.find(DIGEST) is None


def test_a_bundle_in_the_store_is_the_one_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = with_bundle(store, "7")
    found.verify_files()
    assert found.manifest.version == "7"
    assert found.files[found.hash] == store.find(found.hash)
    name = found.part_names[3]
    assert found.file_of(name).read_bytes() == BUNDLE.file_of(name).read_bytes()


def test_without_its_manifest_a_bundle_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="manifest"):
        Store(tmp_path).bundle(DIGEST)


def test_the_last_two_bundles_are_kept_and_no_more(tmp_path: Path) -> None:
    assert BUNDLES_KEPT == 2
    store = Store(tmp_path)
    stray = put(store, CONTENT)
    found = []
    for version in ("1", "2", "3"):
        bundle = with_bundle(store, version)
        store.keep(bundle)
        found.append(bundle)
    assert store.find(found[0].hash) is None
    assert store.find(stray) is None
    for bundle in found[1:]:
        store.bundle(bundle.hash).verify_files()


def test_going_back_to_the_bundle_before_keeps_both(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = with_bundle(store, "1")
    store.keep(first)
    second = with_bundle(store, "2")
    for bundle in (second, first, first):
        store.keep(bundle)
    assert store.find(first.hash)
    assert store.find(second.hash)


def test_half_fetched_files_of_the_running_bundle_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bundle = with_bundle(store, "1")
    needed = bytes.fromhex(bundle.manifest.parts[0].sha256)
    store.partial(needed).write_bytes(b"half")
    store.partial(DIGEST).write_bytes(b"of another bundle")
    store.keep(bundle)
    assert store.partial(needed).exists()
    assert not store.partial(DIGEST).exists()


def test_a_damaged_index_costs_only_the_bundle_before(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep(with_bundle(store, "1"))
    (tmp_path / "bundles.json").write_text("{")
    second = with_bundle(store, "2")
    store.keep(second)
    store.bundle(second.hash).verify_files()


def test_a_directory_that_cannot_be_made_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="state_dir"):
        Store(tmp_path / "file")


def test_a_manifest_whose_hashes_are_paths_is_refused(tmp_path: Path) -> None:
    (part, *others) = BUNDLE.manifest.parts
    climbing = msgspec.structs.replace(part, sha256="../../etc/passwd")
    manifest: Manifest = msgspec.structs.replace(BUNDLE.manifest, parts=(climbing, *others))
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(BundleError, match="sha256"):
        bundles.load(tmp_path)
