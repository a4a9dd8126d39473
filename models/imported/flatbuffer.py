"""``.tflite`` files as objects: read, look around, write. Needs the runtime, no TensorFlow.

The schema's classes come with the runtime (``ai_edge_litert.schema_py_generated``); they carry
no types. A ``Network`` is a model of one subgraph whose structure is known to be sound: see
``models.imported.foreign`` for the checks.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from continuer.bundle import TensorSpec
from continuer.errors import ModelError

IDENTIFIER = b"TFL3"
VERSION = 3
#: The schema wants the data of buffers aligned so, for kernels that read it in place.
ALIGNMENT = 16
MAX_NAME = 64

_names = {number: name for name, number in vars(schema.BuiltinOperator).items() if name.isupper()}
OPERATOR_NAMES: dict[int, str] = _names
OPERATOR_CODES: dict[str, int] = {name: number for number, name in _names.items()}
#: Types of tensors that numpy and the wire know; others may only occur inside of a block.
DTYPES: dict[int, str] = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.FLOAT16: "float16",
    schema.TensorType.FLOAT64: "float64",
    schema.TensorType.INT8: "int8",
    schema.TensorType.UINT8: "uint8",
    schema.TensorType.INT16: "int16",
    schema.TensorType.INT32: "int32",
    schema.TensorType.INT64: "int64",
    schema.TensorType.BOOL: "bool",
}
TYPES: dict[str, int] = {name: number for number, name in DTYPES.items()}


def parse(content: bytes, subject: str) -> Any:
    """The file's contents as the schema's ``ModelT``. Structure below that is unchecked.

    Raises ModelError, which begins with ``subject``, for what is no flatbuffer of TFLite's.
    """
    if len(content) < 2 * len(IDENTIFIER):
        raise ModelError(f"{subject}: {len(content)} bytes are no model; give a .tflite file")
    found = content[4:8]
    if found != IDENTIFIER:
        raise ModelError(
            f"{subject}: bytes 4 to 8 are {found!r}, a model has {IDENTIFIER!r} there; "
            "give a .tflite file"
        )
    try:
        return schema.ModelT.InitFromPackedBuf(content, 0)
    except (struct.error, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(
            f"{subject}: truncated or damaged ({error}); copy the file again"
        ) from error


class _Builder(flatbuffers.Builder):  # type: ignore[misc]  # flatbuffers has no types
    """Aligns bytes, which are the data of buffers, as the schema demands."""

    def StartVector(self, elem_size: int, count: int, alignment: int) -> Any:  # noqa: N802  # its name
        return super().StartVector(
            elem_size, count, ALIGNMENT if elem_size == 1 and count else alignment
        )


def serialise(model: Any) -> bytes:
    """A ``ModelT`` as the contents of a ``.tflite`` file."""
    size = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = _Builder(size + (1 << 16))
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


class Network:
    """Look-ups in a model of one subgraph. Tensors and operators are named by their index."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graph = model.subgraphs[0]
        self.tensors: list[Any] = self.graph.tensors
        self.operators: list[Any] = self.graph.operators
        self.inputs = indices(self.graph.inputs)
        self.outputs = indices(self.graph.outputs)

    def operator_name(self, operator: int) -> str:
        """``CONV_2D``, or the name of a custom operator."""
        code = self.model.operatorCodes[self.operators[operator].opcodeIndex]
        return code_name(code)

    def reads(self, operator: int) -> tuple[int, ...]:
        """Tensors that the operator reads, constants among them."""
        return indices(self.operators[operator].inputs)

    def writes(self, operator: int) -> tuple[int, ...]:
        """Tensors that the operator writes."""
        return indices(self.operators[operator].outputs)

    def is_constant(self, tensor: int) -> bool:
        """True for a tensor whose value is in the file."""
        data = self.model.buffers[self.tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    def shape(self, tensor: int) -> tuple[int, ...]:
        """The tensor's shape; empty for a scalar."""
        return tuple(int(side) for side in _listed(self.tensors[tensor].shape))

    def elements(self, tensor: int) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape(tensor))

    def quantisation(self, tensor: int) -> tuple[float, int] | None:
        """(scale, zero point) of a tensor that has one pair; None for none, or one a channel."""
        found = self.tensors[tensor].quantization
        scales = _listed(found.scale) if found else []
        if len(scales) != 1:
            return None
        zeros = _listed(found.zeroPoint)
        return float(scales[0]), int(zeros[0]) if len(zeros) else 0

    def spec(self, tensor: int) -> TensorSpec:
        """The tensor as manifests describe it, by the name it has in the file.

        Converters join the names of what they fused with semicolons; the first will do.
        """
        scale, zero = self.quantisation(tensor) or (None, None)
        whole = (self.tensors[tensor].name or b"").decode(errors="replace")
        name = whole.partition(";")[0][-MAX_NAME:]
        dtype = DTYPES[self.tensors[tensor].type]
        return TensorSpec(name or f"tensor{tensor}", self.shape(tensor), dtype, scale, zero)

    @cached_property
    def producers(self) -> dict[int, int]:
        """Which operator writes a tensor."""
        return {t: op for op in range(len(self.operators)) for t in self.writes(op)}

    @cached_property
    def fixed(self) -> frozenset[int]:
        """Operators whose result never changes: all that they read is constant, or fixed too.

        Converters leave such ones in files, to expand weights stored as float16 for example.
        """
        found: set[int] = set()
        for operator in range(len(self.operators)):
            sources = [t for t in self.reads(operator) if not self.is_constant(t)]
            if all(self.producers.get(t) in found for t in sources):
                found.add(operator)
        return frozenset(found)


