"""Where a network can be cut, and how its operators are grouped into blocks.

Operators run in the order of the file, so a cut is a position in that order, and what crosses
it is every tensor that exists before and is used after. *Fixed* operators depend on constants
alone; they have no place in the order, each block gets those that it needs.

Between two neighbouring cuts that one tensor crosses lies an *atom*. A residual atom adds its
input, or a projection of it, to its result; it stays one block, so that it can be skipped. The
plain atoms between residual ones are joined until they weigh as much as one
``TARGET_BLOCKS``-th of the network and the next cut is no cheaper to send. Cuts that several
tensors cross are used only where more blocks are wanted than that gives.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ai_edge_litert import schema_py_generated as schema

from continuer.wire import MAX_TENSORS
from models.imported.flatbuffer import Network
from models.imported.foreign import carried

TARGET_BLOCKS = 16
#: Operators on one tensor that change no shape; after a residual addition they belong to it.
UNARY = frozenset({"RELU", "RELU6", "RELU_N1_TO_1", "HARD_SWISH", "LEAKY_RELU", "TANH", "LOGISTIC"})

ACTIVATIONS: dict[int, str] = {
    number: name for name, number in vars(schema.ActivationFunctionType).items() if name.isupper()
}
#: Activations of an addition that exist as an operator, to be run in a skipped block's stead.
ADDED = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")


@dataclass(frozen=True)
class Cut:
    """A partition point: how many operators run before it, and the tensors that cross it."""

    position: int
    tensors: tuple[int, ...]


@dataclass(frozen=True)
class Residual:
    """What makes a block residual: ``join`` adds ``shortcut`` to the block's main branch.

    ``shortcut`` is the block's input, or what the ``projection`` operators make of it.
    ``tail`` operators follow the addition. ``shortcut`` through ``tail`` is what is left
    of the block when it is skipped.
    """

    join: int
    shortcut: int
    projection: tuple[int, ...]
    tail: tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """A run of operators with the tensors that enter and leave it."""

    operators: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    residual: Residual | None = None


class Cutter:
    """The order of a network's operators, and every place where it can be cut."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.order = [i for i in range(len(network.operators)) if i not in network.fixed]
        self.cuts = {cut.position: cut for cut in self._find()}

    def _find(self) -> Iterator[Cut]:
        """All partition points, in order. A tensor that the wire cannot carry makes none."""
        network, last = self.network, len(self.order)
        born = dict.fromkeys(network.inputs, 0)
        used: dict[int, int] = {}
        for place, operator in enumerate(self.order):
            born.update(dict.fromkeys(network.writes(operator), place + 1))
            used.update(dict.fromkeys(network.reads(operator), place))
        used.update(dict.fromkeys(network.outputs, last))
        for position in range(1, last):
            live = tuple(t for t, at in born.items() if at <= position <= used.get(t, -1))
            if 0 < len(live) <= MAX_TENSORS and all(carried(network, t) for t in live):
                yield Cut(position, live)

    def piece(self, start: int, end: int) -> Piece:
        """The operators from one position to another; both are cuts, or an end."""
        inputs = self.cuts[start].tensors if start else self.network.inputs
        outputs = self.cuts[end].tensors if end < len(self.order) else self.network.outputs
        piece = Piece(tuple(self.order[start:end]), inputs, outputs)
        return replace(piece, residual=find_residual(self.network, piece))

    def pieces(self, positions: Sequence[int]) -> list[Piece]:
        """The whole network, cut at these positions."""
        bounds = [0, *positions, len(self.order)]
        return [self.piece(a, b) for a, b in itertools.pairwise(bounds)]

    def blocks(self, at_least: int = 1) -> list[Piece]:
        """The network as blocks; at least so many, where there are as many cuts."""
        single = [p for p, cut in self.cuts.items() if len(cut.tensors) == 1]
        bounds = self._joined([0, *single, len(self.order)])
        while len(bounds) - 1 < at_least:
            more = self._split(bounds)
            if more is None:
                break
            bounds = sorted([*bounds, more])
        return self.pieces(bounds[1:-1])

    def weight(self, start: int, end: int) -> int:
        """About how many multiplications and additions the operators take."""
        return sum(weight(self.network, operator) for operator in self.order[start:end])

    def _joined(self, bounds: Sequence[int]) -> list[int]:
        """Bounds of blocks, from those of atoms."""
        share = self.weight(0, len(self.order)) / TARGET_BLOCKS
        kept = [0]
        open_since: int | None = None  # where the run of plain atoms that is being joined began
        for start, end in itertools.pairwise(bounds):
            if self.piece(start, end).residual is not None:
                if open_since is not None:
                    self._close(kept, open_since, start, share)
                open_since = None
                kept.append(end)
            elif open_since is None and len(kept) > 1 and self._follows_up(start, end):
                kept[-1] = end
            else:
                open_since = start if open_since is None else open_since
                if self.weight(open_since, end) >= share and not self._shrinks(bounds, end):
                    kept.append(end)
                    open_since = None
        if open_since is not None:
            self._close(kept, open_since, len(self.order), share)
        return kept

    def _close(self, kept: list[int], since: int, end: int, share: float) -> None:
        """End a run of plain atoms; a light one joins its plain predecessor, if it has one."""
        light = self.weight(since, end) < share / 2
        if light and len(kept) > 1 and self.piece(kept[-2], kept[-1]).residual is None:
            kept[-1] = end
        else:
            kept.append(end)

    def _shrinks(self, bounds: Sequence[int], end: int) -> bool:
        """True where the next cut is cheaper to send: blocks end at necks, not at bulges."""
        following = bounds[bounds.index(end) + 1 :]
        return bool(following) and self._bytes(following[0]) < self._bytes(end)

    def _bytes(self, position: int) -> int:
        """What crosses a cut, or leaves the network."""
        ends = position == len(self.order)
        tensors = self.network.outputs if ends else self.cuts[position].tensors
        return sum(self.network.spec(t).nbytes for t in tensors)

    def _follows_up(self, start: int, end: int) -> bool:
        """True for an activation after an addition: converters do not always fuse them."""
        return all(self.network.operator_name(o) in UNARY for o in self.order[start:end])

    def _split(self, bounds: Sequence[int]) -> int | None:
        """Where to cut the heaviest block that can be: few tensors first, then even halves."""
        spans = sorted(itertools.pairwise(bounds), key=lambda s: -self.weight(*s))
        for start, end in spans:
            inner = [cut for p, cut in self.cuts.items() if start < p < end]
            if inner:
                half = self.weight(start, end) / 2
                return min(
                    inner,
                    key=lambda cut: (
                        len(cut.tensors),
                        abs(self.weight(start, cut.position) - half),
                    ),
                ).position
        return None


