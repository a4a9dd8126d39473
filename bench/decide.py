"""How long deciding takes: planning on the spot, and looking up what was prepared.

A made-up network of 50 blocks with 16 exits on 14 nodes; its parts cost what those of the
shipped one do. Nothing runs: only what the coordinator does when a failure is known is timed.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from continuer.bundle import Accuracy, Block, Bundle, Part, Variant
from continuer.objectives import Objectives, RequestClass
from coordinator.classes import decide_for_all, routes_in_plan
from coordinator.contingencies import Contingencies
from coordinator.planner import NodeFacts, Setting, full_layout, make_step, metrics_of

NODES = 14
BLOCKS = 50
EXIT_EVERY = 3
LONGEST_SKIP = 12
AT_ONCE = 3
IMAGES = 10_000


def measure(shipped: Bundle, count: int) -> dict[str, Any]:
    """Percentiles of ``count`` decisions and look-ups; ``cpu`` is without what others take."""
    bundle = stretched(shipped)
    found: dict[str, Any] = {"nodes": NODES, "blocks": BLOCKS, "count": count}
    alarm = RequestClass("alarm", Objectives(), redundancy=2)
    for name, classes in (("on_the_spot", ()), ("on_the_spot_with_a_masked_class", (alarm,))):
        found[name] = on_the_spot(bundle, classes, count)
    found["look_up"] = look_up(bundle, count)
    return found


def stretched(shipped: Bundle) -> Bundle:
    """A bundle of 50 blocks, with exits, and accuracies of every exit and run of skips."""
    first, last = shipped.manifest.blocks[0], shipped.manifest.blocks[-1]
    inner = shipped.parts[shipped.manifest.blocks[2].part]
    leaving = next(p for p in shipped.manifest.parts if p.kind == "exit")
    parts: list[Part] = [shipped.parts[first.part]]
    blocks: list[Block] = [Block(first.part)]
    exits = []
    for index in range(1, BLOCKS - 1):
        name = f"inner{index:02}"
        parts.append(msgspec.structs.replace(inner, name=name))
        leave = f"leave{index:02}" if index % EXIT_EVERY == 0 else None
        if leave is not None:
            exits.append(msgspec.structs.replace(leaving, name=leave))
        blocks.append(Block(name, skippable=True, exit=leave))
    parts += [shipped.parts[last.part], *exits]
    blocks.append(Block(last.part))
    manifest = msgspec.structs.replace(
        shipped.manifest, blocks=tuple(blocks), parts=tuple(parts), accuracy=accuracies(blocks)
    )
    return Bundle(Path("-"), manifest, shipped.hash)


def accuracies(blocks: Sequence[Block]) -> Accuracy:
    """Full network, each exit, and each run of skipped blocks: less, the more is left out."""
    names = [block.part for block in blocks if block.skippable]
    exits = [(place, block.exit) for place, block in enumerate(blocks) if block.exit]
    runs = [
        names[start : start + length]
        for length in range(1, LONGEST_SKIP + 1)
        for start in range(len(names) - length + 1)
    ]
    variants = [Variant(9_000, IMAGES)]
    variants += [Variant(6_000 + 60 * place, IMAGES, exit=name) for place, name in exits]
    variants += [Variant(9_000 - 200 * len(run), IMAGES, skipped=tuple(run)) for run in runs]
    return Accuracy("made up", "none", IMAGES, tuple(variants))


def setting_of(bundle: Bundle, classes: tuple[RequestClass, ...]) -> Setting:
    """Nodes of different speeds that have their own parts and those of their neighbours."""
    everything = range(len(bundle.part_names))
    nodes = [
        NodeFacts(
            f"n{i}",
            i,
            loaded=frozenset(p for p in everything if (p + i) % 3),
            latency_us={p: (1 + i / 10) * bundle.manifest.parts[p].latency_us for p in everything},
        )
        for i in range(1, NODES + 1)
    ]
    return Setting(bundle, tuple(nodes), Objectives(), classes=classes)


def on_the_spot(bundle: Bundle, classes: tuple[RequestClass, ...], count: int) -> dict[str, float]:
    """Three nodes fail at once, which nobody has prepared for."""
    setting = setting_of(bundle, classes)
    layout = full_layout(setting)
    assert layout is not None
    base = make_step(setting, layout, "none")
    assert base is not None
    full = metrics_of(base.step)
    routes = routes_in_plan(setting, base, layout, full, ())
    sets = [*itertools.combinations(layout, AT_ONCE)]
    random.Random(0).shuffle(sets)  # noqa: S311  # an order that is the same every time
    failures = [frozenset(sets[index % len(sets)]) for index in range(count)]
    return timed(
        lambda f: decide_for_all(setting, layout, f, full, routes, restore=False), failures
    )


def look_up(bundle: Bundle, count: int) -> dict[str, float]:
    """One node or two fail: what was prepared is found and its first step taken."""
    setting = setting_of(bundle, ())
    layout = full_layout(setting)
    assert layout is not None
    base = make_step(setting, layout, "none")
    assert base is not None
    prepared = Contingencies(setting, layout, metrics_of(base.step))
    while not prepared.done:
        prepared.prepare_next()
    known = [tuple(failed) for failed in prepared.decisions]
    failures = [known[index % len(known)] for index in range(count)]
    return timed(lambda names: prepared.decisions[frozenset(names)].chosen[0].step, failures)


def timed(act: Callable[[Any], Any], cases: Sequence[Any]) -> dict[str, float]:
    """Milliseconds a call, by the clock and of this thread's own CPU time."""
    for case in cases[:20]:
        act(case)
    wall, cpu = [], []
    for case in cases:
        begun, used = time.perf_counter_ns(), time.thread_time_ns()
        act(case)
        cpu.append((time.thread_time_ns() - used) / 1e6)
        wall.append((time.perf_counter_ns() - begun) / 1e6)
    figures = {"p50_ms": (wall, 50), "p99_ms": (wall, 99), "cpu_p50_ms": (cpu, 50)}
    figures["cpu_p99_ms"] = (cpu, 99)
    return {key: round(float(np.percentile(*value)), 4) for key, value in figures.items()}
