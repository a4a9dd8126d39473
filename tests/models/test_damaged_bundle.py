"""A damaged bundle is refused with an error that names the file and the remedy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from continuer.bundle import MANIFEST, load
from continuer.errors import EXIT_CONFIG, EXIT_UNHEALTHY, BundleError
from continuer.model_cli import verify

Edit = Callable[[dict[str, Any]], None]


def edit_manifest(directory: Path, edit: Edit) -> None:
    path = directory / MANIFEST
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def refusal(directory: Path, code: int = EXIT_CONFIG) -> str:
    """The message with which ``verify`` refuses the bundle."""
    with pytest.raises(BundleError) as caught:
        list(verify(load(directory)))
    assert caught.value.exit_code == code
    return str(caught.value)


def test_undamaged_copy_is_accepted(copied: Path) -> None:
    lines = list(verify(load(copied)))
    assert sum(line.startswith("file ") for line in lines) == 33
    assert sum(line.startswith("part ") for line in lines) == 33
    assert sum(line.startswith("path ") for line in lines) == 107


def test_altered_byte(copied: Path) -> None:
    path = copied / "block09.tflite"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = refusal(copied)
    assert str(path) in message
    assert "altered" in message
    assert "copy the bundle again" in message


def test_truncated_file(copied: Path) -> None:
    path = copied / "exit03.tflite"
    path.write_bytes(path.read_bytes()[:-1])
    message = refusal(copied)
    assert str(path) in message
    assert "truncated" in message


def test_missing_file(copied: Path) -> None:
    (copied / "bypass06.tflite").unlink()
    message = refusal(copied)
    assert "bypass06.tflite" in message
    assert "copy the bundle again" in message


def test_file_that_is_no_model(copied: Path) -> None:
    """Its hash is right, so the runtime is what refuses it."""
    content = b"no model" * 100
    (copied / "stem.tflite").write_bytes(content)

    def edit(manifest: dict[str, Any]) -> None:
        part = next(p for p in manifest["parts"] if p["name"] == "stem")
        part["bytes"] = len(content)
        part["sha256"] = hashlib.sha256(content).hexdigest()

    edit_manifest(copied, edit)
    message = refusal(copied, EXIT_UNHEALTHY)
    assert "stem.tflite" in message
    assert "build the bundle again" in message


def test_file_of_another_part(copied: Path) -> None:
    """A whole, valid file in the wrong place: its shapes give it away."""

    def edit(manifest: dict[str, Any]) -> None:
        parts = {p["name"]: p for p in manifest["parts"]}
        for key in ("file", "bytes", "sha256"):
            parts["block02"][key] = parts["block08"][key]

    edit_manifest(copied, edit)
    message = refusal(copied)
    assert "block08.tflite" in message
    assert "(1, 16, 16, 32)" in message


def unknown_field(manifest: dict[str, Any]) -> None:
    manifest["parts"][0]["colour"] = "red"


def missing_field(manifest: dict[str, Any]) -> None:
    del manifest["parts"][0]["sha256"]


def wrong_schema(manifest: dict[str, Any]) -> None:
    manifest["schema"] = 99


def unknown_part(manifest: dict[str, Any]) -> None:
    manifest["blocks"][3]["part"] = "block99"


def broken_chain(manifest: dict[str, Any]) -> None:
    part = next(p for p in manifest["parts"] if p["name"] == "block03")
    part["inputs"][0]["shape"] = [1, 16, 16, 32]


def skip_without_bypass(manifest: dict[str, Any]) -> None:
    del manifest["blocks"][6]["bypass"]


def file_outside(manifest: dict[str, Any]) -> None:
    manifest["parts"][0]["file"] = "../stem.tflite"


def never_right(manifest: dict[str, Any]) -> None:
    manifest["accuracy"]["variants"][0]["correct"] = 0


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (never_right, "never right"),
        (unknown_field, "colour"),
        (missing_field, "sha256"),
        (wrong_schema, "99"),
        (unknown_part, "block99"),
        (broken_chain, "block03"),
        (skip_without_bypass, "block06"),
        (file_outside, "../stem.tflite"),
    ],
)
def test_bad_manifest(copied: Path, edit: Edit, named: str) -> None:
    edit_manifest(copied, edit)
    message = refusal(copied)
    assert str(copied / MANIFEST) in message
    assert named in message
    assert "again" in message


def test_manifest_that_is_no_json(copied: Path) -> None:
    path = copied / MANIFEST
    path.write_bytes(path.read_bytes()[:500])
    message = refusal(copied)
    assert str(path) in message
    assert "copy it again" in message


def test_directory_without_manifest(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert str(tmp_path / MANIFEST) in message
    assert "give the directory of a bundle" in message
