"""Building tables from profiles and training runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import msgspec
import pytest

from continuer import cli
from continuer import table as tables
from continuer.bundle import Bundle
from continuer.errors import UsageError
from predictors import building
from predictors import profile as profiles
from predictors.accuracy_runs import Run, find_runs
from predictors.building import Accuracies, Kind, build_table, run_of, variants
from predictors.extract import extract_block
from predictors.latency import LatencyError, LatencyModel
from tests.predictors.made_up import made_up_profile
from tests.unit.harness import BUNDLE

RUNS = Path(__file__).parent / "runs"
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return find_runs(RUNS)


@pytest.fixture(scope="module")
def model() -> LatencyModel:
    profile = made_up_profile(0.1)
    return LatencyModel.fit(profile, {kind: {"rounds": 5} for kind in profile.kinds})


@pytest.fixture(scope="module")
def accuracies(runs: list[Run]) -> Accuracies:
    return Accuracies(runs, runs[0])


def with_recipe(run: Run) -> Bundle:
    recipe = dict(run.recipe)
    manifest = msgspec.structs.replace(BUNDLE.manifest, recipe=recipe)
    return Bundle(BUNDLE.directory, manifest, BUNDLE.hash)


def test_every_part_has_the_latency_that_the_model_predicts_times_the_slowdown(
    model: LatencyModel,
) -> None:
    kinds = {"fast": Kind(model), "slow": Kind(model, 4.0)}
    table = build_table(BUNDLE, kinds, {"n1": "slow", "*": "fast"}, None)
    fast, slow = table.kinds["fast"].latency_us, table.kinds["slow"].latency_us
    assert len(fast) == len(BUNDLE.part_names)
    assert slow == pytest.approx([4 * us for us in fast])
    content = BUNDLE.file_of("block07").read_bytes()
    expected = model.predict_blocks([extract_block(content, "block07")])[0]
    assert fast[BUNDLE.part_ids["block07"]] == pytest.approx(1e3 * expected)
    assert table.kinds["fast"].profile == model.profile_hash
    assert "accuracies as measured" in table.provenance.note


def test_every_variant_has_an_accuracy_within_bounds(accuracies: Accuracies) -> None:
    found = list(accuracies.of(BUNDLE))
    ways = {(entry.exit, entry.skipped) for entry in found}
    assert (None, ()) in ways
    assert {exit_name for exit_name, _ in ways} == {
        None, *(block.exit for block in BUNDLE.manifest.blocks if block.exit)
    }  # fmt: skip
    assert (None, ("block03", "block04", "block05")) in ways
    assert len(ways) == len(found)
    for entry in found:
        assert 0 <= entry.low < entry.accuracy < entry.high <= 1


def test_bounds_hold_about_as_often_as_they_say(accuracies: Accuracies) -> None:
    measured = {(v.exit, v.skipped): v.accuracy for v in accuracies.weights.epochs[-1].validation}
    within = [
        entry.low <= measured[entry.exit, entry.skipped] <= entry.high
        for entry in accuracies.of(BUNDLE)
        if (entry.exit, entry.skipped) in measured
    ]
    assert len(within) > 50
    assert sum(within) > 0.8 * len(within)


def test_bounds_come_from_whole_runs_left_out_where_the_weights_are_of_no_run_that_was_learned(
    runs: list[Run], accuracies: Accuracies
) -> None:
    stranger = dataclasses.replace(runs[0], directory=Path("elsewhere"))
    assert accuracies.interval_from == "rows left out"
    assert Accuracies(runs, stranger).interval_from == "runs left out"


def test_no_run_of_blocks_is_longer_than_any_that_was_measured_nor_has_one_that_must_run() -> None:
    found = list(variants(BUNDLE, 2))
    assert max(len(skipped) for _, skipped in found) == 2
    assert not any({"stem", "head"} & set(skipped) for _, skipped in found)
    assert len(found) == 1 + 14 + 15 + 14


# --- which run the bundle's weights come from -----------------------------------------------


def test_the_run_of_the_bundles_recipe_is_found(runs: list[Run]) -> None:
    assert run_of(with_recipe(runs[1]), runs, None) is runs[1]
    assert run_of(BUNDLE, runs, None) is None  # it has no recipe


def test_a_run_that_is_not_there_is_refused(runs: list[Run]) -> None:
    with pytest.raises(UsageError, match="no such run; there are small-r1"):
        run_of(BUNDLE, runs, "other")


def test_a_run_of_another_network_is_refused(runs: list[Run]) -> None:
    arrays = tuple(array.replace("block15", "block16") for array in runs[0].arrays)
    other = dataclasses.replace(runs[0], arrays=arrays)
    with pytest.raises(UsageError, match="blocks and exits are not those"):
        run_of(BUNDLE, [other], other.name)


# --- bad profiles and options ---------------------------------------------------------------


def test_an_operator_that_was_not_profiled_is_named() -> None:
    profile = made_up_profile(0.1)
    profile = msgspec.structs.replace(
        profile,
        timings=tuple(t for t in profile.timings if not t.operator.kind.startswith("conv")),
    )
    model = LatencyModel.fit(profile, {kind: {"rounds": 2} for kind in profile.kinds})
    with pytest.raises(LatencyError, match="operator 'conv"):
        build_table(BUNDLE, {"box": Kind(model)}, {"*": "box"}, None)


def test_a_profile_with_nan_is_refused(tmp_path: Path) -> None:
    raw = profiles.encode(made_up_profile(0.1)).decode()
    data = json.loads(raw)
    data["timings"][0][1][0] = float("nan")
    (tmp_path / "profile.json").write_text(json.dumps(data))
    with pytest.raises(profiles.ProfileError, match=r"profile\.json: not a profile"):
        building.latency_model(tmp_path / "profile.json")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--node", "n1=pi"], "no profile is given for 'pi'"),
        (["--node", "n1"], "--node n1: give NAME=VALUE"),
        (["--slowdown", "pi=2"], "no --profile pi=FILE is given"),
        (["--runs", "/nonexistent"], "no training run in it"),
        (["--weights", "nobody"], "no such run"),
    ],
)
def test_options_that_cannot_work_are_refused(
    tmp_path: Path, options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t"
    common = ["--model", "resnet32-cifar10", "--runs", str(RUNS), "--out", str(out)]
    assert cli.main(["predictors", "build", *common, *options]) == 2
    assert problem in capsys.readouterr().err
    assert not out.exists()


def test_a_table_is_built_and_shown_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fleet.table"
    model = ["--model", "resnet32-cifar10"]
    arguments = ["--runs", str(RUNS), "--weights", "small-r2", "--out", str(out)]
    assert cli.main(["predictors", "build", *model, *arguments]) == 0
    table = tables.load(out, BUNDLE)
    assert table.provenance.weights == "small-r2"
    assert table.provenance.runs.keys() == {"small-r1", "small-r2", "small-r3"}
    assert out.stat().st_size < 1 << 20
    capsys.readouterr()
    assert cli.main(["predictors", "show", str(out), *model, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["accuracies"]) == len(table.accuracies)
    assert cli.main(["predictors", "show", str(out)]) == 0
    assert "accuracy of the weights of small-r2, from 3 runs" in capsys.readouterr().out
