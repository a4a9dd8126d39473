"""Contiguous placement of blocks on nodes by dynamic programming. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    count = len(blocks)
    # best[j] = (slowest stage, total) of the first j blocks on the nodes seen so far;
    # cuts[i][j] = where node i's run starts in that solution.
    best: list[tuple[float, float]] = [(0.0, 0.0)] + [(INFINITE, INFINITE)] * count
    cuts: list[list[int]] = []
    for index, node in enumerate(nodes):
        costs = [cost_us[node][block] for block in blocks]
        sizes = [block_bytes[block] for block in blocks]
        remaining = len(nodes) - index - 1
        following = [(INFINITE, INFINITE)] * (count + 1)
        starts = [-1] * (count + 1)
        for end in range(index + 1, count - remaining + 1):
            stage, memory = 0.0, 0
            for start in range(end - 1, index - 1, -1):
                stage += costs[start]
                memory += sizes[start]
                if memory > budget_bytes[node]:
                    break
                before = best[start]
                found = (max(before[0], stage), before[1] + stage)
                if found < following[end]:
                    following[end] = found
                    starts[end] = start
        best = following
        cuts.append(starts)
    if best[count][0] == INFINITE:
        return None
    placement: dict[str, tuple[int, ...]] = {}
    end = count
    for index in range(len(nodes) - 1, -1, -1):
        start = cuts[index][end]
        placement[nodes[index]] = tuple(blocks[start:end])
        end = start
    return {node: placement[node] for node in nodes}
