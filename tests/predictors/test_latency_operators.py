"""What is read of the operators of real blocks, and what is derived from it."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from continuer import bundle as bundles
from continuer.bundle import TensorSpec
from continuer.errors import ModelError
from models.catalog import bundle_directory
from models.imported.graph import GraphWriter
from predictors.extract import extract_block
from predictors.operators import Operator

BUNDLE = bundles.load(bundle_directory("resnet32-cifar10"))


def operators_of(part: str) -> list[Operator]:
    return list(extract_block(BUNDLE.file_of(part).read_bytes(), part).operators)


def test_a_residual_block_is_two_convolutions_and_an_addition() -> None:
    shape = (32, 32, 16)
    convolution = Operator("conv", shape, shape, (3, 3), (1, 1), "relu")
    first, second, last = operators_of("block01")
    assert first == convolution
    assert (second.type, second.source, second.kernel) == ("conv", shape, (3, 3))
    assert last == Operator("add", shape, shape, activation="relu")


def test_an_exit_has_a_batch_normalisation_where_the_converter_could_not_fold_it() -> None:
    found = [operator.type for operator in operators_of("exit01")]
    assert found == ["conv", "max_pool", "batch_norm", "reshape", "dense", "dense"]
    assert operators_of("exit01")[0].stride == (2, 2)
    assert operators_of("exit01")[4].source == (1, 1, 2048)


def test_the_head_averages_over_the_area() -> None:
    average, dense = operators_of("head")
    assert (average.type, average.source, average.result) == (
        "global_avg_pool",
        (8, 8, 64),
        (1, 1, 64),
    )
    assert (dense.type, dense.result) == ("dense", (1, 1, 10))


def test_an_exit_of_the_second_network_looks_for_the_maximum_over_the_area() -> None:
    bundle = bundles.load(bundle_directory("mobilenetv2-cifar10"))
    block = extract_block(bundle.file_of("exit02").read_bytes(), "exit02")
    (maximum,) = (o for o in block.operators if o.type == "global_max_pool")
    assert (maximum.source, maximum.result) == ((16, 16, 96), (1, 1, 96))


@pytest.mark.parametrize("network", ["resnet32-cifar10", "mobilenetv2-cifar10"])
def test_every_part_of_a_shipped_bundle_can_be_read(network: str) -> None:
    bundle = bundles.load(bundle_directory(network))
    for part in bundle.manifest.parts:
        block = extract_block(bundle.file_of(part.name).read_bytes(), part.name)
        assert block.input_bytes == sum(spec.nbytes for spec in part.inputs)
        assert block.output_bytes == sum(spec.nbytes for spec in part.outputs)


@pytest.mark.parametrize(
    ("operator", "macs", "nbytes"),
    [
        (
            Operator("conv", (8, 8, 16), (4, 4, 32), (3, 3), (2, 2)),
            4 * 4 * 32 * 9 * 16,
            4 * (8 * 8 * 16 + 9 * 16 * 32 + 32 + 4 * 4 * 32),
        ),
        (
            Operator("depthwise_conv", (8, 8, 16), (8, 8, 16), (3, 3)),
            8 * 8 * 16 * 9,
            4 * (2 * 8 * 8 * 16 + 9 * 16 + 16),
        ),
        (Operator("dense", (1, 1, 64), (1, 1, 10)), 640, 4 * (64 + 640 + 10 + 10)),
        (Operator("add", (2, 2, 4), (2, 2, 4)), 16, 4 * 3 * 16),
        (Operator("batch_norm", (2, 2, 4), (2, 2, 4)), 16, 4 * (2 * 16 + 8)),
        (Operator("global_avg_pool", (4, 4, 8), (1, 1, 8)), 128, 4 * (128 + 8)),
        (
            Operator("conv", (8, 8, 16), (8, 8, 32), form="int8"),
            8 * 8 * 32 * 16,
            8 * 8 * 16 + 16 * 32 + 4 * 32 + 8 * 8 * 32,
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Operator) else None,
)
def test_work_and_bytes_follow_from_the_shapes(operator: Operator, macs: int, nbytes: int) -> None:
    assert operator.macs == macs
    assert operator.bytes_moved == nbytes
    assert operator.intensity == macs / nbytes


def convolution(
    *, dilation: int = 1, depth: int = 8, batch: int = 1, dtype: str = "float32"
) -> bytes:
    writer = GraphWriter()
    source = writer.tensor(TensorSpec("x", (batch, 8, 8, 8), dtype))
    result = writer.tensor(TensorSpec("y", (batch, 8, 8, 16), dtype))
    weights = writer.constant("w", np.ones((16, 3, 3, depth), np.float32))
    biases = writer.constant("b", np.ones(16, np.float32))
    options = schema.Conv2DOptionsT(
        strideH=1, strideW=1, dilationHFactor=dilation, dilationWFactor=dilation
    )
    writer.operator("CONV_2D", [source, weights, biases], result, options)
    return writer.finish([source], [result])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (convolution(dilation=2), "dilated"),
        (convolution(depth=4), "groups"),
        (convolution(batch=2), "batches above 1"),
        (convolution(dtype="float16"), "type float16"),
        (convolution(dtype="int8"), "weights of another type"),
    ],
    ids=["dilated", "groups", "batch", "float16", "mixed types"],
)
def test_what_no_profile_covers_is_refused_by_name(content: bytes, why: str) -> None:
    with pytest.raises(ModelError, match=f"part: operator 0, CONV_2D .*{why}.*measured latency"):
        extract_block(content, "part")


def test_an_operator_that_nobody_timed_is_refused_by_name() -> None:
    writer = GraphWriter()
    source = writer.tensor(TensorSpec("x", (1, 4)))
    result = writer.tensor(TensorSpec("y", (1, 4)))
    writer.operator("TANH", [source], result)
    with pytest.raises(ModelError, match=r"TANH of .1, 4.: the latency model has no such"):
        extract_block(writer.finish([source], [result]), "part")


def test_a_multiplication_whose_result_is_used_twice_is_no_batch_normalisation() -> None:
    writer = GraphWriter()
    source, scaled, moved, both = (
        writer.tensor(TensorSpec(name, (1, 4, 4, 8))) for name in ("x", "s", "m", "b")
    )
    factors = writer.constant("f", np.ones(8, np.float32))
    writer.operator("MUL", [source, factors], scaled, schema.MulOptionsT())
    writer.operator("ADD", [scaled, factors], moved, schema.AddOptionsT())
    writer.operator("ADD", [moved, scaled], both, schema.AddOptionsT())
    found = extract_block(writer.finish([source], [both]), "part").operators
    assert [operator.type for operator in found] == ["scale", "scale", "add"]
