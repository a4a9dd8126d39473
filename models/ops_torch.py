"""The networks' operations on batches, in PyTorch.

Weights are a dictionary of tensors in Keras's layout under the names of the weight
file; they are transposed as views where they are used, so training needs no other copy.
Images run as NCHW in ``channels_last`` memory, which is NHWC in fact.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from models.ops import BN_EPSILON

#: How normalisation gets its statistics. ``batch``: from the batch, and the running ones
#: follow. ``skipping``: from the batch, and only the running ones of bypasses follow;
#: those of other layers shall describe the flow with nothing skipped. ``frozen``: the
#: running ones.
Statistics = Literal["batch", "skipping", "frozen"]

#: Weight of a batch in the running statistics.
RUNNING = 0.1


class TorchOps:
    """An interpreter of ``models.ops.Ops`` whose tensors are batches.

    ``weights`` by their names in the weight file; ``statistics`` and ``momentum``, the
    weight of a batch in the running ones, are set by who trains.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights
        self.statistics: Statistics = "frozen"
        self.momentum = RUNNING

    def conv(
        self, tensor: Tensor, name: str, filters: int, kernel: int, stride: int = 1, *, bias: bool
    ) -> Tensor:
        """Convolution; ``filters`` is implied by the weights."""
        del filters
        weight = self.weights[f"{name}/kernel"].permute(3, 2, 0, 1)
        tensor, padding = _padded(tensor, kernel, stride)
        offset = self.weights[f"{name}/bias"] if bias else None
        return functional.conv2d(tensor, weight, offset, stride, padding)

    def depthwise(self, tensor: Tensor, name: str, kernel: int, stride: int) -> Tensor:
        """Depthwise convolution.

        A stride takes every so many of the outputs that there are without it: on CPUs
        PyTorch's gradient of a strided depthwise convolution costs 2 to 14 times as much.
        """
        weight = self.weights[f"{name}/kernel"].permute(2, 3, 0, 1)
        flow = functional.conv2d(tensor, weight, None, 1, kernel // 2, groups=len(weight))
        if stride == 1:
            return flow
        rows, columns = (
            kernel // 2 - _padding(side, kernel, stride) // 2 for side in tensor.shape[2:]
        )
        flow = flow[:, :, rows::stride, columns::stride]
        return flow.contiguous(memory_format=torch.channels_last)

    def bn(self, tensor: Tensor, name: str) -> Tensor:
        """Batch normalisation, by ``statistics``."""
        get = self.weights
        frozen = self.statistics == "frozen"
        follow = frozen or self.statistics == "batch" or name.startswith("bypass")
        return functional.batch_norm(
            tensor,
            get[f"{name}/moving_mean"] if follow else None,
            get[f"{name}/moving_variance"] if follow else None,
            get[f"{name}/gamma"],
            get[f"{name}/beta"],
            training=not frozen,
            momentum=self.momentum,
            eps=BN_EPSILON,
        )

    def relu(self, tensor: Tensor, name: str) -> Tensor:
        """In place: no operation before it needs its output for the gradient."""
        del name
        return functional.relu(tensor, inplace=True)

    def relu6(self, tensor: Tensor, name: str) -> Tensor:
        """In place, as ``relu``."""
        del name
        return functional.relu6(tensor, inplace=True)

    def add(self, left: Tensor, right: Tensor, name: str) -> Tensor:
        """Sum."""
        del name
        return left + right

    def max_pool(self, tensor: Tensor, name: str, size: int) -> Tensor:
        """Maximum over windows."""
        del name
        return functional.max_pool2d(tensor, size)

    def global_average(self, tensor: Tensor, name: str) -> Tensor:
        """Mean over height and width."""
        del name
        return tensor.mean((2, 3))

    def global_max(self, tensor: Tensor, name: str) -> Tensor:
        """Maximum over height and width."""
        del name
        return tensor.amax((2, 3))

    def flatten(self, tensor: Tensor, name: str) -> Tensor:
        """In NHWC order, as the dense layer's kernel has it."""
        del name
        return tensor.permute(0, 2, 3, 1).flatten(1)

    def dense(self, tensor: Tensor, name: str, units: int) -> Tensor:
        """Product and sum; ``units`` is implied by the weights."""
        del units
        return functional.linear(
            tensor, self.weights[f"{name}/kernel"].t(), self.weights[f"{name}/bias"]
        )


def _padded(tensor: Tensor, kernel: int, stride: int) -> tuple[Tensor, int | tuple[int, int]]:
    """The tensor, padded where the convolution cannot do it itself, and what is left to it."""
    rows, columns = (_padding(side, kernel, stride) for side in tensor.shape[2:])
    if rows % 2 == 0 and columns % 2 == 0:
        return tensor, (rows // 2, columns // 2)
    before = columns // 2, rows // 2
    extra = (before[0], columns - before[0], before[1], rows - before[1])
    return functional.pad(tensor, extra), 0


def _padding(side: int, kernel: int, stride: int) -> int:
    """Rows of zeros that TensorFlow's "same" adds in all."""
    return max((-(-side // stride) - 1) * stride + kernel - side, 0)


def image_batch(images: Tensor) -> Tensor:
    """Prepared images, NHWC or a view of it, as the NCHW that the operations take."""
    return images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
