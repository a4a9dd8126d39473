"""Hot, from disk, or fetched: what nodes hold, and what that makes of the downtime."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from continuer.objectives import Objectives
from continuer.placement import Link
from coordinator.holdings import wanted_parts
from coordinator.planner import Setting, full_layout, make_step
from tests.unit.settings import (
    EVERYTHING,
    FIVE,
    MIB,
    PARTS,
    decided,
    found,
    full_metrics,
    holding,
    setting_of,
    with_node,
)


def held_by(standby: str, **node: object) -> dict[str, tuple[int, ...]]:
    setting = setting_of(node={"standby": standby, "loaded": frozenset(), **node})
    return wanted_parts(setting, FIVE, full_metrics(setting_of()))


def settled(standby: str) -> Setting:
    """Nodes that hold in memory what their standby asks for, and have everything on disk."""
    setting = setting_of(node={"standby": standby})
    return holding(setting, held_by(standby))


# --- what is held ---------------------------------------------------------------------------


def test_neighbours_hold_each_others_blocks() -> None:
    held = held_by("neighbours")
    for before, after in itertools.pairwise(FIVE):
        assert set(FIVE[before]) <= set(held[after])
        assert set(FIVE[after]) <= set(held[before])


def test_neighbours_hold_less_than_all_and_more_than_none() -> None:
    none, some, everything = (held_by(s) for s in ("none", "neighbours", "all"))
    for node in FIVE:
        assert set(none[node]) < set(some[node]) < set(everything[node])


def test_spares_are_held_as_far_as_the_memory_goes() -> None:
    own = sum(PARTS[part].memory_bytes for part in held_by("none")["n3"])
    budget = own + PARTS[FIVE["n2"][0]].memory_bytes + 1
    held = held_by("neighbours", memory_bytes=budget)["n3"]
    assert sum(PARTS[part].memory_bytes for part in held) <= budget
    assert len(held) > len(held_by("none")["n3"])


def test_a_spare_node_has_no_neighbours() -> None:
    setting = setting_of(6, node={"standby": "neighbours", "loaded": frozenset()})
    assert wanted_parts(setting, FIVE, full_metrics(setting_of()))["n6"] == ()


def test_what_nobody_can_give_is_not_asked_for() -> None:
    setting = setting_of(node={"standby": "all", "stored": frozenset(range(17))}, shelf=frozenset())
    held = wanted_parts(setting, FIVE, full_metrics(setting_of()))
    assert set(held["n1"]) <= set(range(17))


# --- downtime -------------------------------------------------------------------------------


def test_a_neighbours_blocks_are_taken_over_at_once() -> None:
    for node in FIVE:
        decision = decided(settled("neighbours"), node)
        first = decision.chosen[0]
        assert first.step.technique == "repartition"
        assert not first.missing
        assert first.step.accuracy == full_metrics(setting_of()).accuracy


def test_without_spares_the_bridge_is_degraded_and_the_blocks_come_from_disk() -> None:
    decision = decided(settled("none"), "n3")
    assert decision.chosen[0].step.technique != "repartition"
    assert decision.chosen[-1].step.technique == "repartition"
    assert decision.chosen[-1].missing


def test_downtime_grows_from_memory_to_disk_to_network() -> None:
    own = {name: frozenset(parts) for name, parts in FIVE.items()}
    hot = setting_of()
    disk = holding(setting_of(), FIVE)
    remote = disk
    for name, parts in own.items():
        remote = with_node(remote, name, stored=parts)
    times = [
        min(c.step.downtime_ms for c in found(setting, "n3") if c.step.technique == "repartition")
        for setting in (hot, disk, remote)
    ]
    assert times[0] < times[1] < times[2]


def test_fetching_takes_bytes_over_bandwidth() -> None:
    own = {name: frozenset(parts) for name, parts in FIVE.items()}
    setting = holding(setting_of(), FIVE)
    for name, parts in own.items():
        setting = with_node(setting, name, stored=parts)
    layout = {**FIVE, "n2": FIVE["n2"] + FIVE["n3"]}
    del layout["n3"]
    disk = make_step(holding(setting_of(), FIVE), layout, "repartition")
    remote = make_step(setting, layout, "repartition")
    assert disk is not None
    assert remote is not None
    nbytes = sum(PARTS[part].bytes for part in FIVE["n3"])
    predicted = nbytes / setting.timings.fetch_bytes_per_ms
    assert remote.step.downtime_ms - disk.step.downtime_ms == pytest.approx(predicted)


def test_learned_bandwidth_replaces_the_assumed_one() -> None:
    timings = setting_of().timings
    assert timings.fetch("n2", 1_000_000) == 50.0
    learned = timings.with_fetching("n2", 1_000_000, 100.0)
    assert learned.fetch("n2", 1_000_000) == pytest.approx(100.0)
    assert learned.fetch("n3", 1_000_000) == 50.0
    again = learned.with_fetching("n2", 1_000_000, 50.0)
    assert 50.0 < again.fetch("n2", 1_000_000) < 100.0
    assert timings.with_fetching("n2", 0, 5.0) == timings


def test_a_block_that_only_the_dead_node_had_is_nobodys() -> None:
    setting = holding(setting_of(shelf=frozenset()), FIVE)
    for name, parts in FIVE.items():
        setting = with_node(setting, name, stored=frozenset(parts))
    assert all(c.step.technique != "repartition" for c in found(setting, "n3"))


@pytest.mark.parametrize("holder", ["coordinator", "peer"])
def test_a_block_that_somebody_has_can_be_fetched(holder: str) -> None:
    setting = holding(
        setting_of(shelf=EVERYTHING if holder == "coordinator" else frozenset()), FIVE
    )
    for name, parts in FIVE.items():
        kept = EVERYTHING if (holder, name) == ("peer", "n5") else frozenset(parts)
        setting = with_node(setting, name, stored=kept)
    assert any(c.step.technique == "repartition" for c in found(setting, "n3"))


# --- what blocks are placed for -------------------------------------------------------------


def test_for_latency_as_few_nodes_are_used_as_the_rate_allows() -> None:
    setting = setting_of(objectives=Objectives(optimise="latency"))
    alone = full_layout(setting)
    assert alone is not None
    assert len(alone) == 1
    whole = make_step(setting, alone, "none")
    assert whole is not None
    fast = msgspec.structs.replace(setting, rate_per_s=1.2 * whole.step.capacity_per_s)
    spread = full_layout(fast)
    assert spread is not None
    step = make_step(fast, spread, "none")
    assert step is not None
    assert 1 < len(spread) < 5
    assert step.feasible


def test_for_throughput_every_node_works() -> None:
    spread = full_layout(setting_of(objectives=Objectives(optimise="throughput")))
    assert spread is not None
    assert len(spread) == 5


def test_memory_budgets_hold_for_either_aim() -> None:
    budget = sum(PARTS[part].memory_bytes for part in range(17)) / 3
    for optimise in ("latency", "throughput"):
        setting = setting_of(
            node={"memory_bytes": budget}, objectives=Objectives(optimise=optimise)
        )
        layout = full_layout(setting)
        assert layout is not None
        for parts in layout.values():
            assert sum(PARTS[part].memory_bytes for part in parts) <= budget


def test_a_slow_link_counts_in_latency_and_capacity() -> None:
    usual = make_step(setting_of(), FIVE, "none")
    slow = setting_of(links={("n2", "n3"): Link(hop_us=1300.0, us_per_byte=1.0)})
    slowed = make_step(slow, FIVE, "none")
    assert usual is not None
    assert slowed is not None
    nbytes = sum(tensor.nbytes for tensor in PARTS[FIVE["n3"][0]].inputs)
    more_ms = (1300.0 - slow.hop_us + nbytes) / 1e3
    assert slowed.step.latency_ms - usual.step.latency_ms == pytest.approx(more_ms)
    assert slowed.step.capacity_per_s == pytest.approx(1e6 / nbytes)
    assert MIB > nbytes > 1000
