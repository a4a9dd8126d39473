"""Contiguous placement of blocks on nodes by dynamic programming. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

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
        total, found = _runs(_bounded(stage, slowest_us), delay, np.add, every=False)
        runs = found if total < INFINITE else None
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
    some = _search(stage, transfer, np.maximum, every=False).value
    slowest = _search(stage[:first], transfer[:first, :first], np.maximum, every=True).value
    every = slowest < INFINITE and some >= WORTH_LEAVING_OUT * slowest
    if every:
        stage, delay, transfer = stage[:first], delay[:first, :first], transfer[:first, :first]
    limit = slowest if every else some
    if limit == INFINITE:
        return None
    hops = np.where(transfer <= limit, delay, INFINITE)
    return _runs(_bounded(stage, limit), hops, np.add, every=every)[1]


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
    places = np.arange(count + 1)
    costs = np.array([[cost_us[node][block] for block in blocks] for node in nodes], float)
    cannot = np.isinf(costs)
    running = _running(np.where(cannot, 0.0, costs))
    stage: Floats = running[:, None, :] - running[:, :, None]
    # furthest[i, s]: where a run from block s on must end at the latest on node i, because of
    # a block that it cannot run, or of its memory.
    furthest = np.full((len(nodes), count + 1), count)
    barriers = np.where(cannot, places[:-1], count)
    furthest[:, :-1] = np.minimum.accumulate(barriers[:, ::-1], axis=1)[:, ::-1]
    sizes = _running(np.array([[block_bytes[block] for block in blocks]], float))[0]
    budgets = np.array([budget_bytes[node] for node in nodes], float)[:, None]
    np.minimum(furthest, sizes.searchsorted(sizes + budgets, side="right") - 1, out=furthest)
    outside = (places <= places[:, None]) | (places > furthest[:, :, None])
    np.copyto(stage, INFINITE, where=outside)
    return stage


def _running(rows: Floats) -> Floats:
    """``[row, end]``: the sum of the row's entries before ``end``."""
    running = np.zeros((len(rows), rows.shape[1] + 1))
    np.cumsum(rows, axis=1, out=running[:, 1:])
    return running


def _hops(
    blocks: Sequence[int],
    nodes: Sequence[str],
    links: Links,
    hop_us: float,
    input_bytes: Mapping[int, int],
) -> tuple[Floats, Floats]:
    """``[from, to, block]``: what a hop before that block takes, and how long it uses the link."""
    count = len(nodes)
    crossing = np.array([*(input_bytes.get(block, 0) for block in blocks), 0], float)
    index = {node: i for i, node in enumerate(nodes)}
    known = [((index[a], index[b]), link) for (a, b), link in links.items()
             if a in index and b in index]  # fmt: skip
    if not known:
        # Of all pairs the same: large fleets are placed hundreds of times, once for each failure.
        size = (count, count, len(crossing))
        return np.broadcast_to(hop_us, size), np.broadcast_to(0.0, size)
    fixed, per_byte = np.full((count, count), hop_us), np.zeros((count, count))
    for pair, link in known:
        fixed[pair], per_byte[pair] = link.hop_us, link.us_per_byte
    transfer = per_byte[:, :, None] * crossing
    return fixed[:, :, None] + transfer, transfer


class _Reached(NamedTuple):
    """What a search found, from which the placement can be read.

    ``best[i, e]``: least value of the first e blocks where node i runs the last of them;
    ``reach[i, s]``: least value of what precedes block s, and the hop to node i.
    """

    value: float
    last: int
    best: Floats
    reach: Floats


def _search(stage: Floats, hop: Floats, combine: Combine, *, every: bool) -> _Reached:
    """The least value of all stages and hops combined. With ``every``, each node gets a run."""
    count, size = stage.shape[0], stage.shape[1]
    best = np.full((count, size), INFINITE)
    reach = np.full((count, size), INFINITE)
    for node in range(count):
        if node > 0:
            earliest = _earliest(node, every=every)
            combine(best[earliest:node], hop[earliest:node, node]).min(axis=0, out=reach[node])
        if node == 0 or not every:
            reach[node, 0] = 0.0
        combine(reach[node][:, None], stage[node]).min(axis=0, out=best[node])
    last = count - 1 if every else int(best[:, -1].argmin())
    return _Reached(float(best[last, -1]), last, best, reach)


def _earliest(node: int, *, every: bool) -> int:
    """The first node that may run what precedes this node's blocks."""
    return node - 1 if every else 0


def _runs(
    stage: Floats, hop: Floats, combine: Combine, *, every: bool
) -> tuple[float, list[tuple[int, int, int]]]:
    """The least value, and the runs (node, start, end) that have it; none where it is infinite."""
    found = _search(stage, hop, combine, every=every)
    runs: list[tuple[int, int, int]] = []
    node, end = found.last, stage.shape[1] - 1 if found.value < INFINITE else 0
    while end > 0:
        start = int(combine(found.reach[node], stage[node, :, end]).argmin())
        runs.append((node, start, end))
        if start > 0:
            earliest = _earliest(node, every=every)
            before = combine(found.best[earliest:node, start], hop[earliest:node, node, start])
            node = earliest + int(before.argmin())
        end = start
    return found.value, runs[::-1]
