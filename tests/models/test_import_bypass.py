"""What runs in a skipped residual block's stead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from continuer.bundle import Bundle, TensorSpec
from continuer.runtime import LoadedPart
from models.imported import bypass, foreign
from models.imported.bypass import Affine
from models.imported.cut import Cutter, Piece
from models.imported.flatbuffer import Network
from models.imported.observing import Moments
from tests.models import tiny
from tests.models.joined import whole_model
from tests.models.tiny import Sketch

GENERATOR = np.random.default_rng(1)
ONES = np.ones(tiny.SHAPE, np.float32)


def whole_piece(content: bytes) -> tuple[Network, Piece]:
    network = foreign.read(content, "model")
    cutter = Cutter(network)
    return network, cutter.piece(0, len(cutter.order))


def run(
    directory: Path, content: bytes | None, spec: TensorSpec, tensor: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """The model's answer; ``spec`` is of its output, its input's follows from the tensor."""
    assert content is not None
    path = directory / "bypass.tflite"
    path.write_bytes(content)
    entering = TensorSpec("x", tensor.shape, tensor.dtype.name)
    (output,) = LoadedPart(path, [entering], [spec]).run([tensor])
    return output


def residual(*, relu: bool, projected: bool = False, unfused: bool = False) -> bytes:
    sketch = Sketch()
    source = sketch.input()
    main = sketch.conv(sketch.conv(source, 0.5, relu=True), 0.5)
    other = sketch.conv(source, 3.0) if projected else source
    flow = sketch.add(other, main, relu=relu)
    return sketch.finish([source], [sketch.relu(flow) if unfused else flow])


def test_a_float_block_without_activation_is_skipped_by_nothing() -> None:
    assert bypass.shortcut(*whole_piece(residual(relu=False))) is None


def test_an_activation_after_the_addition_stays(tmp_path: Path) -> None:
    network, piece = whole_piece(residual(relu=True))
    output = run(tmp_path, bypass.shortcut(network, piece), network.spec(piece.outputs[0]), -ONES)
    assert output.max() == 0


def test_an_activation_that_would_change_nothing_does_not_run() -> None:
    network, piece = whole_piece(residual(relu=True))
    assert bypass.shortcut(network, piece, positive_input=True) is None


def test_an_unfused_activation_belongs_to_the_block_and_stays(tmp_path: Path) -> None:
    network, piece = whole_piece(residual(relu=False, unfused=True))
    assert piece.residual is not None
    content = bypass.shortcut(network, piece)
    spec = network.spec(piece.outputs[0])
    assert run(tmp_path, content, spec, -ONES).max() == 0
    assert run(tmp_path, content, spec, 2 * ONES).min() == 2


def test_a_projected_shortcut_runs_its_projection(tmp_path: Path) -> None:
    network, piece = whole_piece(residual(relu=False, projected=True))
    assert piece.residual is not None
    output = run(tmp_path, bypass.shortcut(network, piece), network.spec(piece.outputs[0]), ONES)
    assert (output == 3).all()


def test_projections_of_the_joined_resnet_are_its_bypasses(shipped: Bundle, tmp_path: Path) -> None:
    network = foreign.read(whole_model(shipped, 7), "model")
    piece = Cutter(network).blocks()[6]
    bypassed = shipped.parts["bypass06"]
    tensor = GENERATOR.random(bypassed.inputs[0].shape).astype(np.float32)
    made = run(tmp_path, bypass.shortcut(network, piece), bypassed.outputs[0], tensor)
    original = shipped.file_of("bypass06").read_bytes()
    np.testing.assert_allclose(made, run(tmp_path, original, bypassed.outputs[0], tensor))


def test_a_quantised_block_is_skipped_by_rescaling(tmp_path: Path) -> None:
    """Identity would change the meaning of every value."""
    network, piece = whole_piece(tiny.quantised_residual())
    tensor = GENERATOR.integers(0, 256, tiny.SHAPE, np.uint8)
    output = run(tmp_path, bypass.shortcut(network, piece), network.spec(piece.outputs[0]), tensor)
    (scale, zero), (new_scale, new_zero) = tiny.ENTERS, tiny.LEAVES
    wanted = np.clip((tensor.astype(float) - zero) * scale / new_scale + new_zero, 0, 255)
    assert np.abs(output.astype(float) - wanted).max() < 1  # kernels round differently
    assert (output != tensor).any()


def test_a_block_that_adds_no_input_is_not_residual() -> None:
    sketch = Sketch()
    source = sketch.input()
    flow = sketch.conv(source, 2.0)
    content = sketch.finish([source], [sketch.add(flow, sketch.constant("c", ONES))])
    assert whole_piece(content)[1].residual is None


def test_branches_that_share_an_operator_are_no_shortcut() -> None:
    sketch = Sketch()
    source = sketch.input()
    shared = sketch.conv(source, 2.0)
    content = sketch.finish([source], [sketch.add(shared, sketch.conv(shared, 2.0))])
    assert whole_piece(content)[1].residual is None


CORRECTION = Affine(np.array([2, 1, 0.5], np.float32), np.array([0, -1, 4], np.float32))


def test_a_correction_scales_and_shifts_every_channel(tmp_path: Path) -> None:
    spec = TensorSpec("y", tiny.SHAPE)
    tensor = GENERATOR.standard_normal(tiny.SHAPE).astype(np.float32)
    content = bypass.corrected(None, spec, CORRECTION, positive=False)
    wanted = tensor * CORRECTION.scale + CORRECTION.shift
    np.testing.assert_allclose(run(tmp_path, content, spec, tensor), wanted, rtol=1e-6)
    clipped = bypass.corrected(None, spec, CORRECTION, positive=True)
    np.testing.assert_allclose(
        run(tmp_path, clipped, spec, tensor), np.maximum(wanted, 0), rtol=1e-6
    )


def test_a_correction_of_a_quantised_shortcut_works_on_real_numbers(tmp_path: Path) -> None:
    network, piece = whole_piece(tiny.quantised_residual())
    spec = network.spec(piece.outputs[0])
    plain = bypass.shortcut(network, piece)
    tensor = GENERATOR.integers(80, 120, tiny.SHAPE, np.uint8)
    before = run(tmp_path, plain, spec, tensor).astype(float)
    after = run(tmp_path, bypass.corrected(plain, spec, CORRECTION, positive=False), spec, tensor)
    scale, zero = tiny.LEAVES
    wanted = ((before - zero) * scale * CORRECTION.scale + CORRECTION.shift) / scale + zero
    assert np.abs(after.astype(float) - np.clip(wanted, 0, 255)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("name", ["matching", "nearest"])
def test_moments_find_the_line_between_shortcut_and_block(name: str) -> None:
    moments = Moments(3)
    for _ in range(4):
        shortcut = GENERATOR.standard_normal(tiny.SHAPE)
        moments.add(shortcut, shortcut * CORRECTION.scale + CORRECTION.shift)
    found: Affine = getattr(moments, name)()
    np.testing.assert_allclose(found.scale, CORRECTION.scale, rtol=1e-4)
    np.testing.assert_allclose(found.shift, CORRECTION.shift, atol=1e-4)


def test_matching_restores_mean_and_deviation_of_what_is_unrelated() -> None:
    moments = Moments(1)
    shortcut = GENERATOR.standard_normal((1000, 1))
    block = 5 + 3 * GENERATOR.standard_normal((1000, 1))
    moments.add(shortcut, block)
    found = moments.matching()
    corrected = shortcut * found.scale + found.shift
    assert corrected.mean() == pytest.approx(block.mean(), abs=1e-3)
    assert corrected.std() == pytest.approx(block.std(), rel=1e-3)
    assert abs(moments.nearest().scale[0]) < 0.5  # a line cannot follow it: the mean is nearest
