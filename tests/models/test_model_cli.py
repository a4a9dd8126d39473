"""``continuer model inspect`` and ``continuer model verify``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from continuer import model_cli
from continuer.bundle import Bundle
from continuer.errors import EXIT_OK, BundleError, UsageError


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    model_cli.add_parser(parser.add_subparsers())
    args = parser.parse_args(["model", *arguments])
    code = args.handler(args)
    assert isinstance(code, int)
    return code


def test_inspect_shows_parts_and_accuracy(
    shipped: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", str(shipped.directory)) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"resnet32-cifar10 {shipped.manifest.version}"
    assert any(shipped.hash.hex() in line for line in lines)
    block06 = next(line.split() for line in lines if line.startswith("block06"))
    assert block06[:5] == ["block06", "block", "bypass06", "exit06", "1x16x16x32"]
    assert str(shipped.parts["block06"].bytes) in block06
    full = next(v for v in shipped.manifest.accuracy.variants if not (v.exit or v.skipped))
    (row,) = [line.split() for line in lines if line.startswith("full ")]
    assert row[:5] == ["full", str(full.correct), "of", "10000", f"{full.correct / 100:.2f}"]
    assert float(row[5]) < full.correct / 100 < float(row[7])  # low to high
    assert any(line.startswith("skip block07 block08 block09 ") for line in lines)


def test_inspect_json_is_one_object(shipped: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", str(shipped.directory), "--json") == EXIT_OK
    shown = json.loads(capsys.readouterr().out)
    assert shown["hash"] == shipped.hash.hex()
    assert [part["name"] for part in shown["parts"]] == list(shipped.part_names)
    exit01 = next(v for v in shown["accuracy"]["variants"] if v["exit"] == "exit01")
    assert exit01["accuracy"] == pytest.approx(exit01["correct"] / 10_000)


def test_verify_says_ok(shipped: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", str(shipped.directory)) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "ok"
    assert any(line.startswith("path full: runs") for line in lines)


def test_verify_stops_at_a_defect(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / "head.tflite"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(BundleError, match=r"head\.tflite"):
        run("verify", str(copied))
    assert "ok" not in capsys.readouterr().out.splitlines()


def test_verify_with_images(shipped: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", str(shipped.directory), "--images", "cifar10-test-1000") == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "ok"
    assert sum(line.startswith("accuracy exit") for line in lines) == 14
    (full,) = [line for line in lines if line.startswith("accuracy full")]
    assert "of 1000 images, manifest 86.94 %" in full


def test_verify_notices_a_wrong_accuracy(copied: Path) -> None:
    """A manifest that promises more than its parts hold."""
    path = copied / "manifest.json"
    manifest = json.loads(path.read_text())
    exit02 = next(v for v in manifest["accuracy"]["variants"] if v.get("exit") == "exit02")
    exit02["correct"] = 9000
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"exit02: .* manifest 90\.00 %"):
        run("verify", str(copied), "--images", "cifar10-test-1000")


def test_unknown_images(shipped: Bundle) -> None:
    with pytest.raises(UsageError, match="imagenet"):
        run("verify", str(shipped.directory), "--images", "imagenet")


def test_bundle_by_name(shipped: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "resnet32-cifar10", "--json") == EXIT_OK
    assert json.loads(capsys.readouterr().out)["hash"] == shipped.hash.hex()
