"""Placement of blocks on nodes, against every placement there is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from continuer.placement import place

INFINITE = float("inf")


class Case:
    """Blocks and nodes with what each costs, in whole numbers so that sums are exact."""

    def __init__(
        self,
        costs: list[list[int]],
        sizes: list[int] | None = None,
        budgets: list[float] | None = None,
    ) -> None:
        self.blocks = list(range(100, 100 + len(costs[0])))  # ids are no indices
        self.nodes = [f"n{i}" for i in range(len(costs))]
        self.cost_us = {
            node: {block: float(c) for block, c in zip(self.blocks, own, strict=True)}
            for node, own in zip(self.nodes, costs, strict=True)
        }
        self.bytes = dict(zip(self.blocks, sizes or [1] * len(self.blocks), strict=True))
        self.budgets = dict(zip(self.nodes, budgets or [INFINITE] * len(self.nodes), strict=True))

    def placed(self) -> dict[str, tuple[int, ...]] | None:
        return place(self.blocks, self.nodes, self.cost_us, self.bytes, self.budgets)

    def value(self, placement: dict[str, tuple[int, ...]]) -> tuple[float, float]:
        """The slowest stage, and all stages together."""
        stages = [
            sum(self.cost_us[node][block] for block in run) for node, run in placement.items()
        ]
        return max(stages), sum(stages)

    def fits(self, placement: dict[str, tuple[int, ...]]) -> bool:
        return all(
            sum(self.bytes[block] for block in run) <= self.budgets[node]
            for node, run in placement.items()
        )

    def all_placements(self) -> Iterator[dict[str, tuple[int, ...]]]:
        """Every way to cut the blocks into one run a node, in order."""
        used = self.nodes[: len(self.blocks)]
        for cuts in itertools.combinations(range(1, len(self.blocks)), len(used) - 1):
            ends = [0, *cuts, len(self.blocks)]
            yield {
                node: tuple(self.blocks[a:b])
                for node, (a, b) in zip(used, itertools.pairwise(ends), strict=True)
            }


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Up to 7 blocks on up to 5 nodes, costs by node and block, often too little memory."""
    blocks, nodes = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    costs = st.lists(st.integers(1, 9), min_size=blocks, max_size=blocks)
    return Case(
        draw(st.lists(costs, min_size=nodes, max_size=nodes)),
        draw(st.lists(st.integers(1, 5), min_size=blocks, max_size=blocks)),
        draw(
            st.lists(
                st.integers(3, 12).map(float) | st.just(INFINITE), min_size=nodes, max_size=nodes
            )
        ),
    )


@settings(deadline=None, max_examples=400)
@given(cases())
def test_no_placement_is_better_than_the_one_found(case: Case) -> None:
    possible = [p for p in case.all_placements() if case.fits(p)]
    found = case.placed()
    if not possible:
        assert found is None
        return
    assert found in possible
    assert case.value(found) == min(case.value(p) for p in possible)


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
    assert Case([[1], [1]], sizes=[5], budgets=[4.0, INFINITE]).placed() is None


def test_a_budget_that_is_just_enough_is_enough() -> None:
    assert Case([[1] * 4, [1] * 4], budgets=[2.0, 2.0]).placed() is not None


def test_more_nodes_than_blocks_leave_the_last_ones_without() -> None:
    assert Case([[1, 1]] * 4).placed() == {"n0": (100,), "n1": (101,)}


def test_without_nodes_nothing_is_placed() -> None:
    assert place([1, 2], [], {}, {1: 1, 2: 1}, {}) is None


def test_the_order_of_nodes_is_kept() -> None:
    placed = Case([[9] * 5, [1] * 5, [5] * 5]).placed()
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
