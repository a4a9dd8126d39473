"""Accuracy of a network's variants during training, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from continuer.bundle import Variant, find_path
from models.accuracy import Node, tree
from models.images import Images, Labels
from models.train_step import Learner, prepare

#: Images that go through the network at once: few enough to hold all that branches off.
BATCH = 250
#: How many of the skips of two blocks and more are measured after an epoch.
SAMPLE = 6
#: Points of accuracy lost by a skip above which it gains no further weight.
WORST = 3.0

#: A way to run the network: the exit, if any, and the blocks left out.
Way = tuple[str | None, tuple[str, ...]]


def measure(
    learner: Learner, pixels: Images, labels: Labels, ways: Sequence[Way], *, half: bool
) -> tuple[Variant, ...]:
    """Count right answers of every variant; what variants share is computed once.

    ``half``: compute products in bfloat16, which is quicker and about as right.
    """
    network, correct = learner.network, np.zeros(len(ways), np.int64)
    root = tree([find_path(network.name, network.blocks, skipped, way) for way, skipped in ways])
    learner.ops.statistics = "frozen"
    with torch.inference_mode(), torch.autocast(learner.device, torch.bfloat16, enabled=half):
        for start in range(0, len(labels), BATCH):
            images = prepare(pixels[start : start + BATCH], learner.device)
            truth = torch.from_numpy(labels[start : start + BATCH]).to(learner.device)
            _descend(learner, root, images, truth, correct)
    return tuple(
        Variant(int(right), len(labels), way, skipped)
        for (way, skipped), right in zip(ways, correct, strict=True)
    )


def _descend(
    learner: Learner, node: Node, flow: Tensor, labels: Tensor, correct: np.ndarray
) -> None:
    if node.variant is not None:
        correct[node.variant] += int((flow.argmax(1) == labels).sum())
    for child in node.children.values():
        after = learner.network.parts[child.part](learner.ops, flow)
        _descend(learner, child, after, labels, correct)


def sample(ways: Sequence[Way], generator: np.random.Generator) -> list[Way]:
    """Full, exits and single skips of ``ways``, and a few of the longer skips."""
    kept = [way for way in ways if len(way[1]) <= 1]
    longer = [way for way in ways if len(way[1]) > 1]
    count = min(SAMPLE, len(longer))
    return kept + [longer[i] for i in sorted(generator.choice(len(longer), count, replace=False))]


def emphasis(variants: Sequence[Variant]) -> dict[str, float]:
    """How often each block should be skipped in training, by what skipping it costs.

    From 1 for a block whose absence costs nothing to 1 + ``WORST``, in percentage points.
    """
    full = next(v.accuracy for v in variants if v.exit is None and not v.skipped)
    return {
        v.skipped[0]: 1 + min(max(100 * (full - v.accuracy), 0.0), WORST)
        for v in variants
        if len(v.skipped) == 1
    }
