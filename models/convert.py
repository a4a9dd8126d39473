"""One Keras model into one ``.tflite`` file, and what a ``.tflite`` file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from continuer.bundle import TensorSpec

if TYPE_CHECKING:
    import keras


def convert(model: keras.Model, *, int8: bool = False) -> bytes:
    """The model as TensorFlow Lite, for the fixed batch of its input.

    Tensors are float32. ``int8`` stores the larger kernels in 8 bits and lets the runtime
    quantise what meets them, image by image; no data is needed for that.

    The function is frozen first, and the converter is not given the model: with the
    model as its trackable object, which its own warning recommends, it leaves a Keras 3
    model's variables out of the file, which then runs slowly and answers NaN.
    """
    tensor = model.inputs[0]
    signature = tf.TensorSpec(tuple(tensor.shape), tensor.dtype, name=tensor.name)
    function = tf.function(lambda x: model(x, training=False))
    frozen = convert_variables_to_constants_v2(function.get_concrete_function(signature))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return bytes(converter.convert())


class Converted:
    """A ``.tflite`` file's contents, read through the runtime.

    The default delegate is off: it would replace operators by ``DELEGATE`` entries.
    """

    def __init__(self, content: bytes) -> None:
        self._interpreter = Interpreter(
            model_content=content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )

    def operators(self) -> tuple[str, ...]:
        """Names of the operators in order of execution, after the converter's fusing."""
        # Private, but the runtime offers no public list of operators.
        details = self._interpreter._get_ops_details()  # noqa: SLF001
        return tuple(str(detail["op_name"]) for detail in details)

    def inputs(self, name: str) -> tuple[TensorSpec, ...]:
        """The input tensors; a single one is called ``name``, several get a number."""
        return _specs(name, self._interpreter.get_input_details())

    def outputs(self, name: str) -> tuple[TensorSpec, ...]:
        """The output tensors, named like the inputs."""
        return _specs(name, self._interpreter.get_output_details())


def _specs(name: str, details: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    names = [name] if len(details) == 1 else [f"{name}{i}" for i in range(len(details))]
    return tuple(
        TensorSpec(n, tuple(int(side) for side in d["shape"]), np.dtype(d["dtype"]).name)
        for n, d in zip(names, details, strict=True)
    )
