"""ResNet-32 for 32x32 images, with exit heads and bypasses.

Stem, fifteen residual blocks of 16, 32 and 64 channels (five each), head: He et al.,
"Deep Residual Learning for Image Recognition", 2015, section 4.2, with projection
shortcuts where the shape changes (blocks 6 and 11). An exit head hangs after each of
the first fourteen blocks; it is the one that Majeed et al., "CONTINUER", section IV-A,
gives for ResNet-32.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from continuer.bundle import Block
from models.network import CLASS_COUNT, Network, Part
from models.ops import Ops, conv_bn

BLOCK_COUNT = 15
EXIT_COUNT = 14
#: Blocks that halve height and width and double the channels.
STRIDED = (6, 11)
DESCRIPTION = (
    "ResNet-32 with an exit after each of its first fourteen residual blocks, trained to be "
    "robust to skipped blocks; CIFAR-10 classes, 32x32 RGB images"
)


def define(width: float = 1.0) -> Network:
    """The network; ``width`` multiplies the channels of stem and blocks."""
    first = max(4, round(16 * width))
    channels = {n: first << sum(n >= strided for strided in STRIDED) for n in range(16)}
    parts: dict[str, Part] = {"stem": partial(_stem, channels=first)}
    for n in range(1, BLOCK_COUNT + 1):
        parts[f"block{n:02}"] = partial(_block, n=n, channels=channels[n])
    parts["head"] = _head
    for n in range(1, EXIT_COUNT + 1):
        parts[f"exit{n:02}"] = partial(_exit, n=n)
    for n in STRIDED:
        parts[f"bypass{n:02}"] = partial(_bypass, n=n, channels=channels[n])
    blocks = (Block("stem"), *map(_place, range(1, BLOCK_COUNT + 1)), Block("head"))
    return Network("resnet32", DESCRIPTION, blocks, parts, "relu")


def _place(n: int) -> Block:
    return Block(
        f"block{n:02}",
        skippable=True,
        bypass=f"bypass{n:02}" if n in STRIDED else None,
        exit=f"exit{n:02}" if n <= EXIT_COUNT else None,
    )


def _stem(ops: Ops, tensor: Any, channels: int) -> Any:
    return ops.relu(conv_bn(ops, tensor, "stem", channels, 3), "stem/relu")


def _block(ops: Ops, tensor: Any, n: int, channels: int) -> Any:
    """Two 3x3 convolutions beside the shortcut, their sum, ReLU."""
    name, stride = f"block{n:02}", 2 if n in STRIDED else 1
    flow = conv_bn(ops, tensor, f"{name}/conv1", channels, 3, stride)
    flow = ops.relu(flow, f"{name}/relu1")
    flow = conv_bn(ops, flow, f"{name}/conv2", channels, 3)
    shortcut = _shortcut(ops, tensor, n, channels) if n in STRIDED else tensor
    return ops.relu(ops.add(flow, shortcut, f"{name}/add"), f"{name}/relu2")


def _shortcut(ops: Ops, tensor: Any, n: int, channels: int) -> Any:
    return conv_bn(ops, tensor, f"block{n:02}/shortcut", channels, 1, 2)


def _bypass(ops: Ops, tensor: Any, n: int, channels: int) -> Any:
    """What a skipped strided block leaves: its own projection shortcut and ReLU."""
    return ops.relu(_shortcut(ops, tensor, n, channels), f"block{n:02}/relu2")


def _exit(ops: Ops, tensor: Any, n: int) -> Any:
    """Convolution, pooling and two dense layers."""
    name = f"exit{n:02}"
    flow = ops.conv(tensor, f"{name}/conv", 32, 3, 2, bias=True)
    flow = ops.max_pool(ops.relu(flow, f"{name}/relu"), f"{name}/pool", 2)
    flow = ops.flatten(ops.bn(flow, f"{name}/bn"), f"{name}/flatten")
    flow = ops.relu(ops.dense(flow, f"{name}/dense1", 64), f"{name}/relu1")
    return ops.dense(flow, f"{name}/dense2", CLASS_COUNT)


def _head(ops: Ops, tensor: Any) -> Any:
    """Global average pooling and a dense layer."""
    return ops.dense(ops.global_average(tensor, "head/pool"), "head/dense", CLASS_COUNT)
