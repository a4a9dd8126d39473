"""Training runs that are missing, damaged or have diverged are refused with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from continuer.errors import UsageError
from predictors.accuracy_runs import find_runs, load_run

RUNS = Path(__file__).parent / "runs"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUNS / "small-r1", tmp_path / "run"))


def change_epoch(run: Path, number: int, **changes: Any) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[number].update(changes)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_is_read_with_its_blocks_and_exits_in_order(run: Path) -> None:
    found = load_run(run)
    assert found.network == "resnet32"
    assert found.blocks == ("stem", *(f"block{n:02}" for n in range(1, 16)), "head")
    assert found.exit_depth["exit01"] == 2
    assert len(found.epochs) == len(found.statistics) == 8


def test_the_last_epoch_has_what_was_measured_on_the_test_images(run: Path) -> None:
    last = load_run(run).epochs[-1].validation
    assert {variant.total for variant in last} == {10_000}
    (run / "result.json").unlink()
    assert {variant.total for variant in load_run(run).epochs[-1].validation} == {2_000}


def test_a_directory_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no training run in it"):
        find_runs(tmp_path)


@pytest.mark.parametrize("name", ["recipe.json", "statistics.npz"])
def test_a_run_that_lacks_a_file_is_refused(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(UsageError, match=name):
        load_run(run)


@pytest.mark.parametrize("name", ["recipe.json", "metrics.jsonl", "statistics.npz", "result.json"])
def test_a_truncated_file_is_refused(run: Path, name: str) -> None:
    path = run / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UsageError, match=name):
        load_run(run)


def test_a_training_loss_of_nan_is_refused(run: Path) -> None:
    change_epoch(run, 2, train_loss=float("nan"))
    with pytest.raises(UsageError, match="train_loss = nan in epoch 3; the run diverged"):
        load_run(run)


def test_statistics_of_nan_are_refused_with_the_array_and_epoch(run: Path) -> None:
    with np.load(run / "statistics.npz") as archive:
        arrays = dict(archive)
    arrays["values"][4, 9, 0] = np.nan
    np.savez(run / "statistics.npz", **arrays)
    with pytest.raises(UsageError, match=r"block01/\S+ is not finite after epoch 5"):
        load_run(run)


def test_a_run_that_was_copied_while_it_went_on_is_refused(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(UsageError, match=r"7 epochs, statistics\.npz 8"):
        load_run(run)


@pytest.mark.parametrize(
    "variant",
    [
        {"correct": 3, "total": 2},
        {"correct": 0, "total": 0},
        {"correct": 1, "total": 2, "exit": "exit99"},
        {"correct": 1, "total": 2, "skipped": ["block99"]},
    ],
)
def test_a_variant_that_cannot_be_is_refused(run: Path, variant: dict[str, Any]) -> None:
    change_epoch(run, 0, validation=[variant])
    with pytest.raises(UsageError, match="epoch 1 has"):
        load_run(run)
