"""A model of one operator as a ``.tflite`` file, to time it. Needs the runtime, no TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from continuer.bundle import TensorSpec
from models.imported.graph import GraphWriter
from predictors.operators import Operator

if TYPE_CHECKING:
    import numpy.typing as npt

CODES = {
    "none": schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}
# Activations of 8 bits: their scale does not matter to the time, but the ratios must be legal.
SCALE = 0.05
WEIGHT_SCALE = 0.01
#: Versions of operators that take 8-bit integers.
VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "ADD": 2,
    "MEAN": 2,
    "AVERAGE_POOL_2D": 2,
}


def single_operator_model(operator: Operator) -> bytes:
    """The contents of a ``.tflite`` file that runs this operator and nothing else.

    An input of float32 has the operator's source shape behind a batch of 1; ``add`` has two.
    Weights are seeded normal numbers: zeros or denormals could be quicker or slower.
    """
    return _Writer(operator).write()


class _Writer:
    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._writer = GraphWriter()
        self._random = np.random.default_rng(1)
        self._quantised = operator.form != "float32"

    def write(self) -> bytes:
        operator = self._operator
        flat = operator.type in ("dense", "softmax")
        source = self._activation("source", operator.source[2:] if flat else operator.source)
        flat_result = flat or operator.type == "reshape"
        shape = operator.result[2:] if flat_result else operator.result
        result = self._activation("result", shape)
        inputs = getattr(self, f"_{operator.type}")(source, result)
        return self._writer.finish(inputs, [result])

    def _activation(self, name: str, shape: tuple[int, ...]) -> int:
        scale = SCALE if self._quantised else None
        form = self._operator.form
        return self._writer.tensor(TensorSpec(name, (1, *shape), form, scale, 0 if scale else None))

    def _add_operator(self, name: str, inputs: list[int], result: int, options: Any) -> None:
        version = VERSIONS.get(name, 1) if self._quantised else 1
        self._writer.operator(name, inputs, result, options, version)

    def _weights(self, shape: tuple[int, ...]) -> int:
        drawn = self._random.standard_normal(shape).astype(np.float32)
        if not self._quantised:
            return self._writer.constant("weights", drawn)
        levels = np.clip(drawn * 40, -127, 127).astype(np.int8)
        return self._writer.constant("weights", levels, WEIGHT_SCALE)

    def _biases(self, count: int) -> int:
        drawn: npt.NDArray[Any] = self._random.standard_normal(count).astype(np.float32)
        if not self._quantised:
            return self._writer.constant("biases", drawn)
        return self._writer.constant("biases", drawn.astype(np.int32), SCALE * WEIGHT_SCALE)

    def _window(self, options: Any) -> Any:
        """Fill in what convolutions and pools have in common."""
        operator = self._operator
        padding = schema.Padding.SAME if operator.same_padding else schema.Padding.VALID
        options.padding = padding
        options.strideH, options.strideW = operator.stride
        options.fusedActivationFunction = CODES[operator.activation]
        return options

    def _conv(self, source: int, result: int) -> list[int]:
        operator = self._operator
        shape = (operator.result[2], *operator.kernel, operator.source[2])
        inputs = [source, self._weights(shape), self._biases(operator.result[2])]
        options = schema.Conv2DOptionsT(dilationHFactor=1, dilationWFactor=1)
        self._add_operator("CONV_2D", inputs, result, self._window(options))
        return [source]

    def _depthwise_conv(self, source: int, result: int) -> list[int]:
        operator = self._operator
        channels = operator.source[2]
        inputs = [source, self._weights((1, *operator.kernel, channels)), self._biases(channels)]
        options = schema.DepthwiseConv2DOptionsT(
            depthMultiplier=1, dilationHFactor=1, dilationWFactor=1
        )
        self._add_operator("DEPTHWISE_CONV_2D", inputs, result, self._window(options))
        return [source]

    def _dense(self, source: int, result: int) -> list[int]:
        units, count = self._operator.result[2], self._operator.source[2]
        inputs = [source, self._weights((units, count)), self._biases(units)]
        options = schema.FullyConnectedOptionsT(
            fusedActivationFunction=CODES[self._operator.activation]
        )
        self._add_operator("FULLY_CONNECTED", inputs, result, options)
        return [source]

    def _pool(self, name: str, source: int, result: int) -> list[int]:
        height, width = self._operator.kernel
        options = schema.Pool2DOptionsT(filterHeight=height, filterWidth=width)
        self._add_operator(name, [source], result, self._window(options))
        return [source]

    def _max_pool(self, source: int, result: int) -> list[int]:
        return self._pool("MAX_POOL_2D", source, result)

    def _avg_pool(self, source: int, result: int) -> list[int]:
        return self._pool("AVERAGE_POOL_2D", source, result)

    def _reduce(self, name: str, source: int, result: int) -> list[int]:
        axes = self._writer.constant("axes", np.array([1, 2], np.int32))
        self._add_operator(name, [source, axes], result, schema.ReducerOptionsT(keepDims=True))
        return [source]

    def _global_avg_pool(self, source: int, result: int) -> list[int]:
        return self._reduce("MEAN", source, result)

    def _global_max_pool(self, source: int, result: int) -> list[int]:
        return self._reduce("REDUCE_MAX", source, result)

    def _relu(self, source: int, result: int) -> list[int]:
        self._add_operator("RELU", [source], result, None)
        return [source]

    def _add(self, source: int, result: int) -> list[int]:
        other = self._activation("other", self._operator.source)
        options = schema.AddOptionsT(fusedActivationFunction=CODES[self._operator.activation])
        self._add_operator("ADD", [source, other], result, options)
        return [source, other]

    def _scale(self, source: int, result: int) -> list[int]:
        factors = self._weights(self._operator.source[2:])
        options = schema.MulOptionsT(fusedActivationFunction=CODES[self._operator.activation])
        self._add_operator("MUL", [source, factors], result, options)
        return [source]

    def _batch_norm(self, source: int, result: int) -> list[int]:
        scaled = self._activation("scaled", self._operator.source)
        factors = self._weights(self._operator.source[2:])
        self._add_operator("MUL", [source, factors], scaled, schema.MulOptionsT())
        options = schema.AddOptionsT(fusedActivationFunction=CODES[self._operator.activation])
        offsets = self._weights(self._operator.source[2:])
        self._add_operator("ADD", [scaled, offsets], result, options)
        return [source]

    def _pad(self, source: int, result: int) -> list[int]:
        operator = self._operator
        more = [operator.result[axis] - operator.source[axis] for axis in (0, 1)]
        sides = [[0, 0], *([n // 2, n - n // 2] for n in more), [0, 0]]
        margins = self._writer.constant("margins", np.array(sides, np.int32))
        self._add_operator("PAD", [source, margins], result, schema.PadOptionsT())
        return [source]

    def _softmax(self, source: int, result: int) -> list[int]:
        self._add_operator("SOFTMAX", [source], result, schema.SoftmaxOptionsT(beta=1.0))
        return [source]

    def _reshape(self, source: int, result: int) -> list[int]:
        shape = np.array((1, *self._operator.result[2:]), np.int32)
        wanted = self._writer.constant("shape", shape)
        options = schema.ReshapeOptionsT(newShape=shape)
        self._add_operator("RESHAPE", [source, wanted], result, options)
        return [source]
