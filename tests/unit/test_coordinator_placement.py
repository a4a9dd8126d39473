"""Placement of blocks on nodes, against every placement there is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from continuer.placement import WORTH_LEAVING_OUT, Link, Optimise, place

INFINITE = float("inf")

Placement = dict[str, tuple[int, ...]]


class Case:
    """Blocks, nodes and links with what each costs, in whole numbers so that sums are exact.

    A block's cost is infinite on a node that cannot run it.
    """

    def __init__(
        self,
        costs: Sequence[Sequence[float]],
        sizes: list[int] | None = None,
        budgets: list[float] | None = None,
        *,
        hop_us: float = 0.0,
        links: dict[tuple[str, str], Link] | None = None,
        inputs: list[int] | None = None,
    ) -> None:
        self.blocks = list(range(100, 100 + len(costs[0])))  # ids are no indices
        self.nodes = [f"n{i}" for i in range(len(costs))]
        self.cost_us = {
            node: {block: float(c) for block, c in zip(self.blocks, own, strict=True)}
            for node, own in zip(self.nodes, costs, strict=True)
        }
        self.bytes = dict(zip(self.blocks, sizes or [1] * len(self.blocks), strict=True))
        self.budgets = dict(zip(self.nodes, budgets or [INFINITE] * len(self.nodes), strict=True))
        self.hop_us = hop_us
        self.links = links or {}
        self.inputs = dict(zip(self.blocks, inputs or [1] * len(self.blocks), strict=True))

    def placed(
        self, optimise: Optimise = "throughput", slowest_us: float = INFINITE
    ) -> dict[str, tuple[int, ...]] | None:
        return place(
            self.blocks,
            self.nodes,
            self.cost_us,
            self.bytes,
            self.budgets,
            optimise=optimise,
            links=self.links,
            hop_us=self.hop_us,
            input_bytes=self.inputs,
            slowest_us=slowest_us,
        )

    def stages(self, placement: Placement) -> list[float]:
        return [sum(self.cost_us[node][block] for block in run) for node, run in placement.items()]

    def hops(self, placement: Placement) -> list[tuple[float, float]]:
        """Of every hop between stages: its delay, and how long the link is used."""
        found = []
        for (a, _), (b, run) in itertools.pairwise(placement.items()):
            link = self.links.get((a, b), Link(self.hop_us))
            used = link.us_per_byte * self.inputs[run[0]]
            found.append((link.hop_us + used, used))
        return found

    def value(self, placement: Placement) -> tuple[float, float]:
        """The slowest stage or link, and all stages and hops together."""
        stages, hops = self.stages(placement), self.hops(placement)
        slowest = max([*stages, *(used for _, used in hops)])
        return slowest, sum(stages) + sum(delay for delay, _ in hops)

    def fits(self, placement: Placement) -> bool:
        return INFINITE not in self.stages(placement) and all(
            sum(self.bytes[block] for block in run) <= self.budgets[node]
            for node, run in placement.items()
        )

    def all_placements(self) -> Iterator[Placement]:
        """Every way to cut the blocks into one run for each of some nodes, in order."""
        for count in range(1, min(len(self.nodes), len(self.blocks)) + 1):
            for used in itertools.combinations(self.nodes, count):
                for cuts in itertools.combinations(range(1, len(self.blocks)), count - 1):
                    ends = [0, *cuts, len(self.blocks)]
                    yield {
                        node: tuple(self.blocks[a:b])
                        for node, (a, b) in zip(used, itertools.pairwise(ends), strict=True)
                    }

    def uses_every_node(self, placement: Placement) -> bool:
        """Every node, or the first ones where there are more nodes than blocks."""
        return list(placement) == self.nodes[: len(self.blocks)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Up to 6 blocks on up to 4 nodes, costs by node, block and link, often too little memory."""
    blocks, nodes = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    cost = st.sampled_from([*map(float, range(1, 10)), INFINITE])
    costs = st.lists(cost, min_size=blocks, max_size=blocks)
    pairs = st.tuples(*[st.sampled_from([f"n{i}" for i in range(nodes)])] * 2)
    link = st.builds(Link, st.integers(0, 9).map(float), st.integers(0, 3).map(float))
    return Case(
        draw(st.lists(costs, min_size=nodes, max_size=nodes)),
        draw(st.lists(st.integers(1, 5), min_size=blocks, max_size=blocks)),
        draw(
            st.lists(
                st.integers(3, 12).map(float) | st.just(INFINITE), min_size=nodes, max_size=nodes
            )
        ),
        hop_us=draw(st.integers(0, 9)),
        links=draw(st.dictionaries(pairs, link, max_size=6)),
        inputs=draw(st.lists(st.integers(0, 5), min_size=blocks, max_size=blocks)),
    )


@settings(deadline=None, max_examples=300)
@given(cases())
def test_no_placement_has_a_faster_slowest_stage_than_the_one_found(case: Case) -> None:
    possible = [p for p in case.all_placements() if case.fits(p)]
    found = case.placed("throughput")
    if not possible:
        assert found is None
        return
    assert found in possible
    everyone = [p for p in possible if case.uses_every_node(p)]
    with_all = min((case.value(p) for p in everyone), default=(INFINITE, INFINITE))
    with_some = min(case.value(p) for p in possible)
    if with_some[0] < WORTH_LEAVING_OUT * with_all[0]:
        assert case.value(found) == with_some
    else:
        assert case.uses_every_node(found)
        assert case.value(found) == with_all


