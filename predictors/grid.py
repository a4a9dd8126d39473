"""Which operators are timed: a designed grid over the hyper-parameters of Table I.

Real networks use few channel counts and sizes, but in many combinations. The grid is drawn
from these by a seeded low-discrepancy sequence, so that every hyper-parameter's values come
up about equally often and combinations spread evenly, within bounds on work and memory: an
operator that takes longer than some milliseconds belongs to no network for small boxes. To
these come the shapes that residual networks, and those of inverted residuals, are made of.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from predictors.operators import INT8_TYPES, TYPES, Activation, Form, Operator, Shape

SIDES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112)
CHANNELS = (
    *(3, 8, 10, 12, 16, 20, 24, 32, 40, 48, 56, 64, 72, 80, 96, 112, 120, 128, 144, 160, 192),
    *(224, 240, 256, 288, 320, 384, 432, 480, 512, 576, 640, 768, 960, 1024, 1280),
)
UNITS = (2, 5, 10, 16, 20, 32, 64, 100, 128, 256, 512, 1000, 1024)
INPUTS = (*CHANNELS[1:], 1536, 2048, 2304, 3072, 4096, 6272)
KERNELS = (1, 3, 3, 5, 7)
# The runtime has no quick kernels for larger ones: those take twenty times as long.
DEPTHWISE_KERNELS = (3, 3, 5)
STRIDES = (1, 1, 1, 2)
ACTIVATIONS: tuple[Activation, ...] = ("none", "relu", "relu6")
#: At most so many multiply-accumulates in one operator, and numbers in one tensor.
MAX_MACS = 60_000_000
MAX_ELEMENTS = 820_000
MAX_WEIGHTS = 2_500_000
#: Weights of one filter: what has large kernels has few channels.
MAX_FILTER_WEIGHTS = 9 * 1280
#: Less where an operator moves much for each of them.
MAX_MACS_OF = {"depthwise_conv": 5_000_000, "avg_pool": 1_000_000}
#: Networks average, or look for maxima, over the area at their end, where it is small.
MAX_AVERAGED_SIDE = 32
#: Sides of the stages of networks for images of 32x32 and of 224x224, and their channels.
STAGE_SIDES = (4, 7, 8, 14, 16, 28, 32, 56)
RESIDUAL_CHANNELS = (16, 32, 64, 128)
INVERTED_CHANNELS = (16, 24, 32, 64, 96, 160)
EXPANSION = 6
#: How many shapes of each type; what is tiled most finely by the kernels needs most.
COUNTS: dict[str, int] = {
    "conv": 520,
    "depthwise_conv": 220,
    "dense": 170,
    "batch_norm": 120,
    "relu": 100,
    "add": 110,
    "global_avg_pool": 150,
    "scale": 60,
    "pad": 60,
    "max_pool": 70,
    "avg_pool": 60,
    "softmax": 24,
    "reshape": 40,
    "global_max_pool": 60,
}
#: Share of that for the form with 8-bit integers.
INT8_SHARE = 0.35
#: More draws than this for one wanted shape mean that the bounds leave too few.
MAX_DRAWS = 400
PRIMES = (2, 3, 5, 7, 11, 13, 17)

T = TypeVar("T")


def halton(index: int, base: int) -> float:
    """The ``index``-th number of the van der Corput sequence in this base, in [0, 1)."""
    value, share = 0.0, 1.0 / base
    while index:
        index, digit = divmod(index, base)
        value += digit * share
        share /= base
    return value


class Draw:
    """One point of the sequence; each choice takes its next coordinate."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._used = 0

    def of(self, values: Sequence[T]) -> T:
        """One of the values."""
        base = PRIMES[self._used]
        self._used += 1
        return values[int(halton(self._index, base) * len(values))]


def _area(draw: Draw) -> Shape:
    side = draw.of(SIDES)
    return side, side, draw.of(CHANNELS)


def _same(type_: str) -> Callable[[Draw, Form], Operator]:
    def make(draw: Draw, form: Form) -> Operator:
        shape = _area(draw)
        activation = draw.of(ACTIVATIONS) if type_ in ("add", "scale", "batch_norm") else "none"
        return Operator(type_, shape, shape, activation=activation, form=form)

    return make


