"""A trained network as parts that compute in 8-bit integers, calibrated on images.

Blocks, exits and bypasses are converted as one model and then cut apart at the flatbuffer, so
that a tensor between two parts has one scale, whoever reads it. What a skipped block leaves has
a scale of its own: its bypass ends with the rescaling to the one that the next block expects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import tensorflow as tf

from models.convert import frozen
from models.imported import bypass, foreign
from models.imported.cut import branch
from models.imported.flatbuffer import Network as Graph
from models.imported.flatbuffer import extract
from models.network import Network
from models.ops import BN_EPSILON

if TYPE_CHECKING:
    import keras
    import numpy.typing as npt

    Models = Mapping[str, keras.Model]
    Images = npt.NDArray[Any]


def convert(network: Network, models: Models, images: Images) -> tuple[Network, dict[str, bytes]]:
    """Every part's file by name, and the network with a bypass wherever a skip must rescale.

    ``models``: every part by name, with its weights, some of which are rewritten. ``images``:
    (N, 32, 32, 3) float32, as the network takes them; they give the range of every tensor.
    Inputs and outputs are int8.
    """
    fold_exits(network, models)
    order = list(_order(network))
    graph = foreign.read(_convert_whole(network, models, images), network.name)
    tensors = dict(zip(order, graph.outputs, strict=True))
    contents: dict[str, bytes] = {}
    bypasses: dict[str, str | None] = {}
    (flow,) = graph.inputs
    for block in network.blocks:
        entered, flow = flow, tensors[block.part]
        contents[block.part] = _cut(graph, entered, flow)
        if block.exit is not None:
            contents[block.exit] = _cut(graph, flow, tensors[block.exit])
        if block.skippable:
            shortcut = _shortcut(graph, entered, tensors.get(block.bypass or ""), flow)
            name = block.part.replace("block", "bypass")
            bypasses[block.part] = None if shortcut is None else name
            contents |= {} if shortcut is None else {name: shortcut}
    blocks = (
        msgspec.structs.replace(block, bypass=bypasses.get(block.part)) for block in network.blocks
    )
    return replace(network, blocks=tuple(blocks)), contents


def fold_exits(network: Network, models: Models) -> None:
    """Move an exit's normalisation between pooling and dense layer into its two neighbours.

    It stretches channels that hardly vary, of which one scale for all channels leaves nothing.
    Stretched in the convolution, whose kernels have a scale per channel, they survive: ReLU and
    maximum commute with positive factors. Signs and shifts go into the dense layer.
    """
    for name in network.exits:
        layers = {layer.name: layer for layer in models[name].layers}
        found = [layers.get(f"{name}.{each}") for each in ("conv", "bn", "dense1")]
        if all(layer is not None and layer.weights for layer in found):
            _fold(*found)


def _fold(conv: Any, normalisation: Any, dense: Any) -> None:
    gamma, beta, mean, variance = normalisation.get_weights()
    factor = gamma / np.sqrt(variance + BN_EPSILON)
    kernel, bias = conv.get_weights()
    conv.set_weights([kernel * np.abs(factor), bias * np.abs(factor)])
    kernel, bias = dense.get_weights()
    places = kernel.reshape(-1, len(factor), kernel.shape[-1])  # channels fastest
    shift = np.einsum("pcu,c->u", places, beta - mean * factor)
    signed = places * np.sign(factor)[:, np.newaxis]
    dense.set_weights([signed.reshape(kernel.shape), bias + shift])
    one = np.ones_like(gamma)
    normalisation.set_weights([one, 0 * one, 0 * one, one - np.float32(BN_EPSILON)])


def _order(network: Network) -> Iterator[str]:
    """The parts in the order in which the whole model gives their outputs."""
    for block in network.blocks:
        yield from (name for name in (block.bypass, block.part, block.exit) if name is not None)


def _convert_whole(network: Network, models: Models, images: Images) -> bytes:
    """One model that runs every part where it belongs; its outputs are those of all parts."""

    def run(tensor: Any) -> list[Any]:
        found = []
        for block in network.blocks:
            if block.bypass is not None:
                found.append(models[block.bypass](tensor, training=False))
            tensor = models[block.part](tensor, training=False)
            found.append(tensor)
            if block.exit is not None:
                found.append(models[block.exit](tensor, training=False))
        return found

    first = models[network.blocks[0].part].inputs[0]
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen(run, first)])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    # Only integers: an operator without an 8-bit form is an error, not a slow detour by floats.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def _cut(graph: Graph, source: int, result: int) -> bytes:
    return extract(graph, branch(graph, source, result), [source], [result])


def _shortcut(graph: Graph, source: int, bypassed: int | None, result: int) -> bytes | None:
    """What runs in a skipped block's stead, to give ``result`` at its scale; None for nothing."""
    left, wanted = source if bypassed is None else bypassed, graph.spec(result)
    producer = graph.producers.get(left)
    # Where the least number of 8 bits stands for 0, rescaling alone cuts off what is negative;
    # an 8-bit ReLU of its own takes longer than the block that is skipped.
    cuts_off = wanted.zero_point == np.iinfo(wanted.dtype).min
    if cuts_off and producer is not None and graph.operator_name(producer) == "RELU":
        (left,) = graph.reads(producer)
    base = None if left == source else _cut(graph, source, left)
    return bypass.rescaled(base, graph.spec(left), wanted)
