"""Any ``.tflite`` is cut into blocks that, chained, are the whole model."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert import schema_py_generated as schema

from continuer.bundle import Bundle, TensorSpec
from continuer.errors import ModelError
from continuer.runtime import LoadedPart
from models.imported import foreign
from models.imported.cut import Cutter, Piece
from models.imported.flatbuffer import Network, extract
from models.imported.importing import Whole
from tests.models import tiny
from tests.models.joined import whole_model
from tests.models.tiny import Sketch

WIDE = 2 * tiny.SIDE
#: Scales are stored as float32.
FLOAT_ENTERS = (float(np.float32(tiny.ENTERS[0])), tiny.ENTERS[1])
FLOAT_LEAVES = (float(np.float32(tiny.LEAVES[0])), tiny.LEAVES[1])


def read(content: bytes) -> Network:
    return foreign.read(content, "model")


def names(network: Network, piece: Piece) -> list[str]:
    return [network.operator_name(operator) for operator in piece.operators]


def compare_everywhere(content: bytes, directory: Path) -> int:
    """Cut at every partition point, and compare; raises where a bit differs. Returns how many."""
    path = directory / "whole.tflite"
    path.write_bytes(content)
    network = read(content)
    cutter = Cutter(network)
    whole = Whole(path, network)
    for cut in cutter.cuts.values():
        whole.compare_halves(cutter, cut, directory / "half.tflite")
    return len(cutter.cuts)


def run(
    path: Path, content: bytes, tensors: Sequence[npt.NDArray[np.float32]]
) -> list[list[float]]:
    network = read(content)
    path.write_bytes(content)
    part = LoadedPart(
        path, [network.spec(t) for t in network.inputs], [network.spec(t) for t in network.outputs]
    )
    return [output.ravel().tolist() for output in part.run(tensors)]


def test_a_chain_can_be_cut_between_any_two_operators(tmp_path: Path) -> None:
    network = read(tiny.chain(5))
    assert sorted(Cutter(network).cuts) == [1, 2, 3, 4]
    assert compare_everywhere(tiny.chain(5), tmp_path) == 4


def test_a_residual_block_stays_whole() -> None:
    network = read(tiny.colours(3))
    pieces = Cutter(network).blocks()
    assert [names(network, piece) for piece in pieces] == [
        ["CONV_2D"],
        *[["CONV_2D", "CONV_2D", "ADD"]] * 3,
        ["MEAN"],
    ]
    assert [piece.residual is not None for piece in pieces] == [False, True, True, True, False]


def test_cuts_inside_a_residual_block_carry_two_tensors(tmp_path: Path) -> None:
    network = read(tiny.colours(1))
    widths = {position: len(cut.tensors) for position, cut in Cutter(network).cuts.items()}
    assert widths == {1: 1, 2: 2, 3: 2, 4: 1}
    assert compare_everywhere(tiny.colours(1), tmp_path) == 4


def test_more_blocks_are_made_where_several_tensors_cross() -> None:
    cutter = Cutter(read(tiny.colours(1)))
    assert len(cutter.blocks()) == 3
    pieces = cutter.blocks(at_least=4)
    assert len(pieces) == 4
    assert max(len(piece.outputs) for piece in pieces) == 2
    assert len(cutter.blocks(at_least=99)) == 5  # one an operator, and no more


def test_blocks_follow_one_another_without_a_gap(shipped: Bundle) -> None:
    network = read(whole_model(shipped))
    for at_least in (1, 30):
        pieces = Cutter(network).blocks(at_least)
        assert len(pieces) >= at_least
        assert [o for piece in pieces for o in piece.operators] == list(range(50))
        assert pieces[0].inputs == network.inputs
        assert pieces[-1].outputs == network.outputs
        for before, after in itertools.pairwise(pieces):
            assert before.outputs == after.inputs


def test_the_joined_resnet_falls_into_the_blocks_it_was_made_of(shipped: Bundle) -> None:
    network = read(whole_model(shipped))
    cutter = Cutter(network)
    assert Counter(len(cut.tensors) for cut in cutter.cuts.values()) == {1: 17, 2: 32}
    pieces = cutter.blocks()
    wanted = [shipped.parts[name].operators for name in shipped.block_names]
    assert [tuple(names(network, piece)) for piece in pieces] == wanted
    assert [piece.residual is not None for piece in pieces] == [False, *[True] * 15, False]
    projected = [i for i, p in enumerate(pieces) if p.residual and p.residual.projection]
    assert projected == [6, 11]


def test_halves_of_the_joined_resnet_equal_the_whole_bit_for_bit(
    shipped: Bundle, tmp_path: Path
) -> None:
    assert compare_everywhere(whole_model(shipped, 4), tmp_path) == 9


def test_a_difference_of_one_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "whole.tflite"
    path.write_bytes(tiny.chain())
    whole = Whole(path, read(tiny.chain()))
    other = tmp_path / "other.tflite"
    other.write_bytes(tiny.chain(5))
    spec = [TensorSpec("x", tiny.SHAPE)]
    with pytest.raises(ModelError, match="another answer than the whole model"):
        whole.compare_chain([LoadedPart(other, spec, spec)])


def test_a_part_holds_only_what_it_needs(shipped: Bundle) -> None:
    content = whole_model(shipped)
    network = read(content)
    (first, *_, last) = Cutter(network).blocks()
    small = read(extract(network, last.operators, last.inputs, last.outputs))
    assert len(small.operators) == 2
    assert len(small.model.operatorCodes) == 2
    assert len(small.tensors) == 6  # features, axes, pooled, weights, biases, logits
    assert len(small.model.buffers) == 4  # the empty one, axes, weights, biases
    assert small.model.metadata is None
    everything = read(extract(network, range(50), network.inputs, network.outputs))
    assert len(everything.operators) == 50
    assert first.operators == (0,)


def test_data_is_aligned_as_the_schema_wants(shipped: Bundle) -> None:
    network = read(whole_model(shipped, 3))
    content = extract(network, range(4), network.inputs, network.writes(3))
    model = schema.Model.GetRootAs(content, 0)
    addresses = [
        model.Buffers(i)._tab.Vector(4)
        for i in range(model.BuffersLength())
        if not model.Buffers(i).DataIsNone()
    ]
    assert len(addresses) >= 4
    assert all(address % 16 == 0 for address in addresses)


def test_quantisation_goes_with_the_tensors(tmp_path: Path) -> None:
    network = read(tiny.quantised_residual())
    (cut,) = Cutter(network).cuts.values()
    assert [network.quantisation(t) for t in cut.tensors] == [FLOAT_ENTERS] * 2
    half = read(extract(network, [1], cut.tensors, network.outputs))
    spec = half.spec(half.outputs[0])
    assert (spec.dtype, spec.scale, spec.zero_point) == ("uint8", *FLOAT_LEAVES)
    assert compare_everywhere(tiny.quantised_residual(), tmp_path) == 1


def expanded() -> bytes:
    """Weights that the file itself expands from float16, used in the first and last operator."""
    sketch = Sketch()
    source = sketch.input()
    small = sketch.constant("small", np.full(tiny.SHAPE, 0.5, np.float16))
    weights = sketch.like("weights")
    sketch.operator("DEQUANTIZE", [small], weights, version=2)
    flow = sketch.conv(sketch.add(source, weights), 2.0)
    return sketch.finish([source], [sketch.add(flow, weights)])


def test_operators_on_constants_alone_go_to_every_block_that_needs_them(tmp_path: Path) -> None:
    network = read(expanded())
    assert network.fixed == {0}
    cutter = Cutter(network)
    assert [len(cut.tensors) for cut in cutter.cuts.values()] == [1, 1]
    last = cutter.piece(2, 3)
    assert len(read(extract(network, last.operators, last.inputs, last.outputs)).operators) == 2
    assert compare_everywhere(expanded(), tmp_path) == 2


def test_an_early_output_travels_to_the_end(tmp_path: Path) -> None:
    sketch = Sketch()
    source = sketch.input()
    early = sketch.conv(source, 2.0)
    late = sketch.conv(sketch.conv(early, 3.0), 5.0)
    content = sketch.finish([source], [late, early])
    network = read(content)
    assert [sorted(cut.tensors) for cut in Cutter(network).cuts.values()][1][0] == early
    assert compare_everywhere(content, tmp_path) == 2
    outputs = run(tmp_path / "m.tflite", content, [np.ones(tiny.SHAPE, np.float32)])
    assert (outputs[0][0], outputs[1][0]) == (30, 2)


def test_a_second_input_travels_to_where_it_is_used(tmp_path: Path) -> None:
    sketch = Sketch()
    first, second = sketch.input(), sketch.input()
    flow = sketch.conv(sketch.conv(first, 2.0), 3.0)
    content = sketch.finish([first, second], [sketch.add(flow, second)])
    cuts = Cutter(read(content)).cuts
    assert [second in cut.tensors for cut in cuts.values()] == [True, True]
    assert compare_everywhere(content, tmp_path) == 2


def test_plain_runs_end_where_least_is_sent() -> None:
    """Between a widening and the narrowing after it, four times as much would cross."""
    sketch = Sketch()
    source = flow = sketch.input()
    for _ in range(4):
        wide = sketch.like("wide", (1, WIDE, WIDE, tiny.CHANNELS))
        size = sketch.constant("size", np.array([WIDE, WIDE], np.int32))
        options = schema.ResizeNearestNeighborOptionsT()
        sketch.operator("RESIZE_NEAREST_NEIGHBOR", [flow, size], wide, options)
        flow = sketch.like("narrow")
        pool = schema.Pool2DOptionsT(
            padding=schema.Padding.VALID, strideH=2, strideW=2, filterHeight=2, filterWidth=2
        )
        sketch.operator("AVERAGE_POOL_2D", [wide], flow, pool)
    network = read(sketch.finish([source], [flow]))
    pieces = Cutter(network).blocks()
    assert [names(network, p) for p in pieces] == [
        ["RESIZE_NEAREST_NEIGHBOR", "AVERAGE_POOL_2D"]
    ] * 4
