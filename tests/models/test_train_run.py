"""Whole training runs, tiny ones: files, interruption, resumption."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from continuer.errors import EXIT_UNHEALTHY, UsageError
from models import weights
from models.networks import define
from models.ops_shape import initial_weights
from models.recipe import Recipe, load_recipe
from tests.models.material import NO_TORCH, easy_data, write_binary

torch = pytest.importorskip("torch", reason=NO_TORCH)

if TYPE_CHECKING:
    from models.train_loop import Run

DATA = easy_data(100, 20)
COMMAND = "import sys; from continuer.cli import main; sys.exit(main())"
DEADLINE_S = 60


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "network": "resnet32",
        "form": DATA.form,
        "epochs": 3,
        "seed": 5,
        "learning_rate": 0.05,
        "batch": 30,
        "fraction": 1.0,
        "width": 0.25,
        "plain": False,
        "precision": "float32",
    }
    return Recipe(**values | changes)


def run(
    out: Path, given: Recipe, stop_after: int | None = None, initial: Path | None = None
) -> Run:
    """A run in ``out`` that is stopped before its step of that number, if any."""
    from models.train_loop import Report, Run

    steps: list[int] = []

    def step(_epoch: int, done: int, _steps: int) -> None:
        steps.append(done)

    def nothing(_: object) -> None:
        pass

    out.mkdir(exist_ok=True)
    report = Report(step, nothing, lambda: len(steps) == stop_after, nothing)
    return Run(given, DATA, out, "cpu", report, initial)


def metrics(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of an uninterrupted run."""
    out = tmp_path_factory.mktemp("finished")
    assert run(out, recipe()).go() is not None
    return out


def test_a_run_measures_every_variant(finished: Path) -> None:
    rows = metrics(finished)
    assert [(row["epoch"], row["frozen"]) for row in rows] == [(1, False), (2, False), (3, True)]
    for row in rows:
        ways = [(v.get("exit"), len(v.get("skipped", ()))) for v in row["validation"]]
        assert ways.count((None, 0)) == 1
        assert ways.count((None, 1)) == 15
        assert sum(exit_ is not None for exit_, _ in ways) == 14
        assert sum(skipped > 1 for _, skipped in ways) == 6
        assert {variant["total"] for variant in row["validation"]} == {10}
    result = json.loads((finished / "result.json").read_text())
    assert len(result["test"]) == 1 + 14 + 15 + 14 + 13
    assert {variant["total"] for variant in result["test"]} == {20}


def test_weights_and_recipe_are_what_build_reads(finished: Path) -> None:
    found = weights.load(finished / "weights.npz")
    expected = initial_weights(define("resnet32", 0.25), 0)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    assert load_recipe(finished) == recipe()


def test_statistics_describe_every_array_after_every_epoch(finished: Path) -> None:
    found = weights.load(finished / "weights.npz")
    with np.load(finished / "statistics.npz", allow_pickle=False) as archive:
        names, values = archive["names"].tolist(), archive["values"]
        parameters = json.loads(str(archive["parameters"]))
    assert values.shape == (3, len(found), 7)
    assert set(names) == set(found)
    kernel = found["block07/conv1/conv/kernel"]
    last = values[-1, names.index("block07/conv1/conv/kernel")]
    assert last[0] == pytest.approx(kernel.mean(), abs=1e-6)
    assert last[1] == pytest.approx(kernel.var(), rel=1e-4)
    assert last[2:].tolist() == pytest.approx(np.percentile(kernel, [0, 25, 50, 75, 100]).tolist())
    assert parameters["dnn_architecture"] == "resnet32"
    assert parameters["num_layers"] == len({name.rpartition("/")[0] for name in names})


@pytest.mark.parametrize("steps", [1, 3, 5, 8])
def test_a_resumed_run_continues_exactly_where_it_stopped(
    finished: Path, tmp_path: Path, steps: int
) -> None:
    """Stopped within, and at the end of, normal and frozen epochs; three steps make one."""
    stopped = run(tmp_path, recipe(), stop_after=steps)
    assert stopped.go() is None
    resumed = run(tmp_path, recipe())
    assert resumed.go() is not None
    assert metrics(tmp_path) == metrics(finished)
    whole, again = (weights.load(out / "weights.npz") for out in (finished, tmp_path))
    assert all((whole[name] == again[name]).all() for name in whole)


