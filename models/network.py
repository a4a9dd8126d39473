"""A network as a chain of blocks with exits and bypasses, free of any framework."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from continuer.bundle import Block, Preprocessing
from models.ops import Ops

IMAGE_SHAPE = (32, 32, 3)
CLASS_COUNT = 10
#: How an image becomes a network's input, in training and in the bundle.
PREPROCESSING = Preprocessing(
    layout="NHWC",
    colour="RGB",
    divisor=255.0,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.247, 0.243, 0.262),
)

#: A part of a network: adds its operations to a tensor.
Part = Callable[[Ops, Any], Any]


@dataclass(frozen=True)
class Network:
    """A network's definition.

    ``name``: what ``continuer model train`` calls it. ``description``: one sentence for
    the bundle's manifest. ``blocks``: the chain, from stem to head. ``parts``: every
    block, exit and bypass by name. ``activation``: name of the activation function.
    """

    name: str
    description: str
    blocks: tuple[Block, ...]
    parts: Mapping[str, Part]
    activation: str

    def plain(self) -> Network:
        """The same chain without exits, and with no block that may be skipped."""
        names = [block.part for block in self.blocks]
        parts = {name: self.parts[name] for name in names}
        return replace(self, blocks=tuple(map(Block, names)), parts=parts)

    @property
    def exits(self) -> tuple[str, ...]:
        """Names of the exits, first to last."""
        return tuple(block.exit for block in self.blocks if block.exit is not None)

    @property
    def skippable(self) -> tuple[str, ...]:
        """Names of the blocks that may be skipped, first to last."""
        return tuple(block.part for block in self.blocks if block.skippable)

    def run(
        self,
        ops: Ops,
        tensor: Any,
        skipped: Collection[str] = (),
        exits: Collection[str] = (),
    ) -> tuple[Any, dict[str, Any]]:
        """The logits of the head, and of each of the exits asked for, on one input."""
        found = {}
        for block in self.blocks:
            part = block.bypass if block.part in skipped else block.part
            if part is not None:
                tensor = self.parts[part](ops, tensor)
            if block.exit is not None and block.exit in exits:
                found[block.exit] = self.parts[block.exit](ops, tensor)
        return tensor, found
