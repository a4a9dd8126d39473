"""``continuer model import``: from a ``.tflite`` to a bundle that can be deployed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from continuer.bundle import Bundle, load
from continuer.cli import main
from continuer.errors import EXIT_OK, EXIT_UNHEALTHY, EXIT_USAGE
from tests.models import tiny
from tests.models.joined import whole_model
from tests.models.malformed import crashing


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "My Model (1).tflite"
    path.write_bytes(tiny.colours(2))
    return path


def imported(model: Path, *more: str) -> tuple[int, Path]:
    out = model.parent / "out"
    return main(["model", "import", str(model), f"--out={out}", *more]), out


def test_a_model_becomes_a_bundle(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = imported(model)
    assert code == EXIT_OK
    bundle = load(out)
    bundle.verify_files()
    manifest = bundle.manifest
    assert manifest.name == "My-Model-1"
    assert bundle.block_names == ("block01", "block02", "block03", "block04")
    assert manifest.parts[1].operators == ("CONV_2D", "CONV_2D", "ADD")
    assert manifest.accuracy.variants == ()
    assert not any(block.skippable or block.exit for block in manifest.blocks)
    assert all(part.latency_us > 0 for part in manifest.parts)
    text = capsys.readouterr().out
    assert "8 operators; cuts: 3 of 1 tensor(s), 4 of 2 tensor(s)" in text
    assert sum("(residual)" in line for line in text.splitlines()) == 2


def test_every_node_of_the_proposal_has_work(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = imported(model, "--nodes=3", "--json")
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["hash"] == load(out).hash.hex()
    assert report["cuts"] == {"1": 3, "2": 4}
    assert [node["node"] for node in report["placement"]] == ["n1", "n2", "n3"]
    placed = [block for node in report["placement"] for block in node["blocks"]]
    assert placed == ["block01", "block02", "block03", "block04"]
    costs = {block["part"]: block["latency_us"] for block in report["blocks"]}
    for node in report["placement"]:
        assert node["latency_us"] == pytest.approx(
            sum(costs[block] for block in node["blocks"]), abs=0.1
        )


def test_more_nodes_than_blocks_cut_finer(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(model, "--nodes=6", "--json", "--every-cut")
    report = json.loads(capsys.readouterr().out)
    assert len(report["blocks"]) == 6
    assert max(len(block["outputs"]) for block in report["blocks"]) == 2
    assert report["compared_cuts"] == 7


def test_what_no_file_tells_comes_from_the_options(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("red\ngreen\n\nblue\n")
    options = ["--name=colours", "--version=2.0", f"--classes={classes}", "--licence=CC0"]
    code, out = imported(model, *options, "--divisor=255", "--mean=0,0.5,0", "--std=1,1,2")
    assert code == EXIT_OK
    manifest = load(out).manifest
    assert (manifest.name, manifest.version, manifest.licence) == ("colours", "2.0", "CC0")
    assert manifest.classes == ("red", "green", "blue")
    rules = manifest.input.preprocessing
    assert rules is not None
    assert (rules.divisor, rules.mean, rules.std) == (255, (0, 0.5, 0), (1, 1, 2))
    capsys.readouterr()
    assert main(["model", "inspect", str(out)]) == EXIT_OK
    assert "accuracy unknown: not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--nodes=0", "--nodes 0"),
        ("--blocks=-1", "--blocks -1"),
        ("--mean=0,0,0", "--divisor"),
        ("--divisor=0", "none of them 0"),
        ("--classes=/nowhere", "/nowhere"),
        ("--memory-mib=0", "--memory-mib"),
        ("--deadline-s=nan", "--deadline-s"),
    ],
)
def test_a_bad_option_is_refused(
    option: str, named: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = imported(model, option)
    assert code == EXIT_USAGE
    assert named in capsys.readouterr().err
    assert not out.exists()


def test_nothing_is_overwritten(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model.parent / "out").mkdir()
    code, out = imported(model)
    assert code == EXIT_USAGE
    assert f"{out}: exists" in capsys.readouterr().err


def test_the_joined_resnet_is_imported(
    shipped: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "resnet.tflite"
    path.write_bytes(whole_model(shipped, 7))
    code, out = imported(path, "--json")
    assert code == EXIT_OK
    report = json.loads(capsys.readouterr().out)
    assert report["residual"] == [f"block{number:02}" for number in range(2, 8)]
    assert main(["model", "verify", str(out)]) == EXIT_OK
    assert capsys.readouterr().out.splitlines()[-1] == "ok"


def test_verify_survives_a_part_that_crashes_the_runtime(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its SHA-256 is right: the bundle was made so."""
    _, out = imported(model)
    content = crashing()
    (out / "block02.tflite").write_bytes(content)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["parts"][1]["bytes"] = len(content)
    manifest["parts"][1]["sha256"] = hashlib.sha256(content).hexdigest()
    (out / "manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert main(["model", "verify", str(out)]) == EXIT_UNHEALTHY
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "block02.tflite" in message
