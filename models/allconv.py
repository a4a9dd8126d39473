"""A plain chain of convolutions for 32x32 images, with exit heads; no block can be skipped.

Nine 3x3 convolutions with normalisation and ReLU, of which three halve the image, then a
mean and a dense layer: the all-convolutional network of Springenberg et al., "Striving for
Simplicity", 2015, made narrower. Without a shortcut around it a block that is left out
leaves nothing to go on with, so when a box dies, early exit and repartition are what there is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from continuer.bundle import Block
from models.network import CLASS_COUNT, Network, Part
from models.ops import Ops, conv_bn

#: Channels and stride of each block.
BLOCKS = ((32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (128, 2), (128, 1), (128, 1), (128, 2))
#: Blocks with an exit behind them.
EXITS = (2, 4, 5, 7, 8)
DESCRIPTION = (
    "A plain chain of nine convolutions with five exits; CIFAR-10 classes, 32x32 RGB images"
)


def define(width: float = 1.0) -> Network:
    """The network; ``width`` multiplies the channels."""
    parts: dict[str, Part] = {}
    for n, (channels, stride) in enumerate(BLOCKS, 1):
        wide = max(4, round(channels * width))
        parts[_name(n)] = partial(_block, n=n, channels=wide, stride=stride)
    parts["head"] = _head
    parts |= {f"exit{n:02}": partial(_exit, n=n) for n in EXITS}
    blocks = (*map(_place, range(1, len(BLOCKS) + 1)), Block("head"))
    return Network("allconv", DESCRIPTION, blocks, parts, "relu")


def _name(n: int) -> str:
    return f"block{n:02}"


def _place(n: int) -> Block:
    return Block(_name(n), exit=f"exit{n:02}" if n in EXITS else None)


def _block(ops: Ops, tensor: Any, n: int, channels: int, stride: int) -> Any:
    return ops.relu(conv_bn(ops, tensor, _name(n), channels, 3, stride), f"{_name(n)}/relu")


def _exit(ops: Ops, tensor: Any, n: int) -> Any:
    """Convolution, mean, two dense layers."""
    name = f"exit{n:02}"
    flow = ops.relu(conv_bn(ops, tensor, name, 64, 3, 2), f"{name}/relu")
    flow = ops.dense(ops.global_average(flow, f"{name}/pool"), f"{name}/dense1", 64)
    return ops.dense(ops.relu(flow, f"{name}/relu1"), f"{name}/dense2", CLASS_COUNT)


def _head(ops: Ops, tensor: Any) -> Any:
    return ops.dense(ops.global_average(tensor, "head/pool"), "head/dense", CLASS_COUNT)
