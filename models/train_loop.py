"""A training run from its first step, or its last checkpoint, to its figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from continuer.bundle import Variant
from continuer.errors import UsageError
from models.accuracy import variants
from models.ops_shape import initial_weights
from models.recipe import RECIPE, Recipe, load_recipe
from models.train_data import Batches, Data, split
from models.train_files import (
    CHECKPOINT,
    RESULT,
    WEIGHTS,
    History,
    State,
    load_state,
    save_arrays,
    save_json,
    save_state,
)
from models.train_measure import Way, emphasis, measure, sample
from models.train_schedule import Schedule, plan_step
from models.train_step import Learner, prepare
from models.weights import begin

#: Validation images looked at after each epoch.
GLANCE = 2000
#: Batches from which the statistics are set before they are frozen.
CALIBRATION = 80
#: Blocks in the longest skip that is measured.
LONGEST_SKIP = 3


@dataclass
class Report:
    """Whom a run tells how it gets on.

    ``step(epoch, step, steps)`` after each step, ``epoch(row)`` with each epoch's metrics,
    ``stop()`` is asked whether to stop; ``note(text)`` for what else is worth a line.
    """

    step: Callable[[int, int, int], None]
    epoch: Callable[[dict[str, Any]], None]
    stop: Callable[[], bool]
    note: Callable[[str], None]


class Run:
    """One run with its files in ``out``. Raises UsageError when they are another run's.

    ``initial``: a file of weights to begin with, instead of weights drawn from the seed.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Data,
        out: Path,
        device: str,
        report: Report,
        initial: Path | None = None,
    ) -> None:
        self.network = recipe.define()
        self.recipe = recipe
        self.schedule = Schedule(recipe.epochs, recipe.learning_rate, recipe.refine)
        self._out = out
        self._data = data
        self._report = report
        train, validation = split(len(data.train_labels), recipe.seed, recipe.fraction)
        self._batches = Batches(
            data.train[train], data.train_labels[train], recipe.seed, recipe.batch
        )
        self._glance = validation[:GLANCE]
        if not len(validation):
            raise UsageError(f"{len(data.train_labels)} training images; give at least 10")
        self._state = load_state(out) or self._begin(initial)
        half = recipe.precision == "bfloat16"
        self._learner = Learner(
            self.network, self._state.weights, self._state.momenta, device, half=half
        )
        self._history = History(out, self._parameters(), self._state.epoch)
        save_json(out / RECIPE, recipe.fields())

    def _begin(self, initial: Path | None) -> State:
        drawn = initial_weights(self.network, self.recipe.seed)
        return State(drawn if initial is None else begin(initial, drawn), {})

    def _parameters(self) -> dict[str, object]:
        """Table III of the paper, as far as it is the same for all epochs."""
        layers = {name.rpartition("/")[0] for name in self._state.weights}
        return {
            "activation": self.network.activation,
            "b_init": "zeros",
            "dnn_architecture": self.network.name,
            "epochs": self.recipe.epochs,
            "learning_rate": self.recipe.learning_rate,
            "num_layers": len(layers),
            "optimiser": "SGD, Nesterov momentum 0.9",
            "train_fraction": self.recipe.fraction,
            **{
                key: getattr(self.recipe, key)
                for key in ("seed", "batch", "width", "plain", "form", "refine", "initial")
            },
        }

    def go(self) -> tuple[Variant, ...] | None:
        """Train to the end, write the weights, and measure every variant on the test images.

        Returns None when stopped before the end; a checkpoint is then on disk.
        """
        while self._state.epoch < self.schedule.end:
            if not self._epoch():
                self._save()
                return None
        self._report.note(f"measuring on {len(self._data.test_labels)} test images")
        ways = self._ways()
        found = measure(self._learner, self._data.test, self._data.test_labels, ways, half=False)
        save_arrays(self._out / WEIGHTS, self._learner.arrays()[0])
        result = {"recipe": self.recipe.fields(), "test": msgspec.to_builtins(found)}
        save_json(self._out / RESULT, result)
        return found

    def _ways(self) -> list[Way]:
        return variants(self.network.blocks, LONGEST_SKIP)

    def _epoch(self) -> bool:
        """Train one epoch, or what is left of it; False when stopped within it."""
        state, steps = self._state, len(self._batches)
        for step, pixels, labels in self._batches.epoch(state.epoch, state.step):
            if self._report.stop():
                return False
            started = time.monotonic()
            self._step(step, pixels, labels)
            state.seconds += time.monotonic() - started
            state.step = step + 1
            self._report.step(state.epoch, state.step, steps)
        if state.epoch + 1 == self.schedule.frozen_from:
            self._calibrate()
        self._finish_epoch()
        return True

    def _step(self, step: int, pixels: Any, labels: Any) -> None:
        state, seed = self._state, self.recipe.seed
        now = state.epoch + step / len(self._batches)
        generator = np.random.default_rng([seed, 3, state.epoch, step])
        plan = plan_step(self.network, generator, state.skip_weights)
        device = self._learner.device
        loss, right = self._learner.learn(
            prepare(pixels, device),
            torch.from_numpy(labels).to(device),
            plan,
            self.schedule.rate(now),
            frozen=self.schedule.frozen(now),
        )
        figures = {"loss": loss, "steps": 1.0}
        if not plan.skipped:
            figures |= {"right": right, "full_steps": 1.0}
        for name, value in figures.items():
            state.sums[name] = state.sums.get(name, 0.0) + value

    def _calibrate(self) -> None:
        """On batches of the epoch after the last of ``epochs``, drawn as the others are."""
        epoch = self._batches.epoch(self.recipe.epochs)
        pixels = (batch for step, batch, _ in epoch if step < CALIBRATION)
        self._learner.calibrate(prepare(batch, self._learner.device) for batch in pixels)

    def _finish_epoch(self) -> None:
        state, started = self._state, time.monotonic()
        generator = np.random.default_rng([self.recipe.seed, 4, state.epoch])
        ways = sample(self._ways(), generator)
        pixels, labels = self._data.train[self._glance], self._data.train_labels[self._glance]
        found = measure(self._learner, pixels, labels, ways, half=self._learner.half)
        row = {
            "epoch": state.epoch + 1,
            "frozen": self.schedule.frozen(state.epoch),
            "learning_rate": self.schedule.rate(state.epoch),
            "train_loss": state.sums["loss"] / state.sums["steps"],
            "train_accuracy": state.sums.get("right", 0.0) / state.sums.get("full_steps", 1.0),
            "train_seconds": round(state.seconds, 1),
            "measure_seconds": round(time.monotonic() - started, 1),
            "validation": msgspec.to_builtins(found),
        }
        self._history.add(row, self._learner.arrays()[0])
        frozen_next = self.schedule.frozen(state.epoch + 1)
        self._state = State({}, {}, state.epoch + 1)
        self._state.skip_weights = (
            emphasis(found) if frozen_next and not self.recipe.plain else None
        )
        self._save()
        self._report.epoch(row)

    def _save(self) -> None:
        self._state.weights, self._state.momenta = self._learner.arrays()
        save_state(self._out, self._state)


def check_out(out: Path, recipe: Recipe, *, resume: bool) -> None:
    """Make the directory; raises UsageError when it holds another run, or must not go on."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / CHECKPOINT).exists():
        return
    if not resume:
        raise UsageError(f"{out}: holds a checkpoint; give --resume, or another --out")
    kept = load_recipe(out)
    if kept is None:
        raise UsageError(f"{out}: holds a checkpoint without {RECIPE}; give another --out")
    for name, value in recipe.fields().items():
        if name == "refine" and kept.refine <= recipe.refine:
            continue  # more refinement of a run that ended is a good reason to resume it
        if getattr(kept, name) != value:
            raise UsageError(
                f"{out}: was begun with {name} = {getattr(kept, name)!r}, not {value!r}; "
                "give the same options to go on, or another --out"
            )
