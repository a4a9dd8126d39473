"""The networks' operations as Keras layers, and models made of them for conversion.

A Keras layer cannot have a slash in its name: dots stand for the slashes.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from models.network import IMAGE_SHAPE, Network, Part
from models.ops import BN_EPSILON
from models.ops_shape import input_shapes


class KerasOps:
    """An interpreter of ``models.ops.Ops`` whose tensors are Keras's symbolic ones."""

    def conv(
        self, tensor: Any, name: str, filters: int, kernel: int, stride: int = 1, *, bias: bool
    ) -> Any:
        """``Conv2D``."""
        options = {"padding": "same", "use_bias": bias, "name": _layer(name)}
        return layers.Conv2D(filters, kernel, stride, **options)(tensor)

    def depthwise(self, tensor: Any, name: str, kernel: int, stride: int) -> Any:
        """``DepthwiseConv2D``."""
        options = {"padding": "same", "use_bias": False, "name": _layer(name)}
        return layers.DepthwiseConv2D(kernel, stride, **options)(tensor)

    def bn(self, tensor: Any, name: str) -> Any:
        """``BatchNormalization``."""
        return layers.BatchNormalization(epsilon=BN_EPSILON, name=_layer(name))(tensor)

    def relu(self, tensor: Any, name: str) -> Any:
        """``ReLU``."""
        return layers.ReLU(name=_layer(name))(tensor)

    def relu6(self, tensor: Any, name: str) -> Any:
        """``ReLU`` with a maximum of 6."""
        return layers.ReLU(6.0, name=_layer(name))(tensor)

    def add(self, left: Any, right: Any, name: str) -> Any:
        """``Add``."""
        return layers.Add(name=_layer(name))([left, right])

    def max_pool(self, tensor: Any, name: str, size: int) -> Any:
        """``MaxPooling2D``."""
        return layers.MaxPooling2D(size, name=_layer(name))(tensor)

    def global_average(self, tensor: Any, name: str) -> Any:
        """``GlobalAveragePooling2D``."""
        return layers.GlobalAveragePooling2D(name=_layer(name))(tensor)

    def global_max(self, tensor: Any, name: str) -> Any:
        """``GlobalMaxPooling2D``."""
        return layers.GlobalMaxPooling2D(name=_layer(name))(tensor)

    def flatten(self, tensor: Any, name: str) -> Any:
        """``Flatten``."""
        return layers.Flatten(name=_layer(name))(tensor)

    def dense(self, tensor: Any, name: str, units: int) -> Any:
        """``Dense``."""
        return layers.Dense(units, name=_layer(name))(tensor)


def _layer(name: str) -> str:
    return name.replace("/", ".")


def parts(network: Network) -> dict[str, keras.Model]:
    """Every part as a model of its own, float32 NHWC with a batch of 1, random weights."""
    shapes = input_shapes(network)
    return {name: _part(name, part, shapes[name]) for name, part in network.parts.items()}


def _part(name: str, part: Part, shape: tuple[int, ...]) -> keras.Model:
    label = "image" if name == "stem" else "features"
    tensor = keras.Input(batch_shape=(1, *shape), name=label)
    return keras.Model(tensor, part(KerasOps(), tensor), name=name)


def whole(network: Network) -> keras.Model:
    """The whole network with random weights, any batch size.

    Input (batch, 32, 32, 3); outputs, each (batch, 10): the logits of every exit, then of
    the head.
    """
    image = keras.Input(IMAGE_SHAPE, name="image")
    final, exits = network.run(KerasOps(), image, exits=network.exits)
    return keras.Model(image, [*exits.values(), final], name=network.name)
