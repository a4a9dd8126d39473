"""Malformed model files: how each is made, and what ``continuer model import`` says of it.

``python -m tests.models.malformed`` runs the command on all of them and prints the table of
``docs/imports.md``; a test compares.
"""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from continuer.cli import main
from continuer.errors import ModelError
from models.imported import foreign
from models.imported.flatbuffer import OPERATOR_CODES, parse, serialise
from tests.models import tiny
from tests.models.tiny import Sketch

DEADLINE_S = 4
MEMORY_MIB = 512
DOCUMENT = Path(__file__).parents[2] / "docs" / "imports.md"
BEGIN, END = "<!-- printed by make docs -->", "<!-- end -->"

Content = Callable[[], bytes]


def edited(edit: Callable[[Any, Any], None]) -> Content:
    """A sound model after an edit of its (model, subgraph)."""

    def make() -> bytes:
        model = parse(tiny.colours(1), "sound")
        edit(model, model.subgraphs[0])
        return serialise(model)

    return make


def cut_at(share: float) -> Content:
    return lambda: tiny.colours()[: int(share * len(tiny.colours()))]


def patched(at: int, value: bytes) -> Content:
    def make() -> bytes:
        content = bytearray(tiny.colours())
        content[at : at + len(value)] = value
        return bytes(content)

    return make


def swap_operators(_: Any, graph: Any) -> None:
    graph.operators[1], graph.operators[2] = graph.operators[2], graph.operators[1]


def close_a_cycle(_: Any, graph: Any) -> None:
    """The first operator reads what the third writes."""
    inputs = [graph.operators[2].outputs[0], *graph.operators[0].inputs[1:]]
    graph.operators[0].inputs = np.array(inputs, np.int32)


def write_twice(_: Any, graph: Any) -> None:
    graph.operators[1].outputs = graph.operators[0].outputs


def second_subgraph(model: Any, graph: Any) -> None:
    model.subgraphs.append(graph)


def use(name: str) -> Callable[[Any, Any], None]:
    def edit(model: Any, _: Any) -> None:
        model.operatorCodes[0].builtinCode = OPERATOR_CODES[name]
        model.operatorCodes[0].deprecatedBuiltinCode = min(OPERATOR_CODES[name], 127)

    return edit


def unknown_operator(model: Any, _: Any) -> None:
    model.operatorCodes[0].builtinCode = 4000


def custom_operator(model: Any, graph: Any) -> None:
    use("CUSTOM")(model, graph)
    model.operatorCodes[0].customCode = b"Mystery"


def set_tensor(field: str, value: Any) -> Callable[[Any, Any], None]:
    """Change a field of what the first operator writes."""

    def edit(_: Any, graph: Any) -> None:
        setattr(graph.tensors[graph.operators[0].outputs[0]], field, value)

    return edit


def set_kernel(field: str, value: Any) -> Callable[[Any, Any], None]:
    """Change a field of the first operator's weights."""

    def edit(_: Any, graph: Any) -> None:
        setattr(graph.tensors[graph.operators[0].inputs[1]], field, value)

    return edit


def set_graph(field: str, value: Any) -> Callable[[Any, Any], None]:
    return lambda _, graph: setattr(graph, field, value)


def set_operator(field: str, value: Any) -> Callable[[Any, Any], None]:
    return lambda _, graph: setattr(graph.operators[0], field, value)


def weights_outside(model: Any, graph: Any) -> None:
    kernel = graph.tensors[graph.operators[0].inputs[1]]
    model.buffers[kernel.buffer] = schema.BufferT(None, 1 << 20, 1 << 20)


def clear(field: str) -> Callable[[Any, Any], None]:
    return lambda model, _: setattr(model, field, [])


def crashing() -> bytes:
    """Structurally valid: a window of negative width, which the runtime does not check."""
    sketch = Sketch()
    source = sketch.input()
    result = sketch.like("normalised")
    options = schema.LocalResponseNormalizationOptionsT(radius=-2)
    sketch.operator("LOCAL_RESPONSE_NORMALIZATION", [source], result, options)
    return sketch.finish([source], [result])


def widened(sketch: Sketch, source: int, side: int) -> int:
    result = sketch.like("wide", (side, side))
    shape = sketch.constant("shape", np.array([side, side], np.int32))
    sketch.operator(
        "BROADCAST_TO", [source, shape], result, schema.BroadcastToOptionsT(), version=2
    )
    return result


