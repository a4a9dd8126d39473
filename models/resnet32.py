"""ResNet-32 for 32x32 images, in Keras, with exit heads and bypasses.

Stem, fifteen residual blocks of 16, 32 and 64 channels (five each), head: He et al.,
"Deep Residual Learning for Image Recognition", 2015, section 4.2, with projection
shortcuts where the shape changes (blocks 6 and 11). An exit head hangs after each of
the first fourteen blocks.

Each function from ``_stem`` to ``_exit`` adds layers to a tensor. ``parts`` wraps them
one by one, ``network`` chains them, so both hold the same layers by construction.
Tensors are float32, NHWC, batch first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from continuer.bundle import Block

IMAGE_SHAPE = (32, 32, 3)
CLASS_COUNT = 10
BLOCK_COUNT = 15
EXIT_COUNT = 14
#: Blocks that halve height and width and double the channels.
STRIDED = (6, 11)
BN_EPSILON = 1e-5

BLOCKS = (
    Block("stem"),
    *(
        Block(
            f"block{n:02}",
            skippable=True,
            bypass=f"bypass{n:02}" if n in STRIDED else None,
            exit=f"exit{n:02}" if n <= EXIT_COUNT else None,
        )
        for n in range(1, BLOCK_COUNT + 1)
    ),
    Block("head"),
)


def parts() -> dict[str, keras.Model]:
    """Every part as a model of its own, with a batch of 1 and random weights.

    Blocks come first, in order, then exits, then bypasses.
    """
    models = {"stem": _model("stem", "image", IMAGE_SHAPE, _stem)}
    for n in range(1, BLOCK_COUNT + 1):
        models[f"block{n:02}"] = _part(f"block{n:02}", _shape_before(n), _block, n)
    models["head"] = _model("head", "features", _shape_after(BLOCK_COUNT), _head)
    for n in range(1, EXIT_COUNT + 1):
        models[f"exit{n:02}"] = _part(f"exit{n:02}", _shape_after(n), _exit, n)
    for n in STRIDED:
        models[f"bypass{n:02}"] = _part(f"bypass{n:02}", _shape_before(n), _bypass, n)
    return models


def network() -> keras.Model:
    """The whole network with random weights, any batch size.

    Input (batch, 32, 32, 3); outputs, each (batch, 10): the logits of exits 1 to 14,
    then of the head.
    """
    image = keras.Input(IMAGE_SHAPE, name="image")
    flow = _stem(image)
    logits = []
    for n in range(1, BLOCK_COUNT + 1):
        flow = _block(flow, n)
        if n <= EXIT_COUNT:
            logits.append(_exit(flow, n))
    return keras.Model(image, [*logits, _head(flow)], name="resnet32")


def _model(
    name: str, input_name: str, shape: tuple[int, ...], layers: Callable[[Any], Any]
) -> keras.Model:
    tensor = keras.Input(batch_shape=(1, *shape), name=input_name)
    return keras.Model(tensor, layers(tensor), name=name)


def _part(
    name: str, shape: tuple[int, ...], layers: Callable[[Any, int], Any], n: int
) -> keras.Model:
    return _model(name, "features", shape, lambda tensor: layers(tensor, n))


def _stage(n: int) -> int:
    """0, 1 or 2: how often the shape was halved once block ``n`` has run."""
    return sum(n >= strided for strided in STRIDED)


def _shape_after(n: int) -> tuple[int, int, int]:
    """Height, width, channels behind block ``n``; 0 is the stem."""
    side = IMAGE_SHAPE[0] >> _stage(n)
    return side, side, 16 << _stage(n)


def _shape_before(n: int) -> tuple[int, int, int]:
    return _shape_after(n - 1)


def _stem(tensor: Any) -> Any:
    return keras.layers.ReLU(name="stem.relu")(_conv_bn(tensor, "stem", 16, 3, 1))


def _block(tensor: Any, n: int) -> Any:
    """Two 3x3 convolutions beside the shortcut, their sum, ReLU."""
    name, channels = f"block{n:02}", _shape_after(n)[2]
    stride = 2 if n in STRIDED else 1
    flow = _conv_bn(tensor, f"{name}.conv1", channels, 3, stride)
    flow = keras.layers.ReLU(name=f"{name}.relu1")(flow)
    flow = _conv_bn(flow, f"{name}.conv2", channels, 3, 1)
    shortcut = _shortcut(tensor, n) if n in STRIDED else tensor
    flow = keras.layers.Add(name=f"{name}.add")([flow, shortcut])
    return keras.layers.ReLU(name=f"{name}.relu2")(flow)


def _shortcut(tensor: Any, n: int) -> Any:
    return _conv_bn(tensor, f"block{n:02}.shortcut", _shape_after(n)[2], 1, 2)


def _bypass(tensor: Any, n: int) -> Any:
    """What a skipped strided block leaves: its projection shortcut and ReLU.

    The layers bear the block's names, so they get the block's weights.
    """
    return keras.layers.ReLU(name=f"block{n:02}.relu2")(_shortcut(tensor, n))


def _exit(tensor: Any, n: int) -> Any:
    """Convolution, pooling and two dense layers; the output is (batch, 10) logits."""
    name, layers = f"exit{n:02}", keras.layers
    flow = layers.Conv2D(32, 3, 2, "same", activation="relu", name=f"{name}.conv")(tensor)
    flow = layers.MaxPooling2D(2, name=f"{name}.pool")(flow)
    flow = layers.BatchNormalization(epsilon=BN_EPSILON, name=f"{name}.bn")(flow)
    flow = layers.Flatten(name=f"{name}.flatten")(flow)
    flow = layers.Dense(64, activation="relu", name=f"{name}.dense1")(flow)
    return layers.Dense(CLASS_COUNT, name=f"{name}.dense2")(flow)


def _head(tensor: Any) -> Any:
    """Global average pooling and a dense layer; the output is (batch, 10) logits."""
    flow = keras.layers.GlobalAveragePooling2D(name="head.pool")(tensor)
    return keras.layers.Dense(CLASS_COUNT, name="head.dense")(flow)


def _conv_bn(tensor: Any, name: str, channels: int, kernel: int, stride: int) -> Any:
    flow = keras.layers.Conv2D(
        channels, kernel, stride, "same", use_bias=False, name=f"{name}.conv"
    )(tensor)
    return keras.layers.BatchNormalization(epsilon=BN_EPSILON, name=f"{name}.bn")(flow)
