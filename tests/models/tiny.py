"""Small models for tests, written operator by operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from PIL import Image

from continuer.bundle import TensorSpec
from models.imported.graph import GraphWriter

SIDE, CHANNELS = 8, 3
SHAPE = (1, SIDE, SIDE, CHANNELS)
RELU = schema.ActivationFunctionType.RELU


class Sketch(GraphWriter):
    """A writer with the operators that tests use; every method returns the new tensor."""

    def input(self, shape: tuple[int, ...] = SHAPE, dtype: str = "float32", **more: Any) -> int:
        return self.tensor(TensorSpec("image", shape, dtype, **more))

    def like(self, name: str, shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> int:
        return self.tensor(TensorSpec(name, shape, dtype))

    def conv(self, source: int, gain: float, *, relu: bool = False, stride: int = 1) -> int:
        """A 1x1 convolution that multiplies every channel by ``gain``."""
        side = SIDE if stride == 1 else SIDE // stride
        result = self.like("conv", (1, side, side, CHANNELS))
        kernel = gain * np.eye(CHANNELS, dtype=np.float32).reshape(CHANNELS, 1, 1, CHANNELS)
        weights = self.constant("kernel", kernel)
        biases = self.constant("bias", np.zeros(CHANNELS, np.float32))
        options = schema.Conv2DOptionsT(strideH=stride, strideW=stride)
        options.fusedActivationFunction = RELU if relu else 0
        self.operator("CONV_2D", [source, weights, biases], result, options)
        return result

    def depthwise(self, source: int, gain: float) -> int:
        """A 3x3 convolution of each channel by itself, which multiplies by ``gain``."""
        result = self.like("depthwise")
        kernel = np.zeros((1, 3, 3, CHANNELS), np.float32)
        kernel[0, 1, 1] = gain
        weights = self.constant("kernel", kernel)
        biases = self.constant("bias", np.zeros(CHANNELS, np.float32))
        options = schema.DepthwiseConv2DOptionsT(strideH=1, strideW=1, depthMultiplier=1)
        options.fusedActivationFunction = RELU
        self.operator("DEPTHWISE_CONV_2D", [source, weights, biases], result, options)
        return result

    def add(self, left: int, right: int, *, relu: bool = False, side: int = SIDE) -> int:
        result = self.like("sum", (1, side, side, CHANNELS))
        options = schema.AddOptionsT(fusedActivationFunction=RELU if relu else 0)
        self.operator("ADD", [left, right], result, options)
        return result

    def relu(self, source: int) -> int:
        result = self.like("relu")
        self.operator("RELU", [source], result)
        return result

    def classes(self, source: int, *, softmax: bool = False) -> int:
        """The mean of each channel: a network that says which colour an image has."""
        mean = self.like("mean", (1, CHANNELS))
        axes = self.constant("axes", np.array([1, 2], np.int32))
        self.operator("MEAN", [source, axes], mean, schema.ReducerOptionsT())
        if not softmax:
            return mean
        result = self.like("probabilities", (1, CHANNELS))
        self.operator("SOFTMAX", [mean], result, schema.SoftmaxOptionsT(beta=1.0))
        return result


def colours(blocks: int = 3) -> bytes:
    """A residual network that tells red, green and blue images apart, and needs no block to."""
    sketch = Sketch()
    source = sketch.input()
    flow = sketch.conv(source, 1.0, relu=True)
    for _ in range(blocks):
        flow = sketch.add(flow, sketch.conv(sketch.conv(flow, 0.5, relu=True), 0.5), relu=True)
    return sketch.finish([source], [sketch.classes(flow)])


def wide(side: int, length: int = 3) -> bytes:
    """Rectifiers one after the other, on images of ``side`` by ``side`` pixels."""
    sketch = Sketch()
    shape = (1, side, side, CHANNELS)
    source = flow = sketch.input(shape)
    for _ in range(length):
        result = sketch.like("relu", shape)
        sketch.operator("RELU", [flow], result)
        flow = result
    return sketch.finish([source], [sketch.classes(flow)])


def chain(length: int = 4) -> bytes:
    """Convolutions one after the other."""
    sketch = Sketch()
    source = flow = sketch.input()
    for _ in range(length):
        flow = sketch.conv(flow, 0.5, relu=True)
    return sketch.finish([source], [flow])


#: Quantisation of the quantised block's input and output.
ENTERS, LEAVES = (0.02, 100), (0.05, 90)


def quantised_residual() -> bytes:
    """uint8: the input, plus what average pooling makes of it, at another scale."""
    sketch = Sketch()
    source = sketch.input(dtype="uint8", scale=ENTERS[0], zero_point=ENTERS[1])
    pooled = sketch.tensor(TensorSpec("pooled", SHAPE, "uint8", *ENTERS))
    options = schema.Pool2DOptionsT(
        padding=schema.Padding.SAME, strideH=1, strideW=1, filterHeight=3, filterWidth=3
    )
    sketch.operator("AVERAGE_POOL_2D", [source], pooled, options, version=2)
    result = sketch.tensor(TensorSpec("sum", SHAPE, "uint8", *LEAVES))
    sketch.operator("ADD", [source, pooled], result, schema.AddOptionsT(), version=2)
    return sketch.finish([source], [result])


#: The classes of networks that end in ``Sketch.classes``, in the order of their outputs.
COLOURS = ("red", "green", "blue")


def paint(directory: Path, count: int, height: int, width: int) -> None:
    """Write ``count`` noisy images of each colour into folders of their names."""
    generator = np.random.default_rng(0)
    for channel, name in enumerate(COLOURS):
        (directory / name).mkdir()
        for number in range(count):
            pixels = generator.integers(0, 100, (height, width, CHANNELS))
            pixels[..., channel] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(directory / name / f"{number}.png")