def endless() -> bytes:
    """Structurally valid: hours of multiplications out of a few bytes."""
    sketch = Sketch()
    source = sketch.input((1, 1))
    flow = widened(sketch, source, 1024)
    for _ in range(2000):
        following = sketch.like("product", (1024, 1024))
        sketch.operator("BATCH_MATMUL", [flow, flow], following, schema.BatchMatMulOptionsT())
        flow = following
    return sketch.finish([source], [flow])


def hungry() -> bytes:
    """Structurally valid: 1 GiB for one tensor."""
    sketch = Sketch()
    source = sketch.input((1, 1))
    wide = widened(sketch, source, 1 << 14)
    total = sketch.like("total", (1, 1))
    axes = sketch.constant("axes", np.array([0, 1], np.int32))
    sketch.operator("SUM", [wide, axes], total, schema.ReducerOptionsT(keepDims=True))
    return sketch.finish([source], [total])


def refusing_some_inputs() -> bytes:
    """Structurally valid: runs on zeros, but not where an index is 1."""
    sketch = Sketch()
    source = sketch.input((2,), "int32")
    values = sketch.constant("values", np.zeros((1, 3), np.float32))
    result = sketch.like("gathered", (2, 3))
    sketch.operator("GATHER", [values, source], result, schema.GatherOptionsT())
    return sketch.finish([source], [result])


def large_input() -> bytes:
    """1 GiB a request."""
    sketch = Sketch()
    source = sketch.input((1, 1 << 13, 1 << 13, 4))
    result = sketch.like("relu", (1, 1 << 13, 1 << 13, 4))
    sketch.operator("RELU", [source], result)
    return sketch.finish([source], [result])


def constant_answer() -> bytes:
    sketch = Sketch()
    source = sketch.input()
    answer = sketch.relu(sketch.constant("values", np.ones(tiny.SHAPE, np.float32)))
    return sketch.finish([source], [answer])


