"""Models that pass every check and run on zeros, and end or hang their process for some inputs."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from continuer import bundle as bundles
from continuer.bundle import Accuracy, Block, Bundle, InputSpec, Manifest, Part, TensorSpec
from tests.models.tiny import Sketch

SIDES = TensorSpec("sides", (2,), "int32")
TOTAL = TensorSpec("total", (1, 1))
NUMBER = TensorSpec("number", (1,), "int32")

#: Inputs of ``matrices``: at once; seconds of work.
QUICK, ENDLESS = (np.array([n, n], np.int32) for n in (2, 2500))
#: Inputs of ``remainders``: fine; what kills the process, and whether it does on this machine.
HARMLESS, DEADLY = np.array([9], np.int32), np.array([-2], np.int32)
DEADLY_HERE = platform.machine() == "x86_64"


def matrices(products: int = 40) -> bytes:
    """Products of square matrices, whose size is the input."""
    sketch = Sketch()
    source = sketch.input(SIDES.shape, SIDES.dtype)
    sides = sketch.like("sides", SIDES.shape, SIDES.dtype)
    one = sketch.constant("one", np.array([1], np.int32))
    sketch.operator("MAXIMUM", [source, one], sides, schema.MaximumMinimumOptionsT())
    flow = sketch.like("wide", (1, 1))
    value = sketch.constant("value", np.ones((1, 1), np.float32))
    options = schema.BroadcastToOptionsT()
    sketch.operator("BROADCAST_TO", [value, sides], flow, options, version=2)
    left = flow
    for _ in range(products):
        product = sketch.like("product", (1, 1))
        sketch.operator("BATCH_MATMUL", [left, flow], product, schema.BatchMatMulOptionsT())
        flow = product
    total = sketch.like("total", TOTAL.shape)
    axes = sketch.constant("axes", np.array([0, 1], np.int32))
    sketch.operator("SUM", [flow, axes], total, schema.ReducerOptionsT(keepDims=True))
    return sketch.finish([source], [total])


def remainders() -> bytes:
    """The least number modulo (input + 1): by -1 that overflows, and x86 processors trap."""
    sketch = Sketch()
    source = sketch.input(NUMBER.shape, NUMBER.dtype)
    one = sketch.constant("one", np.array([1], np.int32))
    least = sketch.constant("least", np.array([np.iinfo(np.int32).min], np.int32))
    divisor = sketch.like("divisor", NUMBER.shape, NUMBER.dtype)
    sketch.operator("ADD", [source, one], divisor, schema.AddOptionsT())
    result = sketch.like("remainder", NUMBER.shape, NUMBER.dtype)
    sketch.operator("FLOOR_MOD", [least, divisor], result, schema.FloorModOptionsT())
    return sketch.finish([source], [result])


def bundle(directory: Path, content: bytes, into: TensorSpec, out: TensorSpec) -> Bundle:
    """A network of this one block."""
    directory.mkdir()
    (directory / "moody.tflite").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    part = Part(
        "moody", "block", "moody.tflite", digest, len(content), 1 << 20, 100.0, 100.0, ("?",),
        (into,), (out,),
    )  # fmt: skip
    manifest = Manifest(
        bundles.SCHEMA, "moody", "1", "for tests", "none", InputSpec((into,)), (),
        (Block("moody"),), (part,), Accuracy("none", "none", 0, ()),
    )  # fmt: skip
    return bundles.dump(manifest, directory)
