"""The coordinator's bundles: how files come in, and which bundle is in force after a restart."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from continuer import bundle as bundles
from continuer.bundle import Bundle
from continuer.catalog import find_bundle
from continuer.chunks import CHUNK_BYTES
from continuer.errors import ConfigError, UsageError
from continuer.security import signing
from continuer.store import Store
from continuer.wire import Ask, Tell
from coordinator.intake import Intake
from coordinator.library import FILE, STORE, Library
from tests.unit.harness import BUNDLE

OTHER = bundles.load(find_bundle("mobilenetv2-cifar10"))
SIGNATURE = b"s" * 64
PATIENCE_S = 20


class Desk:
    """An intake and who brings files."""

    def __init__(self, state: Path, configured: Bundle = BUNDLE) -> None:
        self.library = Library(configured, state)
        self.running = False
        self._intake = Intake(self.library, lambda: self.running)

    def ask(self, verb: str, **arguments: Any) -> Tell:
        return self._intake._answer(Ask(verb, arguments))

    def begin(self, bundle: Bundle, nbytes: int | None = None) -> dict[str, int]:
        """Missing files, and how much of each is here."""
        size = bundle.files[bundle.hash].stat().st_size if nbytes is None else nbytes
        told = self.ask("deploy.begin", bundle=bundle.hash.hex(), bytes=size)
        assert not told.error, told.error
        return {file["sha256"]: file["have"] for file in told.data["missing"]}

    def bring(self, digest: str, content: bytes, have: int = 0) -> Tell:
        """A file in pieces; the last answer."""
        told = Tell({"have": have})
        while not told.error and told.data["have"] < len(content):
            have = told.data["have"]
            piece = content[have : have + CHUNK_BYTES]
            told = self.ask("deploy.put", sha256=digest, offset=have, data=piece)
        return told

    def bring_all(self, bundle: Bundle) -> Bundle:
        """All of a bundle, as the operator's command does it."""
        while missing := self.begin(bundle):
            for digest, have in missing.items():
                content = bundle.files[bytes.fromhex(digest)].read_bytes()
                assert not self.bring(digest, content, have).error
        return self.library.find(bundle.hash)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_bundle_that_was_brought_is_found_whole(desk: Desk) -> None:
    found = desk.bring_all(OTHER)
    found.verify_files()
    assert found.hash == OTHER.hash
    assert desk.library.file_of(OTHER.hash) == found.files[OTHER.hash]


def test_the_manifest_comes_first_and_says_what_else_is_missing(desk: Desk) -> None:
    assert desk.begin(OTHER) == {OTHER.hash.hex(): 0}
    desk.bring(OTHER.hash.hex(), OTHER.files[OTHER.hash].read_bytes())
    assert desk.begin(OTHER).keys() == {part.sha256 for part in OTHER.manifest.parts}


def test_a_file_that_was_cut_off_is_gone_on_with(desk: Desk, tmp_path: Path) -> None:
    desk.begin(OTHER)
    desk.bring(OTHER.hash.hex(), OTHER.files[OTHER.hash].read_bytes())
    part = max(OTHER.manifest.parts, key=lambda part: part.bytes)
    content = OTHER.file_of(part.name).read_bytes()
    assert len(content) > CHUNK_BYTES
    desk.begin(OTHER)
    first = desk.ask("deploy.put", sha256=part.sha256, offset=0, data=content[:CHUNK_BYTES])
    assert first.data == {"have": CHUNK_BYTES}
    later = Desk(tmp_path)  # the coordinator has another life, too
    assert later.begin(OTHER)[part.sha256] == CHUNK_BYTES
    again = later.ask("deploy.put", sha256=part.sha256, offset=0, data=content[:CHUNK_BYTES])
    assert again.data == {"have": CHUNK_BYTES}  # and nothing was written twice
    assert not later.bring(part.sha256, content, CHUNK_BYTES).error
    assert part.sha256 not in later.begin(OTHER)


def test_a_file_that_is_another_one_is_refused_and_forgotten(desk: Desk) -> None:
    desk.begin(OTHER)
    manifest = OTHER.files[OTHER.hash].read_bytes()
    told = desk.bring(OTHER.hash.hex(), manifest[:-2] + b"??")
    assert "another file" in told.error
    assert desk.begin(OTHER) == {OTHER.hash.hex(): 0}


def test_a_manifest_that_is_none_is_refused_and_forgotten(desk: Desk) -> None:
    content = b'{"schema": 1}'
    digest = hashlib.sha256(content).hexdigest()
    arguments = {"bundle": digest, "bytes": len(content)}
    desk.ask("deploy.begin", **arguments)
    assert not desk.bring(digest, content).error
    assert "manifest is damaged" in desk.ask("deploy.begin", **arguments).error
    assert desk.ask("deploy.begin", **arguments).data["missing"][0]["have"] == 0