def _windowed(type_: str, kernels: Sequence[int]) -> Callable[[Draw, Form], Operator]:
    def make(draw: Draw, form: Form) -> Operator:
        height, width, channels = _area(draw)
        kernel, stride = draw.of(kernels), draw.of(STRIDES)
        if type_ in ("max_pool", "avg_pool"):
            stride = draw.of((1, kernel))
        filters = draw.of(CHANNELS[1:]) if type_ == "conv" else channels
        activation = draw.of(ACTIVATIONS) if "conv" in type_ else "none"
        result = (-(-height // stride), -(-width // stride), filters)
        source, both = (height, width, channels), (kernel, kernel)
        return Operator(type_, source, result, both, (stride, stride), activation, form)

    return make


def _dense(draw: Draw, form: Form) -> Operator:
    inputs, units = draw.of(INPUTS), draw.of(UNITS)
    activation = draw.of(ACTIVATIONS)
    return Operator("dense", (1, 1, inputs), (1, 1, units), activation=activation, form=form)


def _reduced(type_: str) -> Callable[[Draw, Form], Operator]:
    def make(draw: Draw, form: Form) -> Operator:
        shape = _area(draw)
        return Operator(type_, shape, (1, 1, shape[2]), form=form)

    return make


def _pad(draw: Draw, form: Form) -> Operator:
    height, width, channels = _area(draw)
    more = draw.of((1, 2, 3))
    return Operator(
        "pad", (height, width, channels), (height + more, width + more, channels), form=form
    )


def _softmax(draw: Draw, form: Form) -> Operator:
    shape = (1, 1, draw.of((*UNITS, 3, 7, 24, 48, 80, 160, 200, 365, 400, 768, 1280)))
    return Operator("softmax", shape, shape, form=form)


def _reshape(draw: Draw, form: Form) -> Operator:
    shape = _area(draw)
    return Operator("reshape", shape, (1, 1, math.prod(shape)), form=form)


MAKERS: dict[str, Callable[[Draw, Form], Operator]] = {
    "conv": _windowed("conv", KERNELS),
    "depthwise_conv": _windowed("depthwise_conv", DEPTHWISE_KERNELS),
    "max_pool": _windowed("max_pool", (2, 3)),
    "avg_pool": _windowed("avg_pool", (2, 3, 4)),
    "dense": _dense,
    "global_avg_pool": _reduced("global_avg_pool"),
    "global_max_pool": _reduced("global_max_pool"),
    "pad": _pad,
    "softmax": _softmax,
    "reshape": _reshape,
    **{name: _same(name) for name in ("batch_norm", "relu", "add", "scale")},
}


def within_bounds(operator: Operator) -> bool:
    """True for an operator that a small box can be asked to run some hundred times."""
    if operator.type == "avg_pool" and operator.kernel == operator.source[:2]:
        return False  # that is a global average pool
    filters = operator.result[2]
    if operator.type == "conv" and operator.weights > MAX_FILTER_WEIGHTS * filters:
        return False
    if "global" in operator.type and operator.source[0] > MAX_AVERAGED_SIDE:
        return False
    return (
        operator.macs <= MAX_MACS_OF.get(operator.type, MAX_MACS)
        and operator.weights <= MAX_WEIGHTS
        and max(math.prod(operator.source), math.prod(operator.result)) <= MAX_ELEMENTS
        and all(
            k <= max(side, 3) for k, side in zip(operator.kernel, operator.source, strict=False)
        )
    )


def designed(share: float = 1.0) -> tuple[Operator, ...]:
    """The grid: every type and form, no operator twice.

    ``share`` below 1 gives fewer of each, but always some: for a first look, and for tests.
    """
    found: dict[Operator, None] = {}
    for type_ in TYPES:
        found |= dict.fromkeys(_of_networks(type_)) if share == 1 else {}
        found |= dict.fromkeys(_drawn(type_, "float32", share * COUNTS[type_]))
        if type_ in INT8_TYPES:
            found |= dict.fromkeys(_drawn(type_, "int8", share * COUNTS[type_] * INT8_SHARE))
    return tuple(found)


def _of_networks(type_: str) -> Iterator[Operator]:
    """What residual blocks and inverted residual blocks have of this type, within the bounds."""
    sizes = itertools.product(STAGE_SIDES, RESIDUAL_CHANNELS)
    inverted = itertools.product(STAGE_SIDES, INVERTED_CHANNELS)
    found: list[Operator] = []
    if type_ == "conv":
        found += [_square(type_, n, c, c, 3, 1, "relu") for n, c in sizes]
        for side, channels in inverted:
            wide = EXPANSION * channels
            found.append(_square(type_, side, channels, wide, 1, 1, "relu6"))
            found.append(_square(type_, side, wide, channels, 1, 1, "none"))
    elif type_ == "depthwise_conv":
        for (side, channels), stride in itertools.product(inverted, (1, 2)):
            wide = EXPANSION * channels
            found.append(_square(type_, side, wide, wide, 3, stride, "relu6"))
    elif type_ == "add":
        found += [_square(type_, n, c, c, 1, 1, "relu") for n, c in sizes]
    yield from filter(within_bounds, found)


def _square(
    type_: str,
    side: int,
    channels: int,
    filters: int,
    kernel: int,
    stride: int,
    activation: Activation,
) -> Operator:
    out = -(-side // stride)
    both, step = (kernel, kernel), (stride, stride)
    return Operator(type_, (side, side, channels), (out, out, filters), both, step, activation)


def _drawn(type_: str, form: Form, wanted: float) -> Iterator[Operator]:
    seen: set[Operator] = set()
    count = max(4, round(wanted))
    for index in range(1, count * MAX_DRAWS):
        operator = MAKERS[type_](Draw(index), form)
        if operator in seen or not within_bounds(operator):
            continue
        seen.add(operator)
        yield operator
        if len(seen) == count:
            return
