"""Joining parts back into one ``.tflite``: what tests cut apart has to come from somewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from continuer.bundle import Bundle
from models.imported.flatbuffer import parse, serialise


def whole_model(bundle: Bundle, count: int | None = None) -> bytes:
    """The first ``count`` blocks of a bundle, or all of them, as one model."""
    names = bundle.block_names[:count]
    return join([bundle.file_of(name).read_bytes() for name in names])


def join(parts: Sequence[bytes]) -> bytes:
    """One model that runs the parts one after the other; each has one input and one output."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs = 3, [graph]
    model.operatorCodes, model.buffers = [], [schema.BufferT()]
    graph.tensors, graph.operators = [], []
    flow = -1
    for index, content in enumerate(parts):
        part = parse(content, f"part {index}")
        flow = append(model, part, flow)
        if index == 0:
            graph.inputs = np.array([part.subgraphs[0].inputs[0]], np.int32)
    graph.outputs = np.array([flow], np.int32)
    return serialise(model)


def append(model: Any, part: Any, flow: int) -> int:
    """Add a part's contents; its input becomes the tensor ``flow``. Returns its output."""
    graph, own = model.subgraphs[0], part.subgraphs[0]
    tensors, codes, buffers = len(graph.tensors), len(model.operatorCodes), len(model.buffers)
    for tensor in own.tensors:
        tensor.buffer += buffers
    for operator in own.operators:
        operator.opcodeIndex += codes
        for field in ("inputs", "outputs"):
            moved = [
                flow if flow >= 0 and t == own.inputs[0] else t + tensors if t >= 0 else t
                for t in getattr(operator, field)
            ]
            setattr(operator, field, np.array(moved, np.int32))
    model.operatorCodes += part.operatorCodes
    model.buffers += part.buffers
    graph.tensors += own.tensors
    graph.operators += own.operators
    return int(own.outputs[0]) + tensors