def test_a_run_that_has_ended_can_be_refined(finished: Path, tmp_path: Path) -> None:
    """Its epochs stay as they were, and it becomes the run that was to be refined at once."""
    from models.train_loop import check_out

    once, later = tmp_path / "once", tmp_path / "later"
    assert run(once, recipe(refine=2)).go() is not None
    shutil.copytree(finished, later)
    check_out(later, recipe(refine=2), resume=True)
    assert run(later, recipe(refine=2)).go() is not None
    assert metrics(later) == metrics(once)
    assert metrics(later)[:3] == metrics(finished)
    assert [row["frozen"] for row in metrics(later)] == [False, False, True, True, True]
    whole, again = (weights.load(out / "weights.npz") for out in (once, later))
    assert all((whole[name] == again[name]).all() for name in whole)
    with pytest.raises(UsageError, match="refine = 2, not 1"):
        check_out(later, recipe(refine=1), resume=True)


def test_a_run_begins_with_the_weights_of_another(finished: Path, tmp_path: Path) -> None:
    """Before its first step it has them exactly; resumed, it keeps what it has learnt."""
    given = weights.load(finished / "weights.npz")
    begun = run(tmp_path, recipe(seed=6), stop_after=0, initial=finished / "weights.npz")
    assert begun.go() is None
    with np.load(tmp_path / "checkpoint.npz", allow_pickle=False) as archive:
        assert all((archive[f"weights/{name}"] == given[name]).all() for name in given)
    assert run(tmp_path, recipe(seed=6), initial=finished / "weights.npz").go() is not None
    learnt = weights.load(tmp_path / "weights.npz")
    assert any((learnt[name] != given[name]).any() for name in given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0.5}, r"'\S+' has shape .*, the network needs"),
        ({"plain": True}, r"\d+ arrays belong to no part"),
        ({"network": "allconv"}, "arrays belong to no part"),
    ],
)
def test_weights_of_another_network_are_refused_to_begin_with(
    finished: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(tmp_path, recipe(**change), initial=finished / "weights.npz")


def test_what_lies_beyond_the_checkpoint_is_dropped(finished: Path, tmp_path: Path) -> None:
    """A run killed after it wrote an epoch's metrics and before it wrote the checkpoint."""
    out, early = tmp_path / "out", tmp_path / "checkpoint.npz"
    assert run(out, recipe(), stop_after=3).go() is None
    shutil.copy(out / "checkpoint.npz", early)
    assert run(out, recipe(), stop_after=3).go() is None
    assert len(metrics(out)) == 2
    shutil.copy(early, out / "checkpoint.npz")
    assert run(out, recipe()).go() is not None
    assert metrics(out) == metrics(finished)
    with np.load(out / "statistics.npz") as archive:
        assert len(archive["values"]) == 3


def test_a_plain_run_measures_the_full_network_alone(tmp_path: Path) -> None:
    found = run(tmp_path, recipe(plain=True, epochs=1)).go()
    assert found is not None
    assert [(v.exit, v.skipped) for v in found] == [(None, ())]
    assert not [n for n in weights.load(tmp_path / "weights.npz") if n.startswith("exit")]


def test_another_runs_directory_is_refused(finished: Path) -> None:
    from models.train_loop import check_out

    check_out(finished, recipe(), resume=True)
    with pytest.raises(UsageError, match="holds a checkpoint; give --resume"):
        check_out(finished, recipe(), resume=False)
    with pytest.raises(UsageError, match="was begun with seed = 5, not 6"):
        check_out(finished, recipe(seed=6), resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    assert run(tmp_path, recipe(), stop_after=1).go() is None
    content = (tmp_path / "checkpoint.npz").read_bytes()
    (tmp_path / "checkpoint.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=r"checkpoint.npz: not a checkpoint"):
        run(tmp_path, recipe())


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    from models.train_loop import Report, Run

    def nothing(*_: object) -> None:
        pass

    report = Report(nothing, nothing, lambda: False, nothing)
    with pytest.raises(UsageError, match="9 training images"):
        Run(recipe(), easy_data(9, 5), tmp_path, "cpu", report)


def test_a_terminated_run_leaves_a_checkpoint_and_goes_on(tmp_path: Path) -> None:
    write_binary(tmp_path / "data", 20)
    arguments = [
        *("model", "train", "resnet32", "--data", str(tmp_path / "data")),
        *("--out", str(tmp_path / "out"), "--epochs", "400", "--width", "0.25", "--resume"),
    ]
    rows = 0
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments], stderr=subprocess.PIPE, text=True
        )
        try:
            wait_for_rows(tmp_path / "out" / "metrics.jsonl", rows + 1)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
        assert process.returncode == EXIT_UNHEALTHY
        assert "the same command with --resume goes on" in errors
        rows = len(metrics(tmp_path / "out"))
    epochs = [row["epoch"] for row in metrics(tmp_path / "out")]
    assert epochs == list(range(1, len(epochs) + 1))


def wait_for_rows(path: Path, rows: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists() or len(path.read_text().splitlines()) < rows:
        assert time.monotonic() < deadline
        time.sleep(0.05)
