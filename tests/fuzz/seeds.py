"""Right inputs to begin with: mutations of these go deeper than chance alone."""

from __future__ import annotations

from typing import Any

import msgspec

from continuer import wire
from continuer.bundle import MANIFEST
from continuer.catalog import find_bundle
from tests.unit.wire_samples import SAMPLES

KEY = "k" * 40
AGENT = f'node = "n1"\nbundle = "b"\ncoordinator = "tcp://10.0.0.1:7400#{KEY}"\nsecurity = "on"\n'
COORDINATOR = 'bundle = "b"\nnodes = ["n1", "n2"]\n[objectives]\naccuracy = 0.5\n'


def seeds(target: str) -> list[bytes]:
    """Right inputs for a target."""
    if target in ("header", "plan"):
        return [wire.encode(message) for message in SAMPLES]
    if target == "tensors":
        metas: Any = (wire.TensorMeta("float32", (1, 2, 2, 1)), wire.TensorMeta("int8", (16,)))
        return [msgspec.msgpack.encode(metas) + b"\0\0" + bytes(16)]
    if target == "manifest":
        return [(find_bundle("resnet32-cifar10") / MANIFEST).read_bytes()]
    if target == "configuration":
        return [AGENT.encode(), COORDINATOR.encode()]
    ring = f'[[keys]]\nname = "n1"\nrole = "agent"\npublic = "{KEY}"\n'
    return [ring.encode(), f'public = "{KEY}"\nsecret = "{KEY}"\n'.encode()]
