"""Signed bundles: what nobody trusted has signed does not run where keys are used."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from continuer import bundle as bundles
from continuer import config
from continuer.bundle import Bundle
from continuer.catalog import find_bundle
from continuer.config import AgentConfig
from continuer.errors import BundleError, ConfigError, UsageError
from continuer.runtime import load_part
from continuer.security import access, keys, signing
from continuer.security.access import Access


class Silent:
    def emit(self, name: str, /, **fields: Any) -> None:
        pass


@pytest.fixture
def copied(tmp_path: Path) -> Bundle:
    shutil.copytree(find_bundle("resnet32-cifar10"), tmp_path / "bundle")
    return bundles.load(tmp_path / "bundle")


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[None]:
    access.install(Access(keys.make(), (), tmp_path, Silent()))
    yield
    access.install(None)


def settings(**values: Any) -> AgentConfig:
    raw = {"node": "n1", "bundle": "b", "coordinator": "tcp://127.0.0.1:7400", **values}
    return config.parse(raw, AgentConfig)


def test_a_signature_is_good_for_the_key_that_made_it(copied: Bundle, tmp_path: Path) -> None:
    public = signing.new_key(tmp_path / "one.pem")
    other = signing.new_key(tmp_path / "two.pem")
    assert signing.sign(copied, tmp_path / "one.pem") == public
    signature = signing.signature_of(copied.directory)
    signing.check(copied, signature, (public,))
    signing.check(copied, signature, (other, public))
    with pytest.raises(BundleError, match="nobody whom this box trusts"):
        signing.check(copied, signature, (other,))
    with pytest.raises(BundleError, match="not signed"):
        signing.check(copied, b"", (public,))
    assert (tmp_path / "one.pem").stat().st_mode & 0o777 == 0o600


def test_another_manifest_is_another_bundle(copied: Bundle, tmp_path: Path) -> None:
    public = signing.new_key(tmp_path / "key.pem")
    signing.sign(copied, tmp_path / "key.pem")
    manifest = copied.directory / bundles.MANIFEST
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    altered = bundles.load(copied.directory)
    with pytest.raises(BundleError, match="nobody whom this box trusts"):
        signing.check(altered, signing.signature_of(altered.directory), (public,))


@pytest.mark.parametrize("raw", [b"", b"!!!", b"YWJj\n", b"A" * 5000])
def test_a_damaged_signature_is_said(copied: Bundle, raw: bytes) -> None:
    (copied.directory / signing.FILE).write_bytes(raw)
    with pytest.raises(BundleError, match="sign the bundle again"):
        signing.signature_of(copied.directory)


def test_a_signing_key_is_not_overwritten_nor_read_by_others(
    copied: Bundle, tmp_path: Path
) -> None:
    signing.new_key(tmp_path / "key.pem")
    with pytest.raises(UsageError, match="exists"):
        signing.new_key(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        signing.sign(copied, tmp_path / "key.pem")
    (tmp_path / "no.pem").write_text("no key")
    (tmp_path / "no.pem").chmod(0o600)
    with pytest.raises(UsageError, match="keygen"):
        signing.sign(copied, tmp_path / "no.pem")


@pytest.mark.usefixtures("secured")
def test_where_keys_are_used_signatures_are_demanded_unless_the_configuration_says_development(
    tmp_path: Path,
) -> None:
    public = signing.new_key(tmp_path / "key.pem")
    with pytest.raises(ConfigError, match="development = true"):
        signing.trusted_by(settings())
    assert signing.trusted_by(settings(trusted_keys=[public])) == (public,)
    assert signing.trusted_by(settings(development=True)) is None


def test_where_no_keys_are_used_the_shipped_bundle_runs_unsigned(copied: Bundle) -> None:
    access.install(None)
    assert signing.trusted_by(settings()) is None
    signing.check(copied, b"", None)


def test_a_key_that_is_none_is_named(copied: Bundle) -> None:
    with pytest.raises(ConfigError, match="trusted_keys"):
        signing.check(copied, bytes(64), ("not base64!",))


def test_what_is_loaded_is_what_was_checked(
    copied: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check and the load another file is put in the place of the part's."""
    name = copied.part_names[0]
    path = copied.file_of(name)
    original = Bundle.open_verified

    def swapped(self: Bundle, part: str) -> Any:
        opened = original(self, part)
        evil = path.with_suffix(".evil")
        evil.write_bytes(b"TFL3" + bytes(1000))
        evil.replace(path)
        return opened

    monkeypatch.setattr(Bundle, "open_verified", swapped)
    loaded = load_part(copied, name)
    assert loaded.latency_us > 0
    monkeypatch.undo()
    with pytest.raises(BundleError, match="altered"):
        load_part(copied, name)
