"""Faults, and how a seed makes a schedule of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

KINDS = (
    "kill", "kill", "kill", "pause", "power", "slow", "cut", "isolate", "delay", "loss",
    "havoc", "ghost", "clock", "coordinator_kill", "coordinator_pause", "deaf", "everything",
)  # fmt: skip
SPAN_MS = 6000.0


class Fault(msgspec.Struct, frozen=True):
    """Something that goes wrong at a time and ends after another. ``what`` refines it."""

    at_ms: float
    kind: str
    nodes: tuple[str, ...] = ()
    for_ms: float = 0.0
    what: str = ""

    @property
    def end_ms(self) -> float:
        """When it is over."""
        return self.at_ms + self.for_ms

    def __str__(self) -> str:
        return (
            f"{self.at_ms:7.0f} ms  {self.kind} {self.what} {' '.join(self.nodes)}"
            f" for {self.for_ms:.0f} ms"
        )


def schedule(seed: int, names: Sequence[str]) -> list[Fault]:
    """One to six faults within six seconds, sometimes at once.

    In every fifth schedule the coordinator is away for long beforehand.
    """
    luck = random.Random(f"faults {seed}")
    faults = []
    at_ms = 0.0
    if seed % 5 == 4:
        faults.append(
            Fault(0.0, luck.choice(["coordinator_kill", "coordinator_pause"]), (), 5000.0)
        )
        at_ms = 1500.0
    for _ in range(luck.choice([1, 1, 2, 3, 4, 6])):
        at_ms = min(SPAN_MS, at_ms + luck.choice([0.0, 5.0, 60.0, 400.0, 1500.0, 3000.0]))
        faults.append(_fault(luck, at_ms, names))
    return faults


def _fault(luck: random.Random, at_ms: float, names: Sequence[str]) -> Fault:
    kind = luck.choice(KINDS)
    for_ms = luck.choice([20.0, 200.0, 1200.0, 3000.0])
    some = tuple(luck.sample(list(names), 2))
    if kind == "kill":
        return Fault(at_ms, kind, some[:1], max(for_ms, 200.0))
    if kind == "power":  # a box takes longer than a second to boot
        return Fault(at_ms, kind, some[:1], max(for_ms, 1200.0))
    if kind in ("pause", "slow", "clock"):
        return Fault(at_ms, kind, some[:1], for_ms)
    if kind == "cut":  # between two nodes, or a node and the coordinator; in one direction or both
        ends = luck.choice([some, (some[0], "coordinator")])
        return Fault(at_ms, kind, ends, for_ms, luck.choice(["both", "there"]))
    if kind == "isolate":  # a node from all others but not from the coordinator, or from everyone
        return Fault(at_ms, kind, some[:1], for_ms, luck.choice(["nodes", "everyone"]))
    if kind in ("delay", "loss", "ghost"):
        return Fault(at_ms, kind, some[:1], for_ms)
    if kind == "havoc":
        return Fault(at_ms, kind, some, for_ms, luck.choice(["drop", "double", "overtake"]))
    if kind == "deaf":  # the coordinator hears nobody
        return Fault(at_ms, kind, ("coordinator",), for_ms, "everyone")
    if kind == "everything":
        return Fault(at_ms, kind, tuple(names), max(for_ms, 200.0))
    return Fault(at_ms, kind, (), max(for_ms, 200.0))
