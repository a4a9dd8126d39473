"""Measuring accuracy per variant with the bundle's own parts.

The paths of all variants are merged into a tree by their common beginnings, and every
image goes through the tree once: what two variants share is computed once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from continuer.bundle import Block, Bundle, Variant, load
from continuer.runtime import PathRunner

Counts = npt.NDArray[np.int64]
#: Images per unit of work: seconds of work, so that progress is seen to move.
CHUNK = 100


@dataclass
class Node:
    """A part in the tree of paths; ``variant`` is the index of the one that ends here."""

    part: str
    variant: int | None = None
    children: dict[str, Node] = field(default_factory=dict)


def variants(
    blocks: Sequence[Block], longest_skip: int
) -> list[tuple[str | None, tuple[str, ...]]]:
    """What is measured, as (exit, skipped blocks).

    The full network; every exit with nothing skipped; every run of up to
    ``longest_skip`` consecutive skippable blocks, without exit.
    """
    exits = [(block.exit, ()) for block in blocks if block.exit is not None]
    return [(None, ()), *exits, *((None, run) for run in _runs(blocks, longest_skip))]


def _runs(blocks: Sequence[Block], longest: int) -> Iterator[tuple[str, ...]]:
    for length in range(1, longest + 1):
        for start in range(len(blocks) - length + 1):
            run = blocks[start : start + length]
            if all(block.skippable for block in run):
                yield tuple(block.part for block in run)


def tree(paths: Sequence[Sequence[str]]) -> Node:
    """The paths merged by their common beginnings, under a root that runs nothing."""
    root = Node("")
    for index, path in enumerate(paths):
        node = root
        for part in path:
            node = node.children.setdefault(part, Node(part))
        node.variant = index
    return root


def measure(
    bundle: Bundle,
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    longest_skip: int,
    processes: int,
) -> tuple[Variant, ...]:
    """Run every variant on every image and count the right answers.

    ``images``: (N, *shape of the input without its batch), prepared; ``labels``: (N,).
    Progress goes to stderr.
    """
    wanted = variants(bundle.manifest.blocks, longest_skip)
    correct = np.zeros(len(wanted), np.int64)
    pieces = [
        (images[at : at + CHUNK], labels[at : at + CHUNK]) for at in range(0, len(labels), CHUNK)
    ]
    done = 0
    # Processes are spawned: forking one that has loaded TensorFlow may hang.
    arguments = (bundle.directory, longest_skip)
    with get_context("spawn").Pool(processes, _Worker.start, arguments) as pool:
        for total, counts in pool.imap_unordered(_Worker.work, pieces):
            correct += counts
            done += total
            sys.stderr.write(f"\raccuracy: {done} of {len(labels)} images")
    sys.stderr.write("\n")
    return tuple(
        Variant(int(right), len(labels), exit_name, skipped)
        for (exit_name, skipped), right in zip(wanted, correct, strict=True)
    )


class _Worker:
    """State of one process of the pool: the loaded parts and the tree of paths."""

    current: _Worker

    def __init__(self, directory: Path, longest_skip: int) -> None:
        bundle = load(directory)
        wanted = variants(bundle.manifest.blocks, longest_skip)
        self.runner = PathRunner(bundle)
        self.root = tree([bundle.path(skipped, exit_name) for exit_name, skipped in wanted])
        self.counts = np.zeros(len(wanted), np.int64)

    @classmethod
    def start(cls, directory: Path, longest_skip: int) -> None:
        """Make this process ready; runs once in each process of the pool."""
        cls.current = cls(directory, longest_skip)

    @classmethod
    def work(
        cls, piece: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
    ) -> tuple[int, Counts]:
        """How many images the piece has, and right answers per variant."""
        worker = cls.current
        worker.counts[:] = 0
        for image, label in zip(*piece, strict=True):
            worker.descend(worker.root, [image[None]], int(label))
        return len(piece[1]), worker.counts.copy()

    def descend(self, node: Node, tensors: list[npt.NDArray[Any]], label: int) -> None:
        """Run everything below ``node``, whose output is ``tensors``, for one image."""
        if node.variant is not None:
            self.counts[node.variant] += int(np.argmax(tensors[0])) == label
        for child in node.children.values():
            self.descend(child, self.runner.part(child.part).run(tensors), label)
