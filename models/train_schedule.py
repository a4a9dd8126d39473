"""What happens when in a training run: rates, phases, and what each step leaves out.

Free of PyTorch and of state: everything follows from the recipe, the epoch and the step,
so an interrupted run goes on exactly where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.network import Network

#: Share of the normal phase in which the rate rises.
WARM_UP = 0.12
#: Where the rate starts and ends in the normal phase, in parts of its highest.
FIRST, LAST = 0.1, 0.01
#: Rate at the start of the frozen phase, in parts of the highest. With the statistics
#: frozen, a rate of 0.06 wrecks the network within an epoch; 0.005 does not.
FROZEN = 1 / 30
#: One epoch in so many is trained with frozen statistics, at the end.
EPOCHS_PER_FROZEN = 6

#: Chance that a step skips a run of blocks, and the longest run.
SKIP_CHANCE = 0.5
LONGEST_RUN = 4
#: How many of the exits a step trains; each is chosen equally often.
EXITS_PER_STEP = 6


@dataclass(frozen=True)
class Schedule:
    """Learning rate and phase; times are in epochs from 0, with fractions.

    ``refine``: epochs after the first ``epochs``, a second frozen phase.
    """

    epochs: int
    learning_rate: float
    refine: int = 0

    @property
    def end(self) -> int:
        """How many epochs there are in all."""
        return self.epochs + self.refine

    @property
    def frozen_from(self) -> int:
        """First epoch with frozen statistics; ``epochs`` when there is none."""
        return self.epochs - (
            max(1, round(self.epochs / EPOCHS_PER_FROZEN)) if self.epochs > 1 else 0
        )

    def frozen(self, time: float) -> bool:
        """Whether normalisation uses the running statistics, unchanged, in training too."""
        return time >= self.frozen_from

    def rate(self, time: float) -> float:
        """Up in a line, down in half a cosine; then, each time frozen, down to 0 in a line."""
        if self.frozen(time):
            refining = self.refine > 0 and time >= self.epochs
            start, end = (self.epochs, self.end) if refining else (self.frozen_from, self.epochs)
            return self.learning_rate * FROZEN * (end - time) / (end - start)
        share = time / self.frozen_from
        if share < WARM_UP:
            return self.learning_rate * (FIRST + (1 - FIRST) * share / WARM_UP)
        fall = 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
        return self.learning_rate * (LAST + (1 - LAST) * fall)


@dataclass(frozen=True)
class Step:
    """What one step does: blocks skipped, exits trained."""

    skipped: tuple[str, ...]
    exits: tuple[str, ...]


def plan_step(
    network: Network, generator: np.random.Generator, weights: Mapping[str, float] | None = None
) -> Step:
    """Draw a step. ``weights``: how much more often a block is to be skipped than others."""
    skipped: tuple[str, ...] = ()
    if network.skippable and generator.random() < SKIP_CHANCE:
        skipped = draw_run(network.skippable, generator, weights)
    exits = [b.exit for b in network.blocks if b.exit is not None and b.part not in skipped]
    count = min(EXITS_PER_STEP, len(exits))
    chosen = set(generator.choice(len(exits), count, replace=False).tolist()) if count else set()
    return Step(skipped, tuple(exit_ for i, exit_ in enumerate(exits) if i in chosen))


def draw_run(
    blocks: Sequence[str],
    generator: np.random.Generator,
    weights: Mapping[str, float] | None = None,
) -> tuple[str, ...]:
    """A run of 1 to ``LONGEST_RUN`` neighbours, each block equally often without weights.

    A run may reach beyond either end, where it is cut off: were it kept inside, the blocks
    at the ends would be skipped far less often than the others. With weights, the chance
    of a run is that times the mean weight of its blocks.
    """
    length = int(generator.integers(1, min(LONGEST_RUN, len(blocks)) + 1))
    runs = [
        tuple(blocks[max(0, start) : start + length]) for start in range(1 - length, len(blocks))
    ]
    chances = np.ones(len(runs))
    if weights is not None:
        chances = np.array([np.mean([weights[block] for block in run]) for run in runs])
    return runs[int(generator.choice(len(runs), p=chances / chances.sum()))]
