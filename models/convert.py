"""One Keras model into one ``.tflite`` file, and what a ``.tflite`` file holds."""

from __future__ import annotations

from collections.abc import Callable
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


def convert(model: keras.Model) -> bytes:
    """The model as TensorFlow Lite in float32, for the fixed batch of its input.

    The converter is not given the model: with the model as its trackable object, which its
    own warning recommends, it leaves a Keras 3 model's variables out of the file, which then
    runs slowly and answers NaN.
    """
    function = frozen(lambda x: model(x, training=False), model.inputs[0])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    return bytes(converter.convert())


def frozen(run: Callable[[Any], Any], tensor: Any) -> Any:
    """``run`` on one input like ``tensor``, a Keras input, with its variables as constants."""
    signature = tf.TensorSpec(tuple(tensor.shape), tensor.dtype, name=tensor.name)
    return convert_variables_to_constants_v2(tf.function(run).get_concrete_function(signature))


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

    def outputs(self) -> tuple[TensorSpec, ...]:
        """The output tensors: ``logits`` where they are vectors, else ``features``."""
        details = self._interpreter.get_output_details()
        return _specs("logits" if len(details[0]["shape"]) == 2 else "features", details)


def _specs(name: str, details: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    names = [name] if len(details) == 1 else [f"{name}{i}" for i in range(len(details))]
    return tuple(_spec(n, detail) for n, detail in zip(names, details, strict=True))


def _spec(name: str, detail: dict[str, Any]) -> TensorSpec:
    shape, dtype = tuple(int(side) for side in detail["shape"]), np.dtype(detail["dtype"]).name
    scale, zero_point = detail["quantization"]
    if scale == 0:  # how the runtime says that a tensor is not quantised
        return TensorSpec(name, shape, dtype)
    return TensorSpec(name, shape, dtype, float(scale), int(zero_point))