@settings(deadline=None, max_examples=300)
@given(cases(), st.integers(1, 30).map(float) | st.just(INFINITE))
def test_no_placement_has_a_smaller_latency_than_the_one_found(
    case: Case, slowest_us: float
) -> None:
    possible = [p for p in case.all_placements() if case.fits(p)]
    quick_enough = [p for p in possible if max(case.stages(p)) <= slowest_us]
    found = case.placed("latency", slowest_us)
    if quick_enough:
        assert found in quick_enough
        assert case.value(found)[1] == min(case.value(p)[1] for p in quick_enough)
    else:
        assert found == case.placed("throughput")


def test_for_latency_a_node_that_only_adds_a_hop_gets_nothing() -> None:
    equal = Case([[10] * 6] * 3, hop_us=5)
    assert equal.placed("latency") == {"n0": tuple(equal.blocks)}
    faster_later = Case([[10] * 6, [1] * 6], hop_us=5)
    assert faster_later.placed("latency") == {"n1": tuple(faster_later.blocks)}


def test_for_latency_no_stage_is_slower_than_the_rate_allows() -> None:
    placed = Case([[10] * 6] * 3, hop_us=5).placed("latency", slowest_us=30)
    assert placed is not None
    assert sorted(len(run) for run in placed.values()) == [3, 3]


def test_a_cut_avoids_what_is_slow_to_send() -> None:
    # Equal blocks on two nodes; the tensor before the third block is ten times as large.
    slow = {("n0", "n1"): Link(us_per_byte=10)}
    placed = Case([[10] * 4] * 2, links=slow, inputs=[1, 1, 10, 1]).placed()
    assert placed is not None
    assert 102 not in {run[0] for run in placed.values()}


def test_a_slow_link_is_gone_around() -> None:
    slow = {("n0", "n1"): Link(hop_us=500)}
    placed = Case([[1, 90, 90], [90, 1, 90], [90, 2, 1]], links=slow).placed("latency")
    assert placed == {"n0": (100,), "n2": (101, 102)}


def test_uniform_blocks_are_spread_evenly() -> None:
    placed = Case([[10] * 6] * 3).placed()
    assert placed == {"n0": (100, 101), "n1": (102, 103), "n2": (104, 105)}


def test_a_node_twice_as_fast_gets_twice_as_much() -> None:
    placed = Case([[10] * 6, [20] * 6]).placed()
    assert placed is not None
    assert [len(run) for run in placed.values()] == [4, 2]


def test_among_equally_slow_placements_the_smaller_total_wins() -> None:
    # Cut after the first block: stages of 1 and 6; after the second: 6 and 5.
    assert Case([[1, 5, 9], [9, 1, 5]]).placed() == {"n0": (100,), "n1": (101, 102)}


def test_a_slower_start_is_taken_where_a_later_stage_is_the_slowest_anyhow() -> None:
    # The first three blocks: stages of 5 and 5, or of 6 and 1. The last stage is one of 9.
    case = Case([[5, 1, 9, 9], [9, 4, 1, 9], [9, 9, 9, 9]])
    assert case.placed() == {"n0": (100, 101), "n1": (102,), "n2": (103,)}


def test_memory_goes_before_speed() -> None:
    placed = Case([[1] * 4, [50] * 4], budgets=[1.0, INFINITE]).placed()
    assert placed == {"n0": (100,), "n1": (101, 102, 103)}


def test_what_does_not_fit_is_not_placed() -> None:
    assert Case([[1] * 4, [1] * 4], budgets=[1.0, 2.0]).placed() is None
    assert Case([[1], [1]], sizes=[5], budgets=[4.0, 3.0]).placed() is None


def test_a_node_too_small_for_any_block_is_left_out() -> None:
    placed = Case([[1] * 3] * 2, sizes=[5, 5, 5], budgets=[4.0, INFINITE]).placed()
    assert placed == {"n1": (100, 101, 102)}


def test_a_node_that_would_slow_everything_down_is_left_out() -> None:
    placed = Case([[2] * 4, [50] * 4, [2] * 4]).placed()
    assert placed == {"n0": (100, 101), "n2": (102, 103)}


def test_a_budget_that_is_just_enough_is_enough() -> None:
    assert Case([[1] * 4, [1] * 4], budgets=[2.0, 2.0]).placed() is not None


def test_more_nodes_than_blocks_leave_the_last_ones_without() -> None:
    assert Case([[1, 1]] * 4).placed() == {"n0": (100,), "n1": (101,)}


def test_without_nodes_nothing_is_placed() -> None:
    assert place([1, 2], [], {}, {1: 1, 2: 1}, {}) is None


def test_the_order_of_nodes_is_kept() -> None:
    placed = Case([[4] * 5, [2] * 5, [3] * 5]).placed()
    assert placed is not None
    assert list(placed) == ["n0", "n1", "n2"]
    assert [block for run in placed.values() for block in run] == [100, 101, 102, 103, 104]


def test_fifty_blocks_on_fourteen_nodes() -> None:
    case = Case([[(7 * n + 3 * b) % 11 + 1 for b in range(50)] for n in range(14)])
    placed = case.placed()
    assert placed is not None
    assert [block for run in placed.values() for block in run] == case.blocks
    assert all(placed[node] for node in case.nodes)
    # All placements are too many to try: shift each boundary by a block instead.
    slowest, _ = case.value(placed)
    runs = list(placed.values())
    for index in range(13):
        for shift in (-1, 1):
            cut = sum(len(run) for run in runs[: index + 1]) + shift
            start = sum(len(run) for run in runs[:index])
            end = sum(len(run) for run in runs[: index + 2])
            if start < cut < end:
                moved = dict(placed)
                moved[case.nodes[index]] = tuple(case.blocks[start:cut])
                moved[case.nodes[index + 1]] = tuple(case.blocks[cut:end])
                assert case.value(moved)[0] >= slowest
