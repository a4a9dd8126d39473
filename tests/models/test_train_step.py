"""What a step of training changes, and what it must leave alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from models.network import Network
from models.networks import define
from models.ops_shape import initial_weights
from models.train_schedule import Step
from tests.models.material import NO_TORCH, easy_images

torch = pytest.importorskip("torch", reason=NO_TORCH)

if TYPE_CHECKING:
    from models.train_step import Learner

RUNNING = ("/moving_mean", "/moving_variance")


@pytest.fixture
def network() -> Network:
    return define("mobilenetv2", 0.25)


@pytest.fixture
def learner(network: Network) -> Learner:
    from models.train_step import Learner

    return Learner(network, initial_weights(network, 1), {}, "cpu", half=False)


def batch(count: int) -> tuple[Any, Any]:
    from models.train_step import prepare

    pixels, labels = easy_images(count, 1)
    return prepare(pixels, "cpu"), torch.from_numpy(labels)


def changed(learner: Learner, step: Step, *, frozen: bool) -> set[str]:
    """Names of the arrays that one step of training changes."""
    before, _ = learner.arrays()
    learner.learn(*batch(20), step, 0.01, frozen=frozen)
    after, _ = learner.arrays()
    return {name for name in before if (before[name] != after[name]).any()}


def part_of(name: str) -> str:
    return name.partition("/")[0]


def test_a_full_step_trains_the_chain_and_the_exits_asked_for(learner: Learner) -> None:
    names = changed(learner, Step((), ("exit05",)), frozen=False)
    chain = {block.part for block in learner.network.blocks}
    assert {part_of(name) for name in names} == {*chain, "exit05"}
    assert any(name.endswith(RUNNING) for name in names)


def test_a_skipping_step_spares_the_block_and_the_running_statistics(learner: Learner) -> None:
    """But trains the bypass, whose statistics come from nowhere else."""
    names = changed(learner, Step(("block07", "block08"), ()), frozen=False)
    parts = {part_of(name) for name in names}
    assert "bypass07" in parts
    assert not {"block07", "block08"} & parts
    followed = {part_of(name) for name in names if name.endswith(RUNNING)}
    assert followed == {"bypass07"}


@pytest.mark.parametrize("skipped", [(), ("block04",)])
def test_a_frozen_step_trains_weights_but_no_statistics(
    learner: Learner, skipped: tuple[str, ...]
) -> None:
    names = changed(learner, Step(skipped, ("exit05",)), frozen=True)
    assert "head/dense/kernel" in names
    assert not any(name.endswith(RUNNING) for name in names)


def test_calibration_gives_the_statistics_of_the_batches(learner: Learner) -> None:
    """After one batch, frozen normalisation of that batch is that by the batch itself."""
    images, _ = batch(200)
    untouched = logits(learner, images, "frozen")
    learner.calibrate([images])
    frozen, own = logits(learner, images, "frozen"), logits(learner, images, "batch")
    # The running variance is that of a sample, larger by one part in the count of values;
    # fifty normalisations in a row let that grow.
    for name, exact in own.items():
        assert np.abs(exact - frozen[name]).max() < 0.1 * exact.std(), name
        assert np.abs(exact - untouched[name]).max() > exact.std(), name


def logits(learner: Learner, images: Any, mode: Any) -> dict[str, Any]:
    """Of the head and every exit, with statistics by ``mode``."""
    network = learner.network
    learner.ops.statistics = mode
    with torch.no_grad():
        final, exits = network.run(learner.ops, images, exits=network.exits)
    return {name: tensor.numpy() for name, tensor in {**exits, "head": final}.items()}


def test_calibration_averages_over_batches_and_covers_bypasses(learner: Learner) -> None:
    one, _ = batch(40)
    two = one + 1.0
    learner.calibrate([one])
    first = {name: learner.weights[name].clone() for name in means()}
    learner.calibrate([two])
    second = {name: learner.weights[name].clone() for name in means()}
    learner.calibrate([one, two])
    for name in means():
        assert (first[name] != second[name]).any(), name
    both = learner.weights["stem/bn/moving_mean"]
    middle = (first["stem/bn/moving_mean"] + second["stem/bn/moving_mean"]) / 2
    assert torch.allclose(both, middle, atol=1e-5)


def means() -> list[str]:
    return [f"{name}/bn/moving_mean" for name in ("stem", "bypass02", "exit05", "head")]


def test_repeated_steps_learn(learner: Learner) -> None:
    images, labels = batch(40)
    losses = [
        learner.learn(images, labels, Step((), learner.network.exits), 0.05, frozen=False)[0]
        for _ in range(25)
    ]
    assert losses[-1] < 0.6 * losses[0]


def test_a_diverged_loss_is_an_error_that_says_what_to_change(learner: Learner) -> None:
    from continuer.errors import ContinuerError

    images, labels = batch(20)
    with pytest.raises(ContinuerError, match="lower --learning-rate"):
        learner.learn(images * float("nan"), labels, Step((), ()), 0.1, frozen=False)
