"""MobileNetV2 for 32x32 images, with exit heads and trained bypasses.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, table 2:
stem, seventeen inverted residual blocks, a 1x1 convolution to 1280 channels, pooling and
a dense layer (the last three are the head). The exits and their heads are those that
Majeed et al., "CONTINUER", section IV-A, give; where it names no kernel size, 3x3 with
stride 1 is taken, as it says for the others.

Strides. The table's own strides are meant for 224x224 images and would leave 1x1 of a
32x32 one. The usual adaptation halves first in block 4, so that stem and blocks 1 to 3
run at 32x32, where the expansions to 96 and 144 channels take most of the time. Here block
2 halves already, as in the table, and the stem and block 14 do not: sides are 32 up to
block 1, then 16, 8 from block 4 and 4 from block 7 on. That keeps the full resolution
for the first, cheap filters, and takes less time than the usual adaptation.

A block whose input and output differ in shape is bypassed by a 1x1 convolution with its
own normalisation, which is trained when the block is skipped; others by identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from continuer.bundle import Block
from models.network import CLASS_COUNT, Network, Part
from models.ops import Ops, conv_bn

#: Expansion, channels, count, stride of the first, for each group of blocks.
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 1),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
#: Filters of the exit's convolutions, by the block that the exit follows.
EXITS = {
    2: (96,),
    **dict.fromkeys((4, 5), (160, 80)),
    **dict.fromkeys((7, 8, 9, 11, 12), (320,)),
    **dict.fromkeys((14, 15), (160,)),
}
DESCRIPTION = (
    "MobileNetV2 with ten exits between its seventeen inverted residual blocks, trained to be "
    "robust to skipped blocks; CIFAR-10 classes, 32x32 RGB images"
)


@dataclass(frozen=True)
class _Shape:
    """What makes block ``n`` differ from the others."""

    n: int
    inputs: int
    outputs: int
    expansion: int
    stride: int

    @property
    def name(self) -> str:
        return f"block{self.n:02}"

    @property
    def bypass(self) -> str:
        return f"bypass{self.n:02}"

    @property
    def residual(self) -> bool:
        return self.stride == 1 and self.inputs == self.outputs


def define(width: float = 1.0) -> Network:
    """The network; ``width`` multiplies the channels of stem, blocks and, above 1, head."""
    shapes = tuple(_shapes(width))
    stem, last = _channels(STEM_CHANNELS, width), _channels(HEAD_CHANNELS, max(1.0, width))
    parts: dict[str, Part] = {"stem": partial(_stem, channels=stem)}
    parts |= {shape.name: partial(_block, shape=shape) for shape in shapes}
    parts["head"] = partial(_head, channels=last)
    parts |= {f"exit{n:02}": partial(_exit, n=n, filters=EXITS[n]) for n in EXITS}
    parts |= {s.bypass: partial(_bypass, shape=s) for s in shapes if not s.residual}
    blocks = (Block("stem"), *map(_place, shapes), Block("head"))
    return Network("mobilenetv2", DESCRIPTION, blocks, parts, "relu6")


def _shapes(width: float) -> Iterator[_Shape]:
    n, inputs = 1, _channels(STEM_CHANNELS, width)
    for expansion, full, count, first in GROUPS:
        outputs = _channels(full, width)
        for index in range(count):
            yield _Shape(n, inputs, outputs, expansion, first if index == 0 else 1)
            n, inputs = n + 1, outputs


def _channels(full: int, width: float) -> int:
    """The nearest multiple of 8, as the original has it."""
    return max(8, 8 * round(full * width / 8))


def _place(shape: _Shape) -> Block:
    return Block(
        shape.name,
        skippable=True,
        bypass=None if shape.residual else shape.bypass,
        exit=f"exit{shape.n:02}" if shape.n in EXITS else None,
    )


def _stem(ops: Ops, tensor: Any, channels: int) -> Any:
    return ops.relu6(conv_bn(ops, tensor, "stem", channels, 3), "stem/relu")


def _block(ops: Ops, tensor: Any, shape: _Shape) -> Any:
    """Widen, filter each channel, narrow; the narrow ends have no activation."""
    name, wide, flow = shape.name, shape.inputs * shape.expansion, tensor
    if shape.expansion != 1:
        flow = ops.relu6(conv_bn(ops, flow, f"{name}/expand", wide, 1), f"{name}/relu1")
    flow = ops.depthwise(flow, f"{name}/depthwise/conv", 3, shape.stride)
    flow = ops.relu6(ops.bn(flow, f"{name}/depthwise/bn"), f"{name}/relu2")
    flow = conv_bn(ops, flow, f"{name}/project", shape.outputs, 1)
    return ops.add(flow, tensor, f"{name}/add") if shape.residual else flow


def _bypass(ops: Ops, tensor: Any, shape: _Shape) -> Any:
    return conv_bn(ops, tensor, shape.bypass, shape.outputs, 1, shape.stride)


def _exit(ops: Ops, tensor: Any, n: int, filters: tuple[int, ...]) -> Any:
    """Normalisation, one or two convolutions, global maximum, two dense layers."""
    name = f"exit{n:02}"
    flow = ops.bn(tensor, f"{name}/bn")
    for index, count in enumerate(filters, 1):
        flow = ops.conv(flow, f"{name}/conv{index}", count, 3, bias=True)
        flow = ops.relu(flow, f"{name}/relu{index}")
    flow = ops.dense(ops.global_max(flow, f"{name}/pool"), f"{name}/dense1", 64)
    return ops.dense(ops.relu(flow, f"{name}/relu"), f"{name}/dense2", CLASS_COUNT)


def _head(ops: Ops, tensor: Any, channels: int) -> Any:
    """The final 1x1 convolution, global average pooling and a dense layer."""
    flow = ops.relu6(conv_bn(ops, tensor, "head", channels, 1), "head/relu")
    return ops.dense(ops.global_average(flow, "head/pool"), "head/dense", CLASS_COUNT)