def code_name(code: Any) -> str:
    """Name of an operator code. Old files hold the number in a field of one byte."""
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return (code.customCode or b"?").decode(errors="replace")
    return OPERATOR_NAMES.get(number, f"operator {number}")


def indices(vector: Any) -> tuple[int, ...]:
    """A vector of tensor indices without the -1 that stands for an optional tensor left out."""
    return tuple(int(index) for index in _listed(vector) if index != -1)


def _listed(vector: Any) -> Sequence[Any]:
    return [] if vector is None else vector


def extract(
    network: Network, operators: Iterable[int], inputs: Sequence[int], outputs: Sequence[int]
) -> bytes:
    """Some of the operators as a model of their own, with the fixed ones that they depend on.

    It holds only the tensors, buffers and operator codes that these use, with their
    quantisation; metadata and signatures stay behind. ``inputs`` and ``outputs`` are tensor
    indices of the network, in the order that the new model's will have.
    """
    chosen = _with_fixed(network, operators, outputs)
    new = schema.ModelT()
    new.version = VERSION
    new.description = b"part of a model, cut by CONTINUER"
    graph = schema.SubGraphT()
    graph.name = b"main"
    tensors = _Renumbered()
    codes = _Renumbered()
    graph.operators = []
    for index in chosen:
        old = network.operators[index]
        operator = schema.OperatorT()
        vars(operator).update(vars(old))
        operator.opcodeIndex = codes.number(old.opcodeIndex)
        for field in ("inputs", "outputs", "intermediates"):
            vector = getattr(old, field)
            if vector is not None:
                new_indices = [-1 if t == -1 else tensors.number(int(t)) for t in vector]
                setattr(operator, field, np.array(new_indices, np.int32))
        operator.debugMetadataIndex = -1
        graph.operators.append(operator)
    graph.inputs = np.array([tensors.number(t) for t in inputs], np.int32)
    graph.outputs = np.array([tensors.number(t) for t in outputs], np.int32)
    new.operatorCodes = [network.model.operatorCodes[code] for code in codes.old]
    graph.tensors, new.buffers = _tensors_and_buffers(network, tensors.old)
    new.subgraphs = [graph]
    return serialise(new)


def _with_fixed(network: Network, operators: Iterable[int], outputs: Sequence[int]) -> list[int]:
    """The operators and the fixed ones that these, or the outputs, depend on, in order."""
    chosen = set(operators)
    pending = [t for operator in chosen for t in network.reads(operator)] + [*outputs]
    while pending:
        source = network.producers.get(pending.pop())
        if source in network.fixed and source not in chosen:
            chosen.add(source)
            pending += network.reads(source)
    return sorted(chosen)


class _Renumbered:
    """Numbers old indices in the order in which they are first asked for."""

    def __init__(self) -> None:
        self.old: list[int] = []
        self._new: dict[int, int] = {}

    def number(self, old: int) -> int:
        if old not in self._new:
            self._new[old] = len(self.old)
            self.old.append(old)
        return self._new[old]


def _tensors_and_buffers(network: Network, wanted: Sequence[int]) -> tuple[list[Any], list[Any]]:
    """Copies of the tensors, and their buffers; buffer 0 is the empty one, by convention."""
    buffers = [schema.BufferT()]
    numbers: dict[int, int] = {}
    tensors = []
    for index in wanted:
        tensor = schema.TensorT()
        vars(tensor).update(vars(network.tensors[index]))
        if not network.is_constant(index):
            tensor.buffer = 0
        elif tensor.buffer in numbers:
            tensor.buffer = numbers[tensor.buffer]
        else:
            numbers[tensor.buffer] = len(buffers)
            buffers.append(network.model.buffers[tensor.buffer])
            tensor.buffer = len(buffers) - 1
        tensors.append(tensor)
    return tensors, buffers
