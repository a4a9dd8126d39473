"""Operators as the latency model sees them: kind, hyper-parameters, and what follows from these."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

#: Layer types of the paper's Table I that leave an operator behind at inference. Dropout, the
#: eighth, leaves none: converters remove it.
PAPER_TYPES = (
    "batch_norm",
    "conv",
    "relu",
    "dense",
    "add",
    "depthwise_conv",
    "global_avg_pool",
)
#: What blocks of real networks have besides.
OTHER_TYPES = (
    "scale",
    "pad",
    "max_pool",
    "avg_pool",
    "softmax",
    "reshape",
    "global_max_pool",
)
TYPES = (*PAPER_TYPES, *OTHER_TYPES)
#: Types whose form with 8-bit integers is profiled too; the others are as floats only.
INT8_TYPES = ("conv", "depthwise_conv", "dense", "add", "global_avg_pool", "avg_pool", "reshape")
NO_DROPOUT = "converters remove dropout, so there is no such operator at inference"

Form = Literal["float32", "int8"]
Activation = Literal["none", "relu", "relu6"]
Shape = tuple[int, int, int]
SIZES: dict[str, int] = {"float32": 4, "int8": 1}


class Operator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One fused operator with a batch of 1. Shapes are (height, width, channels).

    ``kernel`` and ``stride`` are (rows, columns); a dense layer's ``source`` is (1, 1, inputs).
    ``activation`` is what the operator applies to its result before it writes it.
    """

    type: str
    source: Shape
    result: Shape
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    activation: Activation = "none"
    form: Form = "float32"

    @property
    def kind(self) -> str:
        """What has a regressor of its own: the type, and the form where that is not float32."""
        return self.type if self.form == "float32" else f"{self.type}_{self.form}"

    @property
    def weights(self) -> int:
        """How many weights it reads, without biases."""
        area = self.kernel[0] * self.kernel[1]
        channels, filters = self.source[2], self.result[2]
        if self.type in ("conv", "dense"):
            return area * channels * filters
        if self.type == "depthwise_conv":
            return area * filters
        return {"batch_norm": 2, "scale": 1}.get(self.type, 0) * filters

    @property
    def macs(self) -> int:
        """Multiply-accumulates; for operators that have none, the numbers they work out or read."""
        area = self.kernel[0] * self.kernel[1]
        if self.type in ("conv", "dense"):
            return math.prod(self.result) * area * self.source[2]
        if self.type in ("depthwise_conv", "max_pool", "avg_pool"):
            return math.prod(self.result) * area
        return max(math.prod(self.source), math.prod(self.result))

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written once each: inputs, weights, biases, result."""
        size = SIZES[self.form]
        inputs = math.prod(self.source) * (2 if self.type == "add" else 1)
        biases = 4 * self.result[2] if self.type in ("conv", "dense", "depthwise_conv") else 0
        return size * (inputs + self.weights + math.prod(self.result)) + biases

    @property
    def intensity(self) -> float:
        """Multiply-accumulates per byte moved."""
        return self.macs / self.bytes_moved

    @property
    def same_padding(self) -> bool:
        """True where the result's height and width are those of padding SAME."""
        return all(
            out == -(-size // step)
            for size, out, step in zip(self.source[:2], self.result[:2], self.stride, strict=True)
        )
