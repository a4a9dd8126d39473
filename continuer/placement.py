"""Contiguous placement of blocks on nodes by dynamic programming. Pure functions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

INFINITE = float("inf")


def place(
    blocks: Sequence[int],
    nodes: Sequence[str],
    cost_us: Mapping[str, Mapping[int, float]],
    block_bytes: Mapping[int, int],
    budget_bytes: Mapping[str, float],
) -> dict[str, tuple[int, ...]] | None:
    """Give every node a contiguous run of blocks so that the slowest stage is fastest.

    ``cost_us[node][block]`` is the block's latency on that node. Nodes keep their order;
    each gets at least one block, unless there are more nodes than blocks, then the last
    ones get none. Among equals the smaller total latency wins. Returns None where no
    placement fits the memory budgets.
    """
    nodes = nodes[: len(blocks)]
    if not nodes:
        return None
    costs = [[cost_us[node][block] for block in blocks] for node in nodes]
    sizes = [block_bytes[block] for block in blocks]
    budgets = [budget_bytes[node] for node in nodes]
    # Two passes: a prefix that is slower but cheaper may be part of the better placement
    # once a later stage is the slowest anyhow, so both aims cannot be pursued in one.
    slowest, _ = _cut(costs, sizes, budgets, INFINITE, max)
    if slowest == INFINITE:
        return None
    _, starts = _cut(costs, sizes, budgets, slowest, operator.add)
    ends = [*starts[1:], len(blocks)]
    return {
        node: tuple(blocks[start:end]) for node, start, end in zip(nodes, starts, ends, strict=True)
    }


def _cut(
    costs: Sequence[Sequence[float]],
    sizes: Sequence[int],
    budgets: Sequence[float],
    limit: float,
    combine: Callable[[float, float], float],
) -> tuple[float, list[int]]:
    """The least value of all stages' costs combined, and where each node's run starts.

    ``costs[node][block]``; no stage may cost more than ``limit`` nor exceed its node's
    budget. The value is infinite, and the starts mean nothing, where that is impossible.
    """
    count = len(sizes)
    # best[j] = least value of the first j blocks on the nodes seen so far;
    # cuts[i][j] = where node i's run starts in that solution.
    best = [0.0] + [INFINITE] * count
    cuts: list[list[int]] = []
    for index, (own, budget) in enumerate(zip(costs, budgets, strict=True)):
        remaining = len(costs) - index - 1
        following = [INFINITE] * (count + 1)
        starts = [-1] * (count + 1)
        for end in range(index + 1, count - remaining + 1):
            stage, memory = 0.0, 0
            for start in range(end - 1, index - 1, -1):
                stage += own[start]
                memory += sizes[start]
                if stage > limit or memory > budget:
                    break
                found = combine(best[start], stage)
                if found < following[end]:
                    following[end] = found
                    starts[end] = start
        best = following
        cuts.append(starts)
    chosen: list[int] = []
    end = count
    for starts in reversed(cuts):
        end = starts[end]
        chosen.append(end)
    return best[count], chosen[::-1]
