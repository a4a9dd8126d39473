"""The operators of a block, read from its ``.tflite`` file. Needs the runtime, no TensorFlow.

A constant multiplication followed by a constant addition is a batch normalisation, which is
how converters write one that nothing precedes; what they fold into a convolution is gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from continuer.errors import ModelError
from models.imported.flatbuffer import DTYPES, Network
from models.imported.foreign import read
from predictors.operators import SIZES, Activation, Operator, Shape

ACTIVATIONS: dict[int, Activation] = {
    schema.ActivationFunctionType.NONE: "none",
    schema.ActivationFunctionType.RELU: "relu",
    schema.ActivationFunctionType.RELU6: "relu6",
}
ELEMENTWISE = {"RELU": "relu", "RELU6": "relu", "SOFTMAX": "softmax", "RESHAPE": "reshape"}
POOLS = {"MAX_POOL_2D": "max_pool", "AVERAGE_POOL_2D": "avg_pool"}
REDUCTIONS = {"MEAN": "global_avg_pool", "REDUCE_MAX": "global_max_pool"}
SCALES = frozenset({"MUL", "ADD", "SUB"})


@dataclass(frozen=True)
class Block:
    """What the latency of a block depends on.

    ``input_bytes`` and ``output_bytes`` are copied in and out when an agent runs it.
    """

    operators: tuple[Operator, ...]
    input_bytes: int
    output_bytes: int


def extract_block(content: bytes, subject: str) -> Block:
    """The operators of a ``.tflite`` file in order, and what goes in and comes out.

    Raises ModelError, which begins with ``subject``, for a malformed file and for operators
    that the latency model does not know; a measured latency must do for these.
    """
    network = read(content, subject)
    found = tuple(_Reader(network, subject).operators())

    def size(tensors: tuple[int, ...]) -> int:
        return sum(network.spec(t).nbytes for t in tensors)

    return Block(found, size(network.inputs), size(network.outputs))


class _Reader:
    def __init__(self, network: Network, subject: str) -> None:
        self._network = network
        self._subject = subject
        self._consumers: dict[int, list[int]] = {}
        for operator in range(len(network.operators)):
            for tensor in network.reads(operator):
                self._consumers.setdefault(tensor, []).append(operator)

    def operators(self) -> Iterator[Operator]:
        network = self._network
        merged: set[int] = set()
        for operator in range(len(network.operators)):
            if operator in network.fixed or operator in merged:
                continue
            offset = self._offset_behind(operator)
            if offset is not None:
                merged.add(offset)
                yield self._made(operator, "batch_norm", last=offset)
            else:
                yield self._read(operator)

    def _offset_behind(self, operator: int) -> int | None:
        """The constant addition that alone uses a constant multiplication's result."""
        if self._network.operator_name(operator) != "MUL" or not self._has_constant(operator):
            return None
        (result,) = self._network.writes(operator)
        users = self._consumers.get(result, [])
        if len(users) != 1 or result in self._network.outputs:
            return None
        adds = self._network.operator_name(users[0]) == "ADD"
        return users[0] if adds and self._has_constant(users[0]) else None

    def _has_constant(self, operator: int) -> bool:
        return any(self._network.is_constant(t) for t in self._network.reads(operator))

    def _read(self, operator: int) -> Operator:
        network = self._network
        name = network.operator_name(operator)
        options = network.operators[operator].builtinOptions
        if name in ELEMENTWISE:
            return self._made(operator, ELEMENTWISE[name])
        if name in ("PAD", "PADV2"):
            return self._made(operator, "pad")
        if name in SCALES and self._has_constant(operator):
            return self._made(operator, "scale")
        if name == "ADD":
            sides = {network.shape(t) for t in network.reads(operator)}
            if len(sides) == 1:
                return self._made(operator, "add")
        if name in POOLS:
            return self._pool(operator, POOLS[name], options)
        if name in REDUCTIONS and self._spans_the_area(operator):
            return self._made(operator, REDUCTIONS[name])
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            return self._convolution(operator, name, options)
        if name == "FULLY_CONNECTED":
            return self._dense(operator)
        raise self._unknown(operator, "the latency model has no such operator")

    def _unknown(self, operator: int, why: str) -> ModelError:
        shapes = [self._network.shape(t) for t in self._network.reads(operator)]
        return ModelError(
            f"{self._subject}: operator {operator}, {self._network.operator_name(operator)} of "
            f"{', '.join(map(str, shapes))}: {why}; use the measured latency of this block"
        )

    def _convolution(self, operator: int, name: str, options: Any) -> Operator:
        network = self._network
        source, weights = network.reads(operator)[:2]
        _, rows, columns, depth = network.shape(weights)
        if (options.dilationHFactor, options.dilationWFactor) != (1, 1):
            raise self._unknown(operator, "dilated convolutions are not profiled")
        channels = network.shape(source)[-1]
        if name == "CONV_2D" and depth != channels:
            raise self._unknown(operator, "convolutions in groups are not profiled")
        if name == "DEPTHWISE_CONV_2D" and depth != channels:
            raise self._unknown(operator, "depth multipliers above 1 are not profiled")
        return self._made(
            operator,
            "conv" if name == "CONV_2D" else "depthwise_conv",
            kernel=(rows, columns),
            stride=(options.strideH, options.strideW),
        )

    def _dense(self, operator: int) -> Operator:
        network = self._network
        units, inputs = network.shape(network.reads(operator)[1])
        (result,) = network.writes(operator)
        if network.elements(result) != units:
            raise self._unknown(operator, "a dense layer over several rows is not profiled")
        return self._made(operator, "dense", source=(1, 1, inputs), result=(1, 1, units))

    def _pool(self, operator: int, type_: str, options: Any) -> Operator:
        kernel = (options.filterHeight, options.filterWidth)
        made = self._made(operator, type_, kernel=kernel, stride=(options.strideH, options.strideW))
        if type_ == "avg_pool" and kernel == made.source[:2] and made.result[:2] == (1, 1):
            return self._made(operator, "global_avg_pool")
        return made

    def _spans_the_area(self, operator: int) -> bool:
        """A reduction over height and width, and nothing else."""
        source = self._network.reads(operator)[0]
        (result,) = self._network.writes(operator)
        shape = self._network.shape(source)
        return len(shape) == 4 and math.prod(shape[1:3]) * self._network.elements(
            result
        ) == self._network.elements(source)

    def _made(
        self,
        operator: int,
        type_: str,
        *,
        last: int | None = None,
        source: Shape | None = None,
        result: Shape | None = None,
        kernel: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
    ) -> Operator:
        """The record; ``last`` is the operator that writes the result, where it is another."""
        network = self._network
        first = next(t for t in network.reads(operator) if not network.is_constant(t))
        (written,) = network.writes(operator if last is None else last)
        form: Any = DTYPES.get(network.tensors[first].type)
        if form not in SIZES:
            raise self._unknown(operator, f"type {form or 'unknown'} is not profiled")
        weights = [t for t in network.reads(operator)[1:2] if network.is_constant(t)]
        if type_ in ("conv", "depthwise_conv", "dense") and any(
            DTYPES.get(network.tensors[t].type) != form for t in weights
        ):
            raise self._unknown(operator, "weights of another type than the input: not profiled")
        options = network.operators[operator if last is None else last].builtinOptions
        code = getattr(options, "fusedActivationFunction", 0)
        if code not in ACTIVATIONS:
            raise self._unknown(operator, f"activation number {code} is not profiled")
        return Operator(
            type_,
            source or self._sides(operator, first),
            result or self._sides(operator, written),
            kernel,
            stride,
            ACTIVATIONS[code],
            form,
        )

    def _sides(self, operator: int, tensor: int) -> Shape:
        """A tensor's (height, width, channels); what has fewer dimensions is 1 high and wide."""
        shape = self._network.shape(tensor)
        if len(shape) > 1 and shape[0] != 1:
            raise self._unknown(operator, "batches above 1 are not profiled")
        inner = shape[1:] if len(shape) > 1 else shape
        if len(inner) > 3:
            raise self._unknown(operator, "tensors of more than four dimensions are not profiled")
        height, width, channels = (1,) * (3 - len(inner)) + inner
        return height, width, channels
