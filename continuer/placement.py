"""Contiguous placement of blocks on nodes by dynamic programming. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

INFINITE = float("inf")
# A node that would slow everything down is left without blocks where that makes the slowest
# stage at least this much faster: for less, every node is used.
WORTH_LEAVING_OUT = 0.9

Optimise = Literal["latency", "throughput"]
Floats = npt.NDArray[np.float64]
Combine = Callable[..., Any]


class Link(msgspec.Struct, frozen=True):
    """What a hop over one link costs: always ``hop_us``, and ``us_per_byte`` of what it carries."""

    hop_us: float = 0.0
    us_per_byte: float = 0.0


Links = Mapping[tuple[str, str], Link]


def place(
    blocks: Sequence[int],
    nodes: Sequence[str],
    cost_us: Mapping[str, Mapping[int, float]],
    block_bytes: Mapping[int, int],
    budget_bytes: Mapping[str, float],
    *,
    optimise: Optimise = "throughput",
    links: Links | None = None,
    hop_us: float = 0.0,
    input_bytes: Mapping[int, int] | None = None,
    slowest_us: float = INFINITE,
) -> dict[str, tuple[int, ...]] | None:
    """Give nodes contiguous runs of blocks; nodes keep their order.

    ``cost_us[node][block]`` is the block's latency on that node, infinite where it cannot run
    there. A hop costs what ``links`` says of that pair, ``hop_us`` where it says nothing;
    ``input_bytes[block]`` cross it before that block.

    ``throughput``: the slowest stage, or link, is as fast as it can be; among equals the
    smaller total latency wins. Every node gets a block (the first ones, where there are more
    nodes than blocks), but for those that would make the slowest stage much slower.
    ``latency``: all stages and hops together take the least time, with no stage above
    ``slowest_us``; nodes that only add a hop get nothing. Where that bound cannot be kept, as
    for throughput.

    Returns None where no placement fits the memory budgets.
    """
    if not nodes or not blocks:
        return None
    stage = _stages(blocks, nodes, cost_us, block_bytes, budget_bytes)
    delay, transfer = _hops(blocks, nodes, links or {}, hop_us, input_bytes or {})
    runs: list[tuple[int, int, int]] | None = None
    if optimise == "latency":
        total, runs = _search(_bounded(stage, slowest_us), delay, np.add, every=False)
        runs = runs if total < INFINITE else None
    if runs is None:
        runs = _fastest_slowest(stage, delay, transfer)
    if runs is None:
        return None
    return {nodes[node]: tuple(blocks[start:end]) for node, start, end in runs}


def _fastest_slowest(
    stage: Floats, delay: Floats, transfer: Floats
) -> list[tuple[int, int, int]] | None:
    """The placement for throughput.

    Two passes: a prefix that is slower but cheaper may be part of the better placement once a
    later stage is the slowest anyhow, so both aims cannot be pursued in one.
    """
    first = min(stage.shape[0], stage.shape[1] - 1)
    some, _ = _search(stage, transfer, np.maximum, every=False)
    slowest, _ = _search(stage[:first], transfer[:first, :first], np.maximum, every=True)
    every = slowest < INFINITE and some >= WORTH_LEAVING_OUT * slowest
    if every:
        stage, delay, transfer = stage[:first], delay[:first, :first], transfer[:first, :first]
    limit = slowest if every else some
    if limit == INFINITE:
        return None
    hops = np.where(transfer <= limit, delay, INFINITE)
    return _search(_bounded(stage, limit), hops, np.add, every=every)[1]


def _bounded(stage: Floats, limit: float) -> Floats:
    return np.where(stage <= limit, stage, INFINITE)


def _stages(
    blocks: Sequence[int],
    nodes: Sequence[str],
    cost_us: Mapping[str, Mapping[int, float]],
    block_bytes: Mapping[int, int],
    budget_bytes: Mapping[str, float],
) -> Floats:
    """``[node, start, end]``: what the run costs there; infinite where it is impossible."""
    count = len(blocks)
    costs = np.array([[cost_us[node][block] for block in blocks] for node in nodes], float)
    impossible = _sums(np.isinf(costs).astype(float))
    sizes = _sums(np.array([[block_bytes[block] for block in blocks]], float))
    budgets = np.array([budget_bytes[node] for node in nodes], float)[:, None, None]
    forward = np.arange(count + 1)[:, None] < np.arange(count + 1)[None, :]
    fits = forward & (impossible == 0) & (sizes <= budgets)
    return np.where(fits, _sums(np.where(np.isinf(costs), 0.0, costs)), INFINITE)


def _sums(rows: Floats) -> Floats:
    """``[row, start, end]``: the sum of the row's entries from start up to end."""
    running = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)], axis=1)
    sums: Floats = running[:, None, :] - running[:, :, None]
    return sums


def _hops(
    blocks: Sequence[int],
    nodes: Sequence[str],
    links: Links,
    hop_us: float,
    input_bytes: Mapping[int, int],
) -> tuple[Floats, Floats]:
    """``[from, to, block]``: what a hop before that block takes, and how long it uses the link."""
    usual = Link(hop_us)
    pairs = [[links.get((a, b), usual) for b in nodes] for a in nodes]
    fixed = np.array([[link.hop_us for link in row] for row in pairs])
    per_byte = np.array([[link.us_per_byte for link in row] for row in pairs])
    crossing = np.array([*(input_bytes.get(block, 0) for block in blocks), 0], float)
    transfer = per_byte[:, :, None] * crossing
    return fixed[:, :, None] + transfer, transfer


def _search(
    stage: Floats, hop: Floats, combine: Combine, *, every: bool
) -> tuple[float, list[tuple[int, int, int]]]:
    """The least value of all stages and hops combined, and the runs (node, start, end).

    With ``every``, each node gets a run. The runs mean nothing where the value is infinite.
    """
    count, size = stage.shape[0], stage.shape[1]
    # best[i, e]: least value of the first e blocks where node i runs the last of them, which
    # starts at starts[i, e]; before[i, s]: who best runs what precedes block s.
    best = np.full((count, size), INFINITE)
    starts = np.zeros((count, size), int)
    before = np.zeros((count, size), int)
    columns = np.arange(size)
    for node in range(count):
        reach = np.full(size, INFINITE)
        earliest = max(0, node - 1) if every else 0
        if node > 0:
            found = combine(best[earliest:node], hop[earliest:node, node])
            nearest = found.argmin(axis=0)
            before[node] = earliest + nearest
            reach = found[nearest, columns]
        if node == 0 or not every:
            reach[0] = 0.0
        table = combine(reach[:, None], stage[node])
        starts[node] = table.argmin(axis=0)
        best[node] = table[starts[node], columns]
    last = count - 1 if every else int(best[:, -1].argmin())
    value = float(best[last, -1])
    return value, _trace(starts, before, last) if value < INFINITE else []


def _trace(
    starts: npt.NDArray[np.int_], before: npt.NDArray[np.int_], last: int
) -> list[tuple[int, int, int]]:
    """The runs that lead to ``last`` running the last block, first one first."""
    runs: list[tuple[int, int, int]] = []
    node, end = last, starts.shape[1] - 1
    while end > 0:
        start = int(starts[node, end])
        runs.append((node, start, end))
        node, end = int(before[node, start]), start
    return runs[::-1]
