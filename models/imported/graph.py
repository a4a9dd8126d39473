"""Writing small ``.tflite`` models operator by operator, or adding operators to one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from continuer.bundle import TensorSpec
from models.imported.flatbuffer import OPERATOR_CODES, TYPES, VERSION, serialise

if TYPE_CHECKING:
    import numpy.typing as npt

#: The field for an operator's number in old files has one byte; larger numbers put this there.
PLACEHOLDER = schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES


class GraphWriter:
    """A model of one subgraph that grows. ``model`` is taken over, where one is given."""

    def __init__(self, model: Any = None) -> None:
        if model is None:
            model = schema.ModelT()
            model.version, model.description = VERSION, b"written by CONTINUER"
            model.buffers, model.operatorCodes = [schema.BufferT()], []
            graph = schema.SubGraphT()
            graph.name, graph.tensors, graph.operators = b"main", [], []
            model.subgraphs = [graph]
        self._model = model
        self._graph = model.subgraphs[0]

    def tensor(self, spec: TensorSpec) -> int:
        """A new tensor as the spec says; returns its index."""
        return self._tensor(spec, 0)

    def constant(self, name: str, values: npt.NDArray[Any], scale: float | None = None) -> int:
        """A new constant tensor; returns its index. ``scale``: of a quantised one, zero at 0."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        spec = TensorSpec(name, values.shape, values.dtype.name, scale)
        return self._tensor(spec, len(self._model.buffers) - 1)

    def _tensor(self, spec: TensorSpec, buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name = spec.name.encode()
        tensor.shape = np.array(spec.shape, np.int32)
        tensor.type = TYPES[spec.dtype]
        tensor.buffer = buffer
        tensor.quantization = schema.QuantizationParametersT()
        if spec.scale is not None:
            tensor.quantization.scale = np.array([spec.scale], np.float32)
            tensor.quantization.zeroPoint = np.array([spec.zero_point or 0], np.int64)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        output: int,
        options: Any = None,
        version: int = 1,
    ) -> None:
        """Append an operator by its name in the schema, such as ``ADD``.

        ``options``: the schema's object for it, such as ``AddOptionsT()``. ``version``: of the
        operator, which rises with the types that it takes.
        """
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(name, version)
        operator.inputs = np.array(inputs, np.int32)
        operator.outputs = np.array([output], np.int32)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = options
        self._graph.operators.append(operator)

    def _code(self, name: str, version: int) -> int:
        number = OPERATOR_CODES[name]
        for index, code in enumerate(self._model.operatorCodes):
            if code.builtinCode == number and code.version == version:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.version = number, version
        code.deprecatedBuiltinCode = min(number, PLACEHOLDER)
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The model, with these tensors as its inputs and outputs, as a file's contents."""
        self._graph.inputs = np.array(inputs, np.int32)
        self._graph.outputs = np.array(outputs, np.int32)
        return serialise(self._model)