SHAPE = "convert the model for fixed, sane shapes"
MALFORMED: dict[str, tuple[Content, str]] = {
    "empty": (bytes, "0 bytes; give a .tflite file"),
    "seven bytes": (lambda: tiny.colours()[:7], "7 bytes are no model"),
    "text": (lambda: b"this is no model at all\n" * 9, "bytes 4 to 8 are b' is '"),
    "wrong identifier": (patched(4, b"TFL2"), "bytes 4 to 8 are b'TFL2'"),
    "cut after a twentieth": (cut_at(0.05), "truncated or damaged"),
    "cut in the middle": (cut_at(0.5), "truncated or damaged"),
    "cut near the end": (cut_at(0.95), "truncated or damaged"),
    "root offset past the end": (patched(0, struct.pack("<I", 1 << 30)), "truncated or damaged"),
    "root offset into the data": (patched(0, struct.pack("<I", 200)), "schema version 0"),
    "schema version 9": (edited(lambda m, _: setattr(m, "version", 9)), "schema version 9"),
    "no subgraph": (edited(clear("subgraphs")), "0 subgraphs"),
    "two subgraphs": (edited(second_subgraph), "2 subgraphs; only models of one can be cut"),
    "no buffers": (edited(clear("buffers")), "no buffers"),
    "no operator codes": (edited(clear("operatorCodes")), "no operatorCodes"),
    "no operators": (edited(set_graph("operators", [])), "the subgraph has no operators"),
    "no inputs": (edited(set_graph("inputs", np.array([], np.int32))), "has no inputs"),
    "input out of range": (
        edited(set_graph("inputs", np.array([77], np.int32))),
        "inputs: tensor 77, there are",
    ),
    "output nobody writes": (
        edited(set_graph("outputs", np.array([1_000_000], np.int32))),
        "outputs: tensor 1000000, there are",
    ),
    "tensor index out of range": (
        edited(set_operator("inputs", np.array([0, 1, 99], np.int32))),
        "operator 0 (CONV_2D): tensor 99, there are",
    ),
    "negative tensor index": (
        edited(set_operator("inputs", np.array([-7, 1, 2], np.int32))),
        "operator 0 (CONV_2D): tensor -7",
    ),
    "missing inputs": (
        edited(set_operator("inputs", np.array([0], np.int32))),
        "the runtime refuses this file",
    ),
    "operator that writes nothing": (
        edited(set_operator("outputs", np.array([], np.int32))),
        "operator 0 (CONV_2D) writes nothing",
    ),
    "operator code out of range": (edited(set_operator("opcodeIndex", 50)), "operator 0: code 50"),
    "buffer index out of range": (edited(set_kernel("buffer", 1234)), "buffer 1234, there are"),
    "less data than the shape says": (
        edited(set_kernel("shape", np.array([3, 1, 1, 300], np.int32))),
        "36 bytes of data for shape (3, 1, 1, 300) of float32, which takes 3600",
    ),
    "weights outside of the file": (edited(weights_outside), "lie outside of the model's"),
    "negative shape": (edited(set_tensor("shape", np.array([1, -8, 8, 3], np.int32))), SHAPE),
    "huge shape": (edited(set_tensor("shape", np.array([1 << 20] * 4, np.int32))), SHAPE),
    "another shape than computed": (
        edited(lambda _, g: setattr(g.tensors[g.outputs[0]], "shape", np.array([1, 5], np.int32))),
        "the runtime finds other shapes or types than the file says",
    ),
    "unknown type": (edited(set_tensor("type", 99)), "type 99 is unknown"),
    "weights of another type": (
        edited(set_tensor("type", schema.TensorType.COMPLEX64)),
        "the runtime refuses this file",
    ),
    "variable": (edited(set_tensor("isVariable", True)), "is a variable: the model remembers"),
    "operators out of order": (edited(swap_operators), "before anything has written it"),
    "cycle": (edited(close_a_cycle), "the order is broken, or a cycle"),
    "tensor written twice": (edited(write_twice), "which has its value already"),
    "unknown operator": (edited(unknown_operator), "operator 0 is of unknown kind 4000"),
    "custom operator": (edited(custom_operator), "unresolved custom op: Mystery"),
    "If": (edited(use("IF")), "operator 0 is IF; models with control flow cannot be cut"),
    "While": (edited(use("WHILE")), "operator 0 is WHILE; models with control flow"),
    "resource variable": (edited(use("READ_VARIABLE")), "models that keep state cannot be cut"),
    "random": (edited(use("RANDOM_UNIFORM")), "a random answer cannot be checked"),
    "input too large for the wire": (large_input, "cannot be sent; numbers of up to 64 MiB"),
    "nothing depends on the input": (constant_answer, "no operator depends on the input"),
    "crashes the runtime": (crashing, "the runtime crashed with SIGSEGV while loading it"),
    "hangs the runtime": (endless, f"not done after {DEADLINE_S} s, while loading it"),
    "eats memory": (hungry, "the runtime refuses this file"),
    "fails for some inputs": (refusing_some_inputs, "fails for some inputs"),
}


#: What only the runtime notices.
RUN = (
    "missing inputs",
    "another shape than computed",
    "weights of another type",
    "custom operator",
    "crashes the runtime",
    "hangs the runtime",
    "eats memory",
    "fails for some inputs",
)


def command(path: Path) -> list[str]:
    """The command on a file, with limits under which bad files are found out soon."""
    return [
        *("model", "import", str(path), f"--out={path.parent / 'out'}", "--nodes=1"),
        *(f"--deadline-s={DEADLINE_S}", f"--memory-mib={MEMORY_MIB}"),
    ]


def message(name: str) -> str:
    """What a file gets, called FILE: from the checks, or where it passes them from the command."""
    content = MALFORMED[name][0]()
    if name not in RUN and content:
        try:
            foreign.read(content, "FILE")
        except ModelError as error:
            return str(error)
        raise AssertionError(f"{name}: passes the checks")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bad.tflite"
        path.write_bytes(content)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            main(command(path))
        return said.getvalue().removeprefix("continuer: ").strip().replace(str(path), "FILE")


def row(name: str, said: str) -> str:
    """A line of the table; messages may hold what ends a cell."""
    escaped = said.replace("|", "\\|")
    return f"| {name} | `{escaped}` |"


def lines() -> Iterator[str]:
    """The table."""
    yield "| file | message |"
    yield "|---|---|"
    for name in MALFORMED:
        yield row(name, message(name))


if __name__ == "__main__":
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text("\n".join([before + BEGIN, *lines(), END + after]))
    sys.stdout.write(f"wrote {DOCUMENT}\n")
