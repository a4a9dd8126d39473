"""Shapes and initial weights of a network, found by running it on shapes alone."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from models.network import IMAGE_SHAPE, Network

#: (height, width, channels), or (n,) once flat.
Shape = tuple[int, ...]
Array = npt.NDArray[np.float32]


class ShapeOps:
    """An interpreter of ``models.ops.Ops`` whose tensors are shapes without the batch.

    ``weights`` gathers an initial array for every variable that is asked for: kernels
    normal with variance 2 / inputs (He et al., "Delving Deep into Rectifiers", 2015),
    biases 0, normalisations the identity. An array depends on seed and name alone.
    """

    def __init__(self, seed: int = 0) -> None:
        self.weights: dict[str, Array] = {}
        self._seed = seed

    def conv(
        self, tensor: Shape, name: str, filters: int, kernel: int, stride: int = 1, *, bias: bool
    ) -> Shape:
        """Output shape; notes ``kernel`` and perhaps ``bias``."""
        self._kernel(name, (kernel, kernel, tensor[2], filters), kernel * kernel * tensor[2])
        if bias:
            self._constant(f"{name}/bias", filters, 0.0)
        return (*_strided(tensor, stride), filters)

    def depthwise(self, tensor: Shape, name: str, kernel: int, stride: int) -> Shape:
        """Output shape; notes ``kernel``."""
        self._kernel(name, (kernel, kernel, tensor[2], 1), kernel * kernel)
        return (*_strided(tensor, stride), tensor[2])

    def bn(self, tensor: Shape, name: str) -> Shape:
        """The same shape; notes the four variables."""
        for variable in ("gamma", "moving_variance"):
            self._constant(f"{name}/{variable}", tensor[-1], 1.0)
        for variable in ("beta", "moving_mean"):
            self._constant(f"{name}/{variable}", tensor[-1], 0.0)
        return tensor

    def relu(self, tensor: Shape, name: str) -> Shape:  # noqa: ARG002 (no variables)
        """The same shape."""
        return tensor

    relu6 = relu

    def add(self, left: Shape, right: Shape, name: str) -> Shape:
        """The same shape; both must have it."""
        assert left == right, f"{name}: {left} and {right}"
        return left

    def max_pool(self, tensor: Shape, name: str, size: int) -> Shape:  # noqa: ARG002 (as above)
        """Height and width divided, rests dropped."""
        return (tensor[0] // size, tensor[1] // size, tensor[2])

    def global_average(self, tensor: Shape, name: str) -> Shape:  # noqa: ARG002 (as above)
        """(channels,)."""
        return tensor[2:]

    global_max = global_average

    def flatten(self, tensor: Shape, name: str) -> Shape:  # noqa: ARG002 (as above)
        """(height * width * channels,)."""
        return (math.prod(tensor),)

    def dense(self, tensor: Shape, name: str, units: int) -> Shape:
        """(units,); notes ``kernel`` and ``bias``."""
        self._kernel(name, (tensor[0], units), tensor[0])
        self._constant(f"{name}/bias", units, 0.0)
        return (units,)

    def _kernel(self, name: str, shape: Shape, inputs: int) -> None:
        name = f"{name}/kernel"
        generator = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        scale = math.sqrt(2 / inputs)
        self.weights[name] = (scale * generator.standard_normal(shape)).astype(np.float32)

    def _constant(self, name: str, length: int, value: float) -> None:
        self.weights[name] = np.full(length, value, np.float32)


def _strided(tensor: Shape, stride: int) -> tuple[int, int]:
    return -(-tensor[0] // stride), -(-tensor[1] // stride)


def input_shapes(network: Network) -> dict[str, Shape]:
    """The input of every part, (height, width, channels)."""
    return _explore(network, ShapeOps())


def initial_weights(network: Network, seed: int) -> dict[str, Array]:
    """An array for every variable of the network, in the order of the parts."""
    ops = ShapeOps(seed)
    _explore(network, ops)
    return ops.weights


def _explore(network: Network, ops: ShapeOps) -> dict[str, Shape]:
    shapes: dict[str, Any] = {}
    flow: Any = IMAGE_SHAPE
    for block in network.blocks:
        for part in (block.part, block.bypass):
            if part is not None:
                shapes[part], after = flow, network.parts[part](ops, flow)
        if block.exit is not None:
            shapes[block.exit] = after
            network.parts[block.exit](ops, after)
        flow = after
    return shapes
