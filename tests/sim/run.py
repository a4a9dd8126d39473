"""One seed from beginning to end, and the shortest schedule of faults that still fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import msgspec

from tests.sim.faults import Fault, schedule
from tests.sim.judge import check_blame, check_convergence, check_errors, check_outages
from tests.sim.scenarios import STORIES
from tests.sim.watch import ViolationError
from tests.sim.world import World, virtual_time

SETTLE_MS = 4500
NODES = 5
Mutation = Callable[[], AbstractContextManager[None]]


class Report(msgspec.Struct):
    """What came of a run. ``rule`` is empty where every invariant held."""

    seed: int
    faults: tuple[Fault, ...]
    rule: str
    problem: str
    digest: str
    lines: list[str]
    steps: int
    requests: int


def run(
    seed: int, faults: Sequence[Fault] | None = None, mutation: Mutation = nullcontext
) -> Report:
    """Let the faults of a seed, or those given, befall a cluster; check what must hold."""
    names = [f"n{i}" for i in range(1, NODES + 1)]
    chosen = tuple(schedule(seed, names) if faults is None else faults)
    return _report(seed, chosen, lambda world: _play(world, chosen), mutation)


def tell(name: str, mutation: Mutation = nullcontext, seed: int = 1) -> Report:
    """Run a scenario of ``tests/sim/scenarios.py``."""
    return _report(seed, (), STORIES[name], mutation)


def _report(
    seed: int, faults: tuple[Fault, ...], play: Callable[[World], None], mutation: Mutation
) -> Report:
    world = World(seed, NODES)
    for agent in world.agents.values():
        agent.standby = "none" if seed % 2 else "all"
    rule = problem = ""
    with virtual_time(world), mutation():
        try:
            play(world)
        except ViolationError as violation:
            rule, problem = violation.rule, str(violation)
        except Exception as error:  # noqa: BLE001  # whatever a core raises is a finding
            rule, problem = "no_core_raises", f"{type(error).__name__}: {error}"
    watch = world.watch
    return Report(
        seed, faults, rule, problem, watch.digest, watch.lines, world.clock.steps,
        len(world.requests),
    )  # fmt: skip


def _play(world: World, faults: Sequence[Fault]) -> None:
    world.begin()
    base_ns = world.clock.now
    world.plan(faults)
    world.run(max((fault.end_ms for fault in faults), default=0.0) + SETTLE_MS)
    check_convergence(world)
    world.finish()
    check_blame(world, faults)
    check_errors(world, faults, base_ns)
    check_outages(world, faults, base_ns)


def shrink(report: Report, mutation: Mutation = nullcontext) -> Report:
    """Leave faults out, one at a time, as long as the same rule is broken."""
    shortest = report
    again = True
    while again:
        again = False
        for index in range(len(shortest.faults)):
            fewer = (*shortest.faults[:index], *shortest.faults[index + 1 :])
            found = run(report.seed, fewer, mutation)
            if found.rule == report.rule:
                shortest, again = found, True
                break
    return shortest


def explain(report: Report, *, steps: bool = False) -> str:
    """A failed run for people: what broke, under which faults, how to see it again."""
    lines = [f"seed {report.seed}: {report.problem}", "faults left after shrinking:"]
    lines += [f"  {fault}" for fault in report.faults] or ["  none"]
    lines += ["the end of the transcript:", *(report.lines if steps else report.lines[-25:])]
    return "\n".join([*lines, f"again: python -m tests.sim --seed {report.seed} --steps"])