def test_what_the_bundle_in_force_has_too_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    manifest = msgspec.structs.replace(BUNDLE.manifest, version="2")
    for part in manifest.parts:
        (tmp_path / "new" / part.file).write_bytes(BUNDLE.file_of(part.name).read_bytes())
    bundle = bundles.dump(manifest, tmp_path / "new")
    desk = Desk(tmp_path / "state")
    desk.begin(bundle)
    desk.bring(bundle.hash.hex(), bundle.files[bundle.hash].read_bytes())
    assert desk.begin(bundle) == {}
    desk.library.find(bundle.hash).verify_files()


@pytest.mark.parametrize(
    ("verb", "arguments", "said"),
    [
        ("deploy.begin", {"bundle": "x", "bytes": 1}, "SHA-256"),
        ("deploy.begin", {"bundle": None, "bytes": 1}, "SHA-256"),
        ("deploy.begin", {"bundle": "00" * 32, "bytes": 1 << 40}, "bytes = "),
        ("deploy.begin", {"bundle": "00" * 32, "bytes": "1"}, "bytes = "),
        ("deploy.put", {"sha256": "00" * 32, "offset": 0, "data": b"x"}, "not asked for"),
        ("deploy.put", {"sha256": "11" * 32, "offset": 0, "data": "x"}, "data: give"),
        ("deploy.put", {"sha256": "11" * 32, "offset": 0, "data": b""}, "data: give"),
    ],
)
def test_nonsense_is_refused_with_what_to_give(
    desk: Desk, verb: str, arguments: dict[str, Any], said: str
) -> None:
    desk.ask("deploy.begin", bundle="11" * 32, bytes=10)
    assert said in desk.ask(verb, **arguments).error


def test_while_a_deployment_runs_its_files_stay(desk: Desk) -> None:
    desk.bring_all(OTHER)
    desk.running = True
    assert "under way" in desk.ask("deploy.begin", bundle="11" * 32, bytes=10).error
    desk.library.find(OTHER.hash).verify_files()


def test_without_a_state_dir_nothing_can_be_brought() -> None:
    library = Library(BUNDLE, None)
    with pytest.raises(UsageError, match="state_dir"):
        _ = library.store


# --- across restarts -------------------------------------------------------------------------


def deployed(state: Path) -> Library:
    """A library in whose last life the other bundle was put in force."""
    desk = Desk(state)
    desk.library.serve()
    desk.library.remember(desk.bring_all(OTHER), SIGNATURE)
    return Library(BUNDLE, state)


def test_what_was_deployed_is_served_after_a_restart(tmp_path: Path) -> None:
    library = deployed(tmp_path)
    bundle, (said,) = library.serve()
    assert bundle.hash == OTHER.hash
    assert (said.name, said.fields["bundle"]) == ("bundle_remembered", OTHER.name)
    assert library.signature == SIGNATURE


def test_the_bundle_before_can_be_gone_back_to_and_forth(tmp_path: Path) -> None:
    library = deployed(tmp_path)
    library.serve()
    bundle, signature = library.previous()
    assert (bundle.hash, signature) == (BUNDLE.hash, signing.signature_of(BUNDLE.directory))
    library.remember(bundle, signature)
    again = Library(BUNDLE, tmp_path)
    assert again.serve() == (BUNDLE, [])
    assert again.previous()[0].hash == OTHER.hash
    assert again.previous()[1] == SIGNATURE


def test_nothing_was_deployed_so_there_is_no_way_back(tmp_path: Path) -> None:
    library = Library(BUNDLE, tmp_path)
    assert library.serve() == (BUNDLE, [])
    with pytest.raises(UsageError, match="no bundle was deployed"):
        library.previous()


def test_a_bundle_that_is_configured_later_is_the_newer_order(tmp_path: Path) -> None:
    deployed(tmp_path)
    (tmp_path / "new").mkdir()
    manifest = msgspec.structs.replace(BUNDLE.manifest, version="2")
    configured = bundles.dump(manifest, tmp_path / "new")
    library = Library(configured, tmp_path)
    bundle, (said,) = library.serve()
    assert bundle.hash == configured.hash
    assert said.name == "bundle_forgotten"
    assert library.previous()[0].hash == OTHER.hash


def test_a_bundle_of_which_a_file_is_gone_is_not_served(tmp_path: Path) -> None:
    library = deployed(tmp_path)
    Store(tmp_path / STORE).remove(bytes.fromhex(OTHER.parts["block03"].sha256))
    bundle, (said,) = library.serve()
    assert bundle.hash == BUNDLE.hash
    assert "'block03'" in said.fields["problem"]


def test_a_damaged_record_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"{")
    with pytest.raises(ConfigError, match="repair or remove it"):
        Library(BUNDLE, tmp_path)
