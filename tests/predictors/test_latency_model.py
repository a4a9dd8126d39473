"""The latency model: what it learns, predicts, keeps and refuses."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from continuer import bundle as bundles
from continuer.errors import ModelError
from models.catalog import bundle_directory
from predictors.extract import extract_block
from predictors.latency import (
    PAPER_SETTINGS,
    LatencyError,
    LatencyModel,
    default_settings,
    features,
)
from predictors.operators import Operator
from tests.predictors.made_up import BOX, FLOOR_US, made_up_profile, true_us

PROFILE = made_up_profile()
# Enough for timings that follow a formula, and quick.
QUICK = {kind: {"rounds": 100, "max_depth": 5} for kind in PROFILE.kinds}
FEW_ROUNDS = {kind: {"rounds": 5} for kind in PROFILE.kinds}
MODEL = LatencyModel.fit(PROFILE, QUICK)
BUNDLE = bundles.load(bundle_directory("resnet32-cifar10"))
UNSEEN = [
    Operator("conv", (20, 20, 36), (20, 20, 52), (3, 3), (1, 1), "relu"),
    Operator("conv", (9, 9, 100), (9, 9, 60), (1, 1), (1, 1), "none"),
    Operator("depthwise_conv", (18, 18, 100), (18, 18, 100), (3, 3), (1, 1), "relu6"),
    Operator("dense", (1, 1, 700), (1, 1, 300)),
    Operator("add", (30, 30, 44), (30, 30, 44)),
    Operator("relu", (30, 30, 44), (30, 30, 44)),
    Operator("batch_norm", (30, 30, 44), (30, 30, 44)),
    Operator("global_avg_pool", (9, 9, 200), (1, 1, 200)),
]


def test_shapes_that_were_never_timed_are_predicted() -> None:
    assert not {t.operator for t in PROFILE.timings} & set(UNSEEN)
    wanted = np.array([true_us(operator) for operator in UNSEEN])
    found = MODEL.predict(UNSEEN) * 1e3
    assert np.abs(found / wanted - 1).max() < 0.15
    assert np.abs(found / wanted - 1).mean() < 0.05


def test_predictions_grow_beyond_what_was_timed() -> None:
    """Trees alone are flat there."""
    large, larger = (Operator("dense", (1, 1, n), (1, 1, 2000)) for n in (8_000, 32_000))
    assert larger.macs > 5 * max(t.operator.macs for t in PROFILE.of_kind("dense"))
    first, second = MODEL.predict([large, larger])
    assert 3 < second / first < 5


def test_an_order_of_operators_gives_the_same_order_of_predictions() -> None:
    found = MODEL.predict(UNSEEN)
    assert MODEL.predict(UNSEEN[::-1]).tolist() == pytest.approx(found[::-1].tolist())
    assert [MODEL.predict([operator])[0] for operator in UNSEEN] == pytest.approx(found.tolist())
    assert MODEL.predict([]).tolist() == []


def test_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    path = tmp_path / "box.latency"
    MODEL.save(path)
    again = LatencyModel.load(path)
    assert again.predict(UNSEEN).tolist() == MODEL.predict(UNSEEN).tolist()
    assert (again.machine, again.threads, again.runtime) == (BOX, 1, "made-up 1.0")
    assert again.profile_hash == MODEL.profile_hash
    block = BUNDLE.file_of("block01").read_bytes()
    assert again.predict_block(block) == MODEL.predict_block(block)


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "box.latency"
    MODEL.save(path)
    whole = path.read_bytes()
    for content in (b"", whole[:-1], whole[:100], whole[:200] + b"\xff" + whole[201:]):
        path.write_bytes(content)
        with pytest.raises(LatencyError, match=r"box.latency: damaged.*fit the model again"):
            LatencyModel.load(path)
    with pytest.raises(LatencyError, match="No such file"):
        LatencyModel.load(tmp_path / "none")


def test_a_block_is_one_call_its_operators_and_the_copies() -> None:
    content = BUNDLE.file_of("block06").read_bytes()
    block = extract_block(content, "block06")
    # As made_up_profile has it: copies in and out, each a constant and so much for a byte.
    copied_us = 0.6 + block.input_bytes * 1e-5 + block.output_bytes * 2e-5
    alone_us = 1e3 * MODEL.predict(block.operators) - FLOOR_US
    wanted_us = FLOOR_US + alone_us.sum() + copied_us
    assert 1e3 * MODEL.predict_block(content) == pytest.approx(wanted_us, rel=1e-6)


def test_several_blocks_at_once_are_predicted_as_each_by_itself() -> None:
    contents = [BUNDLE.file_of(name).read_bytes() for name in ("stem", "exit03", "head")]
    blocks = [extract_block(content, "block") for content in contents]
    alone = [MODEL.predict_block(content) for content in contents]
    assert MODEL.predict_blocks(blocks) == pytest.approx(alone)
    assert alone[1] > alone[2]


def test_a_kind_that_the_profile_lacks_is_refused_by_name() -> None:
    lacking = msgspec.structs.replace(
        PROFILE, timings=tuple(t for t in PROFILE.timings if t.operator.kind != "dense_int8")
    )
    operator = Operator("dense", (1, 1, 64), (1, 1, 10), form="int8")
    assert MODEL.predict([operator])[0] > 0
    with pytest.raises(LatencyError, match=r"'dense_int8'.*profile this kind of box again"):
        LatencyModel.fit(lacking, FEW_ROUNDS).predict([operator])


def test_a_kernel_larger_than_any_that_was_timed_is_refused() -> None:
    shape = (20, 20, 32)
    assert MODEL.predict([Operator("depthwise_conv", shape, shape, (5, 5))])[0] > 0
    with pytest.raises(LatencyError, match=r"kernel \(9, 9\).*use the measured latency"):
        MODEL.predict([Operator("depthwise_conv", shape, shape, (9, 9))])


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match="block: "):
        MODEL.predict_block(b"no model at all, but long enough")


def test_settings_are_the_papers_where_nothing_else_is_said() -> None:
    assert PAPER_SETTINGS == {
        "rounds": 1000,
        "learning_rate": 0.1,
        "max_depth": 10,
        "colsample_bytree": 1.0,
        "min_child_weight": 1.0,
    }
    assert default_settings("nobody timed this") == PAPER_SETTINGS
    fitted = LatencyModel.fit(PROFILE, FEW_ROUNDS)
    assert fitted.settings["conv"] == {**default_settings("conv"), "rounds": 5}


def test_features_tell_apart_what_takes_different_times() -> None:
    base = Operator("conv", (16, 16, 32), (16, 16, 32), (3, 3), (1, 1), "none")
    others = [
        msgspec.structs.replace(base, activation="relu"),
        msgspec.structs.replace(base, kernel=(1, 1)),
        msgspec.structs.replace(base, stride=(2, 2), result=(8, 8, 32)),
        msgspec.structs.replace(base, result=(16, 16, 33)),
        msgspec.structs.replace(base, source=(16, 16, 33)),
    ]
    rows = features([base, *others])
    assert np.isfinite(rows).all()
    assert len({tuple(row) for row in rows.tolist()}) == len(rows)


def test_the_same_profile_gives_the_same_model(tmp_path: Path) -> None:
    for name in ("first", "second"):
        LatencyModel.fit(PROFILE, FEW_ROUNDS).save(tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
