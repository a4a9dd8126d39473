"""Exit heads as ``.tflite`` models: pool the activations, one dense layer, the model's own output.

A head answers in the shape, type and quantisation of the model's output, so that a client
need not know where an answer comes from.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from continuer.bundle import TensorSpec
from models.imported.graph import GraphWriter

if TYPE_CHECKING:
    import numpy.typing as npt

#: Averages over at most so many cells a side, and so many features in all.
MAX_GRID = 4
MAX_FEATURES = 1024
#: Activations without a height and width are taken as they are, up to so many.
MAX_FLAT = 8192


def fits(spec: TensorSpec) -> bool:
    """True where a head can be put on activations of this kind."""
    if spec.dtype != "float32" and spec.scale is None:
        return False
    return spec.shape[0] == 1 and (len(spec.shape) == 4 or math.prod(spec.shape) <= MAX_FLAT)


def pooled(spec: TensorSpec) -> bytes:
    """A model from activations to the features (1, N) that a head has, as floats."""
    writer = GraphWriter()
    source = writer.tensor(spec)
    return writer.finish([source], [_features(writer, source, spec)])


def feature_count(spec: TensorSpec) -> int:
    """How many features ``pooled`` makes of such activations."""
    return math.prod(_pooled_shape(spec.shape)[0])


def head(
    spec: TensorSpec,
    output: TensorSpec,
    weights: npt.NDArray[np.float32],
    biases: npt.NDArray[np.float32],
    *,
    softmax: bool,
) -> bytes:
    """A model from activations to an answer like the whole model's.

    ``weights`` (classes, features) and ``biases`` (classes,) work on what ``pooled`` gives;
    ``softmax``: the model gives probabilities, and not logits.
    """
    writer = GraphWriter()
    source = writer.tensor(spec)
    features = _features(writer, source, spec)
    last = writer.tensor(TensorSpec("logits", (1, len(biases)), "float32"))
    dense = [features, writer.constant("weights", weights), writer.constant("biases", biases)]
    writer.operator("FULLY_CONNECTED", dense, last, schema.FullyConnectedOptionsT())
    if softmax:
        last = _append(writer, "SOFTMAX", last, (1, len(biases)), schema.SoftmaxOptionsT(beta=1.0))
    if output.shape != (1, len(biases)):
        last = _reshape(writer, last, output.shape, "float32", None)
    if output.dtype != "float32":
        result = writer.tensor(output)
        writer.operator("QUANTIZE", [last], result)
        last = result
    return writer.finish([source], [last])


def _features(writer: GraphWriter, source: int, spec: TensorSpec) -> int:
    """Append the pooling; returns the features' tensor."""
    shape, (rows, columns) = _pooled_shape(spec.shape)
    if len(shape) == 4:
        average = writer.tensor(
            TensorSpec("pooled", shape, spec.dtype, spec.scale, spec.zero_point)
        )
        options = schema.Pool2DOptionsT(
            padding=schema.Padding.VALID,
            strideH=rows,
            strideW=columns,
            filterHeight=rows,
            filterWidth=columns,
        )
        writer.operator("AVERAGE_POOL_2D", [source], average, options, version=2)
        source = average
    count = math.prod(shape)
    flat = _reshape(writer, source, (1, count), spec.dtype, spec)
    if spec.scale is not None:
        flat = _append(writer, "DEQUANTIZE", flat, (1, count), None, version=2)
    return flat


def _pooled_shape(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The shape after pooling, and the height and width of a cell."""
    if len(shape) != 4:
        return shape, (1, 1)
    _, height, width, channels = shape
    rows, columns = _cells(height, width, channels)
    return (1, height // rows, width // columns, channels), (rows, columns)


def _cells(height: int, width: int, channels: int) -> tuple[int, int]:
    """Height and width of a cell: the finest grid that does not make too many features."""
    for grid in range(MAX_GRID, 1, -1):
        rows, columns = max(1, height // grid), max(1, width // grid)
        if (height // rows) * (width // columns) * channels <= MAX_FEATURES:
            return rows, columns
    return height, width


def _append(
    writer: GraphWriter,
    name: str,
    source: int,
    shape: tuple[int, ...],
    options: Any,
    version: int = 1,
) -> int:
    result = writer.tensor(TensorSpec(name.lower(), shape, "float32"))
    writer.operator(name, [source], result, options, version)
    return result


def _reshape(
    writer: GraphWriter, source: int, shape: tuple[int, ...], dtype: str, like: TensorSpec | None
) -> int:
    scale, zero = (like.scale, like.zero_point) if like else (None, None)
    result = writer.tensor(TensorSpec("reshaped", shape, dtype, scale, zero))
    wanted = writer.constant("shape", np.array(shape, np.int32))
    options = schema.ReshapeOptionsT(newShape=np.array(shape, np.int32))
    writer.operator("RESHAPE", [source, wanted], result, options)
    return result
