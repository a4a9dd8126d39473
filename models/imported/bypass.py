"""What is left of a residual block that is skipped: its shortcut, as a model of its own.

Skipping leaves out the main branch of the addition and keeps what surrounds it: the
projection, the activation after the addition, and in quantised models the rescaling that every
addition does. Passing the input on unchanged would be wrong where the scales differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from continuer.bundle import TensorSpec
from models.imported.cut import Piece, Residual, fused_activation
from models.imported.flatbuffer import Network, extract, parse
from models.imported.graph import GraphWriter

if TYPE_CHECKING:
    import numpy.typing as npt

POSITIVE = ("RELU", "RELU6")


def shortcut(network: Network, piece: Piece, *, positive_input: bool = False) -> bytes | None:
    """A model that stands in for the skipped residual piece; None where nothing has to run.

    ``positive_input``: what enters the piece is known to be never negative.
    """
    residual = piece.residual
    assert residual is not None
    positive = positive_input and residual.shortcut in piece.inputs
    positive = positive or never_negative(network, residual.shortcut)
    replacement = _replacement(network, residual, positive=positive)
    if replacement is None and not residual.tail:
        if not residual.projection:
            return None
        return extract(network, residual.projection, piece.inputs, [residual.shortcut])
    edited = _without_addition(network, residual, replacement)
    kept = [*residual.projection, *residual.tail]
    if replacement is not None:
        kept.append(residual.join)
    return extract(edited, kept, piece.inputs, piece.outputs)


def _replacement(network: Network, residual: Residual, *, positive: bool) -> str | None:
    """The operator that does to the shortcut alone what the addition does besides adding."""
    activation = fused_activation(network, residual.join)
    (joined,) = network.writes(residual.join)
    before, after = network.spec(residual.shortcut), network.spec(joined)
    idle = activation == "RELU" and positive and before.scale is None
    if activation != "NONE" and not idle:
        return activation  # in quantised models it rescales too
    same = (before.scale, before.zero_point) == (after.scale, after.zero_point)
    return None if same else "QUANTIZE"


def never_negative(network: Network, tensor: int) -> bool:
    """True for what an activation has made: applying it again changes nothing."""
    producer = network.producers.get(tensor)
    return producer is not None and (
        network.operator_name(producer) in POSITIVE
        or fused_activation(network, producer) in POSITIVE
    )


def _without_addition(network: Network, residual: Residual, replacement: str | None) -> Network:
    """A copy of the network in which the replacement, or nothing, stands for the addition."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    vars(model).update(vars(network.model))
    vars(graph).update(vars(network.graph))
    model.subgraphs = [graph]
    model.operatorCodes = list(model.operatorCodes)
    graph.operators = list(graph.operators)
    (joined,) = network.writes(residual.join)
    if replacement is not None:
        GraphWriter(model).operator(replacement, [residual.shortcut], joined)
        graph.operators[residual.join] = graph.operators.pop()
        return Network(model)
    first = schema.OperatorT()
    vars(first).update(vars(graph.operators[residual.tail[0]]))
    first.inputs = np.array(
        [residual.shortcut if t == joined else t for t in first.inputs], np.int32
    )
    graph.operators[residual.tail[0]] = first
    return Network(model)


def rescaled(base: bytes | None, before: TensorSpec, after: TensorSpec) -> bytes | None:
    """The bypass ``base`` (None: identity), then the step from one quantisation to another.

    ``before``: what the base gives; ``after``: what is wanted, of the same shape and type.
    """
    if (before.scale, before.zero_point) == (after.scale, after.zero_point):
        return base
    writer, source, entry = _start(base, before)
    result = writer.tensor(after)
    writer.operator("QUANTIZE", [source], result)
    return writer.finish([entry], [result])


@dataclass(frozen=True)
class Affine:
    """A correction per channel, the last axis: ``value * scale + shift``."""

    scale: npt.NDArray[np.float32]
    shift: npt.NDArray[np.float32]


def corrected(base: bytes | None, spec: TensorSpec, correction: Affine, *, positive: bool) -> bytes:
    """The bypass ``base`` (None: identity) followed by a correction of its output.

    ``spec``: of the skipped block's output. Quantised values are corrected as real numbers.
    ``positive``: the block gives nothing negative, and so shall its bypass.
    """
    writer, source, entry = _start(base, spec)
    if spec.scale is not None:
        real = writer.tensor(TensorSpec("real", spec.shape, "float32"))
        writer.operator("DEQUANTIZE", [source], real, version=2)
        source = real
    scaled = writer.tensor(TensorSpec("scaled", spec.shape, "float32"))
    writer.operator(
        "MUL", [source, writer.constant("scale", correction.scale)], scaled, schema.MulOptionsT()
    )
    result = writer.tensor(TensorSpec("corrected", spec.shape, "float32"))
    relu = schema.ActivationFunctionType.RELU if positive else schema.ActivationFunctionType.NONE
    shift = writer.constant("shift", correction.shift)
    writer.operator(
        "ADD", [scaled, shift], result, schema.AddOptionsT(fusedActivationFunction=relu)
    )
    if spec.scale is not None:
        quantised = writer.tensor(spec)
        writer.operator("QUANTIZE", [result], quantised)
        result = quantised
    return writer.finish([entry], [result])


def _start(base: bytes | None, spec: TensorSpec) -> tuple[GraphWriter, int, int]:
    """A writer with the base's operators, the tensor that they end in, and their input."""
    if base is None:
        writer = GraphWriter()
        source = writer.tensor(spec)
        return writer, source, source
    model: Any = parse(base, "bypass")
    known = Network(model)
    return GraphWriter(model), known.outputs[0], known.inputs[0]