def weight(network: Network, operator: int) -> int:
    """About how many multiplications and additions an operator takes: sizes, no measurement."""
    results = sum(network.elements(t) for t in network.writes(operator))
    weights = [t for t in network.reads(operator) if network.is_constant(t)]
    kernel = network.shape(weights[0]) if weights else ()
    name = network.operator_name(operator)
    if name in ("CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED") and kernel:
        return results * math.prod(kernel[1:])
    if name == "DEPTHWISE_CONV_2D" and kernel:
        return results * math.prod(kernel[:-1])
    return results


def find_residual(network: Network, piece: Piece) -> Residual | None:
    """What makes the piece residual; None where it is not, or has several ends."""
    if len(piece.inputs) != 1 or len(piece.outputs) != 1:
        return None
    (source,), (result,) = piece.inputs, piece.outputs
    tail: list[int] = []
    while result in network.producers and network.operator_name(network.producers[result]) in UNARY:
        tail.insert(0, network.producers[result])
        (result, *_) = network.reads(tail[0])
    join = network.producers.get(result)
    if join is None or join not in piece.operators or network.operator_name(join) != "ADD":
        return None
    ends = [t for t in network.reads(join) if not network.is_constant(t)]
    if len(ends) != 2 or fused_activation(network, join) not in ADDED:
        return None
    branches = {end: branch(network, source, end) for end in ends}
    shortcut, main = sorted(ends, key=lambda end: len(branches[end]))
    if branches[shortcut] & branches[main] or not branches[main]:
        return None
    if shortcut != source and not branches[shortcut]:
        return None
    if network.shape(shortcut) != network.shape(piece.outputs[0]):
        return None  # the addition broadcasts: not what is skipped over
    return Residual(join, shortcut, tuple(sorted(branches[shortcut])), tuple(tail))


def fused_activation(network: Network, operator: int) -> str:
    """The activation that is part of an operator, such as ``RELU``; ``NONE`` for none."""
    options = network.operators[operator].builtinOptions
    return ACTIVATIONS.get(getattr(options, "fusedActivationFunction", 0), "unknown")


def branch(network: Network, source: int, end: int) -> set[int]:
    """The operators that make the tensor ``end`` from the tensor ``source``."""
    found: set[int] = set()
    pending = [end]
    while pending:
        tensor = pending.pop()
        operator = network.producers.get(tensor)
        if tensor == source or operator is None or operator in network.fixed or operator in found:
            continue
        found.add(operator)
        pending += network.reads(operator)
    return found
