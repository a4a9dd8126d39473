"""A small model whose tensors are symbolic: each part writes its number behind those before it.

What comes out is therefore the list of parts that ran, in order, behind the request's own number.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from continuer.bundle import (
    Accuracy,
    Block,
    Bundle,
    InputSpec,
    Manifest,
    Part,
    PartKind,
    TensorSpec,
    Variant,
)
from continuer.wire import PartTiming

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

LENGTH = 24
SPEC = TensorSpec("applied", (1, LENGTH), "int32")
MIDDLE = 6
LATENCY_US = 500.0
LOAD_US = 2000.0
TOTAL = 1000
POISONED = 3  # the part that a poisonous request kills


def _part(name: str, kind: PartKind) -> Part:
    specs = ((SPEC,), (SPEC,))
    digest = "0" * 64
    return Part(
        name, kind, f"{name}.tflite", digest, 1, 1 << 20, LATENCY_US, LOAD_US, (), *specs
    )  # fmt: skip


def _make() -> Bundle:
    middle = [f"block{i:02}" for i in range(1, MIDDLE + 1)]
    blocks = [
        Block("stem"),
        *(
            Block(name, True, f"bypass{i:02}" if i == 3 else None, f"exit{i:02}" if i > 1 else None)
            for i, name in enumerate(middle, 1)
        ),
        Block("head"),
    ]
    runs = [tuple(middle[a:b]) for a in range(MIDDLE) for b in range(a + 1, MIDDLE + 1)]
    variants = [
        Variant(900, TOTAL),
        *(Variant(880 - 40 * len(run), TOTAL, None, run) for run in runs),
        *(Variant(400 + 70 * i, TOTAL, f"exit{i:02}") for i in range(2, MIDDLE + 1)),
    ]
    parts = [
        *(_part(block.part, "block") for block in blocks),
        *(_part(block.exit, "exit") for block in blocks if block.exit),
        *(_part(block.bypass, "bypass") for block in blocks if block.bypass),
    ]
    manifest = Manifest(
        1, "symbols", "1", "symbolic", "Apache-2.0", InputSpec((SPEC,)), ("a", "b"),
        tuple(blocks), tuple(parts), Accuracy("none", "none", TOTAL, tuple(variants)),
    )  # fmt: skip
    return Bundle(Path("-"), manifest, hashlib.sha256(b"symbols").digest())


BUNDLE = _make()


def request(number: int, *, poison: bool = False) -> Array:
    """The input of a request: its number, and nothing applied yet. Poison kills who runs it."""
    tensor = np.zeros((1, LENGTH), np.int32)
    tensor[0, 0], tensor[0, -1] = number, poison
    return tensor


def applied(frame: bytes) -> tuple[int, tuple[int, ...]]:
    """The request's number and the parts that ran, from an answer's tensor."""
    values = np.frombuffer(frame, np.int32)
    count = int(values[1])
    return int(values[0]), tuple(int(v) for v in values[2 : 2 + count])


class KilledError(Exception):
    """A request killed the process that ran it."""


class SymbolicEngine:
    """What ``agent.engine.Engine`` is to the executors."""

    pid = -1  # no process of its own

    def __init__(self) -> None:
        self.loaded: set[int] = set()
        self.lock = threading.Lock()

    def latency_us(self, parts: Sequence[int]) -> float:
        return LATENCY_US * len(parts) if self.loaded >= set(parts) else float("inf")

    def run(self, parts: Sequence[int], tensors: Sequence[Array], _: object = None) -> list[Array]:
        flow = np.array(tensors[0])
        for part in parts:
            if flow[0, -1] and part == POISONED:
                raise KilledError
            self.loaded.add(part)
            flow[0, 2 + flow[0, 1]] = part
            flow[0, 1] += 1
        return [flow]

    def timings(self) -> tuple[PartTiming, ...]:
        return tuple(PartTiming(part, LATENCY_US, LOAD_US) for part in sorted(self.loaded))
