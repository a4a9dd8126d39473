"""What a ``.tflite`` file of others must be before it can be cut.

Everything that the file says is doubted: numbers that index something, shapes, sizes, the
order of operators. What passes may still crash the runtime, which is tried next, in a cage.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ai_edge_litert import schema_py_generated as schema

from continuer.bundle import DTYPES as BYTES
from continuer.errors import ModelError
from continuer.wire import MAX_RANK, MAX_TENSOR_BYTES
from models.imported.flatbuffer import DTYPES, VERSION, Network, code_name, indices, parse

#: No single tensor of a model for small boxes is larger; an absurd shape is.
MAX_TENSOR_ELEMENTS = 1 << 28
#: Operators that run other subgraphs, or remember something between two requests.
CONTROL = frozenset({"IF", "WHILE", "CALL", "CALL_ONCE", "STABLEHLO_WHILE", "STABLEHLO_CASE"})
STATEFUL = frozenset(
    {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "HASHTABLE", "HASHTABLE_IMPORT"}
)
RANDOM = frozenset(
    {
        "RANDOM_STANDARD_NORMAL",
        "RANDOM_UNIFORM",
        "MULTINOMIAL",
        "STABLEHLO_RNG_BIT_GENERATOR",
    }
)
Complain = Callable[[str], ModelError]


def read(content: bytes, subject: str) -> Network:
    """Parse and check. Raises ModelError, one line that begins with ``subject``."""
    model = parse(content, subject)

    def wrong(problem: str) -> ModelError:
        return ModelError(f"{subject}: {problem}")

    if model.version != VERSION:
        raise wrong(f"schema version {model.version}, known is {VERSION}; convert the model anew")
    subgraphs = model.subgraphs or []
    if len(subgraphs) != 1:
        raise wrong(
            f"{len(subgraphs)} subgraphs; only models of one can be cut "
            "(convert the model without If and While, and with one signature)"
        )
    for field in ("buffers", "operatorCodes"):
        if not getattr(model, field):
            raise wrong(f"no {field}; copy the file again")
    for field in ("tensors", "operators", "inputs", "outputs"):
        found = getattr(subgraphs[0], field)
        if found is None or len(found) == 0:
            raise wrong(f"the subgraph has no {field}; nothing can be cut")
    network = Network(model)
    _check_tensors(network, wrong)
    _check_operators(network, wrong)
    _check_references(network, wrong)
    _check_order(network, wrong)
    _check_ends(network, wrong)
    if len(network.fixed) == len(network.operators):
        raise wrong("no operator depends on the input; nothing can be cut")
    return network


def _check_tensors(network: Network, wrong: Complain) -> None:
    count = len(network.model.buffers)
    for index, tensor in enumerate(network.tensors):
        if tensor.type not in vars(schema.TensorType).values():
            raise wrong(f"tensor {index}: type {tensor.type} is unknown; copy the file again")
        if not 0 <= tensor.buffer < count:
            raise wrong(
                f"tensor {index}: buffer {tensor.buffer}, there are {count}; copy the file again"
            )
        if tensor.isVariable:
            raise wrong(
                f"tensor {index} is a variable: the model remembers something between two "
                "requests, which no block may; convert it without state"
            )
        shape = network.shape(index)
        if any(side < 0 for side in shape) or math.prod(shape) > MAX_TENSOR_ELEMENTS:
            raise wrong(f"tensor {index}: shape {shape}; convert the model for fixed, sane shapes")
        _check_constant(network, index, wrong)


def _check_constant(network: Network, index: int, wrong: Complain) -> None:
    """The data of a constant has the size that its shape says, where that is a plain array."""
    tensor = network.tensors[index]
    buffer = network.model.buffers[tensor.buffer]
    if buffer.offset > 1 or buffer.size > 1 or tensor.externalBuffer:
        raise wrong(f"tensor {index}: its weights lie outside of the model's flatbuffer")
    dtype = DTYPES.get(tensor.type)
    if not network.is_constant(index) or dtype is None or tensor.sparsity is not None:
        return
    wanted = network.elements(index) * BYTES[dtype]
    if len(buffer.data) != wanted:
        raise wrong(
            f"tensor {index}: {len(buffer.data)} bytes of data for shape {network.shape(index)} "
            f"of {dtype}, which takes {wanted}; copy the file again"
        )


def _check_operators(network: Network, wrong: Complain) -> None:
    codes = network.model.operatorCodes
    for index, operator in enumerate(network.operators):
        if not 0 <= operator.opcodeIndex < len(codes):
            raise wrong(
                f"operator {index}: code {operator.opcodeIndex}, there are {len(codes)}; "
                "copy the file again"
            )
        name = code_name(codes[operator.opcodeIndex])
        if name.startswith("operator "):
            raise wrong(f"operator {index} is of unknown kind {name.split()[1]}; copy it again")
        if name in CONTROL:
            raise wrong(f"operator {index} is {name}; models with control flow cannot be cut")
        if name in STATEFUL:
            raise wrong(f"operator {index} is {name}; models that keep state cannot be cut")
        if name in RANDOM:
            raise wrong(f"operator {index} is {name}; a random answer cannot be checked")


def _check_references(network: Network, wrong: Complain) -> None:
    """Operators and the model's ends name tensors that exist; operators write something."""
    count = len(network.tensors)
    users = {"inputs": network.inputs, "outputs": network.outputs}
    for operator, raw in enumerate(network.operators):
        name = _named(network, operator)
        inside = indices(raw.intermediates)
        users[name] = (*network.reads(operator), *network.writes(operator), *inside)
        if not network.writes(operator):
            raise wrong(f"{name} writes nothing; copy the file again")
    for name, tensors in users.items():
        for tensor in tensors:
            if not 0 <= tensor < count:
                raise wrong(f"{name}: tensor {tensor}, there are {count}; copy the file again")


