"""What a training step leaves out, and the course of the learning rate."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from models.networks import NAMES, define
from models.train_schedule import (
    EXITS_PER_STEP,
    LONGEST_RUN,
    SKIP_CHANCE,
    Schedule,
    draw_run,
    plan_step,
)

DRAWS = 20_000
#: A count further from its mean than so many standard deviations has a fault: chance alone
#: gets there once in half a million.
DEVIATIONS = 5


def deviation(count: int, chance: float) -> float:
    return abs(count - DRAWS * chance) / math.sqrt(DRAWS * chance * (1 - chance))


@pytest.mark.parametrize("name", [name for name in NAMES if define(name).skippable])
def test_every_block_is_skipped_equally_often(name: str) -> None:
    blocks = define(name).skippable
    generator = np.random.default_rng(1)
    runs = [draw_run(blocks, generator) for _ in range(DRAWS)]
    counts = Counter(block for run in runs for block in run)
    # A run of L has len(blocks) + L - 1 places, and L of them cover a given block.
    lengths = range(1, LONGEST_RUN + 1)
    chance = sum(n / (len(blocks) + n - 1) for n in lengths) / LONGEST_RUN
    assert all(deviation(counts[block], chance) < DEVIATIONS for block in blocks)
    assert {len(run) for run in runs} == set(lengths)
    for run in runs:
        start = blocks.index(run[0])
        assert run == blocks[start : start + len(run)]


def test_emphasis_skips_a_block_more_often() -> None:
    blocks = define("resnet32").skippable
    generator = np.random.default_rng(2)
    weights = {block: 4.0 if block == "block11" else 1.0 for block in blocks}
    runs = [draw_run(blocks, generator, weights) for _ in range(DRAWS)]
    alone = Counter(run[0] for run in runs if len(run) == 1)
    # Runs of one start beyond no end: 4 of 18 shares are block 11's. Cut-off runs add to the
    # first and the last only.
    singles = sum(alone[block] for block in blocks[1:-1])
    share = alone["block11"] / singles
    assert abs(share - 4 / 16) < DEVIATIONS * math.sqrt(0.25 * 0.75 / singles)


@pytest.mark.parametrize("name", NAMES)
def test_every_exit_is_trained_equally_often(name: str) -> None:
    """Of the steps that skip nothing; an exit behind a skipped block is left out."""
    network = define(name)
    skip_chance = SKIP_CHANCE if network.skippable else 0.0
    generator = np.random.default_rng(3)
    steps = [plan_step(network, generator) for _ in range(DRAWS)]
    full = [step for step in steps if not step.skipped]
    spread = math.sqrt(DRAWS * skip_chance * (1 - skip_chance))
    assert abs(len(full) - DRAWS * (1 - skip_chance)) <= DEVIATIONS * spread
    counts = Counter(exit_ for step in full for exit_ in step.exits)
    chance = min(1.0, EXITS_PER_STEP / len(network.exits))
    spread = math.sqrt(len(full) * chance * (1 - chance))
    for exit_ in network.exits:
        assert abs(counts[exit_] - len(full) * chance) <= DEVIATIONS * spread
    for step in steps:
        assert not {exit_.replace("exit", "block") for exit_ in step.exits} & set(step.skipped)


def test_a_plain_network_skips_nothing_and_has_no_exits() -> None:
    network = define("resnet32").plain()
    generator = np.random.default_rng(4)
    steps = {plan_step(network, generator) for _ in range(50)}
    assert [(step.skipped, step.exits) for step in steps] == [((), ())]


def test_rate_rises_falls_and_ends_frozen_at_nothing() -> None:
    schedule = Schedule(24, 0.15)
    assert schedule.frozen_from == 20
    times = np.arange(0, 24, 1 / 8)
    rates = [schedule.rate(time) for time in times]
    highest = int(np.argmax(rates))
    assert rates[highest] == pytest.approx(0.15, rel=0.01)
    assert 2 <= times[highest] <= 3
    falling = rates[highest : 8 * schedule.frozen_from]
    assert falling == sorted(falling, reverse=True)
    assert not schedule.frozen(19.99)
    assert schedule.frozen(20)
    # A rate of 0.06 wrecks the network once the statistics are frozen.
    assert max(rates[8 * 20 :]) == pytest.approx(0.005)
    assert schedule.rate(24) == 0


def test_refinement_is_a_second_frozen_phase_and_changes_nothing_before_it() -> None:
    plain, refined = Schedule(24, 0.15), Schedule(24, 0.15, refine=8)
    assert refined.end == 32
    times = [step / 10 for step in range(240)]
    assert [plain.rate(time) for time in times] == [refined.rate(time) for time in times]
    rates = [refined.rate(24 + step / 10) for step in range(80)]
    assert refined.frozen(24)
    assert rates[0] == refined.rate(refined.frozen_from)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < rates[0] / 50


def test_a_single_epoch_has_no_frozen_phase() -> None:
    schedule = Schedule(1, 0.1)
    assert not schedule.frozen(0.999)
    assert schedule.rate(0.999) > 0
