"""The small set of operations that the networks are written in.

A network is written once, as functions that call these operations. What a tensor is
depends on the interpreter: symbolic in ``models.ops_keras``, which builds models to be
converted; a batch of numbers in ``models.ops_torch``, which trains; no more than a shape
in ``models.ops_shape``, which knows the weights that a network needs.

``name`` is the layer's place in the weight file, such as ``block06/shortcut/bn``; the
variables behind it are ``kernel``, ``bias``, ``gamma``, ``beta``, ``moving_mean`` and
``moving_variance``, laid out as Keras has them. Convolutions pad as TensorFlow's "same"
does: where the padding is odd, the extra row goes below and the extra column right.
"""

from __future__ import annotations

from typing import Any, Protocol

#: Added to the variance in batch normalisation.
BN_EPSILON = 1e-5


class Ops(Protocol):
    """What an interpreter offers. Images are NHWC to the outside, vectors (batch, n)."""

    def conv(
        self, tensor: Any, name: str, filters: int, kernel: int, stride: int = 1, *, bias: bool
    ) -> Any:
        """Convolution; kernel (height, width, in, out), padding "same"."""

    def depthwise(self, tensor: Any, name: str, kernel: int, stride: int) -> Any:
        """Depthwise convolution without bias; kernel (height, width, channels, 1)."""

    def bn(self, tensor: Any, name: str) -> Any:
        """Batch normalisation over the last axis."""

    def relu(self, tensor: Any, name: str) -> Any:
        """The positive part; may overwrite its input."""

    def relu6(self, tensor: Any, name: str) -> Any:
        """The positive part, at most 6; may overwrite its input."""

    def add(self, left: Any, right: Any, name: str) -> Any:
        """Sum of two tensors of one shape."""

    def max_pool(self, tensor: Any, name: str, size: int) -> Any:
        """Maximum over ``size`` x ``size`` windows side by side; rests are dropped."""

    def global_average(self, tensor: Any, name: str) -> Any:
        """Mean over height and width: (batch, channels)."""

    def global_max(self, tensor: Any, name: str) -> Any:
        """Maximum over height and width: (batch, channels)."""

    def flatten(self, tensor: Any, name: str) -> Any:
        """(batch, height * width * channels), channels fastest."""

    def dense(self, tensor: Any, name: str, units: int) -> Any:
        """Product with ``kernel`` (in, out), plus ``bias``."""


def conv_bn(ops: Ops, tensor: Any, name: str, filters: int, kernel: int, stride: int = 1) -> Any:
    """A convolution without bias, ``name/conv``, and its normalisation, ``name/bn``."""
    flow = ops.conv(tensor, f"{name}/conv", filters, kernel, stride, bias=False)
    return ops.bn(flow, f"{name}/bn")