def _check_order(network: Network, wrong: Complain) -> None:
    """Every operator reads what is there before it runs, and writes what nobody else does."""
    there = {t for t in range(len(network.tensors)) if network.is_constant(t)}
    there.update(network.inputs)
    for operator in range(len(network.operators)):
        name = _named(network, operator)
        for tensor in network.reads(operator):
            if tensor not in there:
                raise wrong(
                    f"{name} reads tensor {tensor} before anything has written it: the order "
                    "is broken, or a cycle; copy the file again"
                )
        for tensor in network.writes(operator):
            if tensor in there:
                raise wrong(f"{name} writes tensor {tensor}, which has its value already")
            there.add(tensor)
    for tensor in network.outputs:
        if tensor not in there:
            raise wrong(f"output tensor {tensor} is written by no operator; copy the file again")


def _named(network: Network, operator: int) -> str:
    return f"operator {operator} ({network.operator_name(operator)})"


def _check_ends(network: Network, wrong: Complain) -> None:
    """The wire must be able to carry the model's own inputs and outputs."""
    for what, tensors in (("input", network.inputs), ("output", network.outputs)):
        if len(set(tensors)) != len(tensors):
            raise wrong(f"an {what} tensor occurs twice")
        for tensor in tensors:
            if not carried(network, tensor):
                raise wrong(
                    f"{what} tensor {tensor}: shape {network.shape(tensor)} of type "
                    f"{network.tensors[tensor].type} cannot be sent; numbers of up to "
                    f"{MAX_TENSOR_BYTES >> 20} MiB and {MAX_RANK} dimensions can"
                )


def carried(network: Network, tensor: int) -> bool:
    """True where the wire can carry the tensor."""
    dtype, shape = DTYPES.get(network.tensors[tensor].type), network.shape(tensor)
    return (
        dtype is not None
        and len(shape) <= MAX_RANK
        and all(side > 0 for side in shape)
        and math.prod(shape) * BYTES[dtype] <= MAX_TENSOR_BYTES
    )
