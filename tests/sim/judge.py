"""What can only be said at the end of a run: needless errors, and outages that were too long."""

from __future__ import annotations

from collections.abc import Sequence

from tests.sim.clock import MS
from tests.sim.faults import Fault
from tests.sim.watch import ViolationError
from tests.sim.world import World

# A death disturbs for so long: until it is known, another way is in force, and replays are through.
RECOVERED_MS = 700.0
# Where the journey of a request lay outside of all disturbance for so long, it has to be answered.
CALM_MS = 900.0
# Outage of a fault that strikes a service at peace, on a quiet network: the design's goals, and
# what the absence of a coordinator may add to them.
BOUND_MS = {"kill": 10.0, "pause": 40.0, "power": 40.0, "coordinator_kill": 10.0}
BOUND_MS |= {"coordinator_pause": 10.0, "coordinator_start": 10.0}
ALONE_BOUND_MS = {"kill": 40.0, "pause": 400.0, "power": 400.0}
AROUND_MS = 1000.0
NEVER_NS = 10**12
# What harms no node must not cost one its work.
HARMLESS = {"clock", "ghost", "deaf", "coordinator_kill", "coordinator_pause"}
NOISY = {"delay", "loss", "slow", "havoc", "cut", "isolate", "everything"}
Span = tuple[float, float]


def disturbances(faults: Sequence[Fault]) -> list[Span]:
    """When the service may be expected to falter, in ms from the faults' begin."""
    spans: list[Span] = []
    absences = ("coordinator_kill", "coordinator_pause", "deaf", "everything")
    away = merged([(f.at_ms, f.end_ms) for f in faults if f.kind in absences])
    for fault in faults:
        begin, end = fault.at_ms, fault.end_ms
        if fault.kind in ("kill", "pause", "power"):
            spans += [(begin, begin + RECOVERED_MS), (end, end + RECOVERED_MS)]
        elif fault.kind in HARMLESS:
            continue
        else:
            spans.append((begin, end + RECOVERED_MS))
    harmful = [f for f in faults if f.kind in ("kill", "pause", "power", "isolate", "cut")]
    for gone_ms, back_ms in away:
        # Without a coordinator nobody plans anew: agents hold what was foreseen, two failures.
        known = back_ms + 2 * RECOVERED_MS
        during = [f for f in harmful if f.at_ms <= known and f.end_ms >= gone_ms]
        if len(during) > 1 or any(f.kind in ("isolate", "cut") for f in during):
            spans.append((min(f.at_ms for f in during), known))
    return spans


def merged(spans: Sequence[Span]) -> list[Span]:
    """Spans that follow each other before anyone had time to recover, as one."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1] + 2 * RECOVERED_MS:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def calm_within(span: Span, spans: Sequence[Span]) -> float:
    """The longest time within a span that lies in none of the others."""
    longest, at = 0.0, span[0]
    for begin, end in sorted(spans):
        longest = max(longest, min(begin, span[1]) - at)
        at = max(at, end)
    return max(longest, span[1] - at)


def check_errors(world: World, faults: Sequence[Fault], base_ns: int) -> None:
    """An error only where the faults left no time, or no way, to answer."""
    spans = disturbances(faults)
    for request in world.requests:
        (ended_ns, outcome), begun_ns = request.outcomes[0], request.sent_ns
        if outcome == "ok":
            continue
        lived = ((begun_ns - base_ns) / MS, (ended_ns - base_ns) / MS)
        deaths = [f for f in faults if lived[0] - 500 <= f.at_ms <= lived[1]]
        deaths += [f for f in faults if lived[0] - 500 <= f.end_ms <= lived[1]]
        excused = len(deaths) >= 2 if outcome in ("quarantined", "failed") else False
        if (not excused and calm_within(lived, spans) >= CALM_MS) or (not deaths and not spans):
            text = f"{request.client}/{request.seq}, {lived[0]:.0f} to {lived[1]:.0f} ms: {outcome}"
            raise ViolationError("no_needless_error", text)


def outages(
    world: World, faults: Sequence[Fault], base_ns: int
) -> list[tuple[Fault, float, float]]:
    """Each fault that struck a service at peace, its outage in ms, and the bound.

    The outage is the worst time of a request sent within a second around the fault, less the
    usual time; that of a request without an answer is infinite.
    """
    took = sorted(r.good_ns - r.sent_ns for r in world.requests if r.good_ns)
    usual_ns = took[len(took) // 2] if took else 0
    found = []
    struck = [(fault, fault) for fault in faults]
    # A restart is the end of a fault, and judged as one of its own.
    struck += [
        (Fault(f.end_ms, "coordinator_start"), f) for f in faults if f.kind == "coordinator_kill"
    ]
    for fault, cause in struck:
        others = [f for f in faults if f is not cause]
        bound_ms = _bound_ms(fault, others)
        if bound_ms is None:
            continue
        struck_ns = base_ns + int(fault.at_ms * MS)
        near = [r for r in world.requests if abs(r.sent_ns - struck_ns) < AROUND_MS * MS]
        worst_ns = max((r.good_ns or NEVER_NS) - r.sent_ns - usual_ns for r in near)
        found.append((fault, worst_ns / MS, bound_ms))
    return found


def _bound_ms(fault: Fault, others: Sequence[Fault]) -> float | None:
    """The bound that a fault of this kind is held to, if others do not hinder it."""
    adapts = NOISY | ({"deaf"} if fault.kind in ("pause", "power") else set())
    if any(f.kind in adapts and f.at_ms <= fault.at_ms for f in others):
        return None  # timeouts have adapted to what the network does
    absent = [f for f in others if f.kind in ("coordinator_kill", "coordinator_pause", "deaf")]
    alone = any(f.at_ms + AROUND_MS < fault.at_ms < f.end_ms - AROUND_MS for f in absent)
    near = (fault.at_ms - 2 * AROUND_MS, fault.at_ms + 2 * AROUND_MS)
    times = [t for f in others for t in (f.at_ms, f.end_ms)]
    if any(near[0] <= t <= near[1] for t in times) or 0 < fault.for_ms < AROUND_MS:
        return None
    return (ALONE_BOUND_MS if alone else BOUND_MS).get(fault.kind)


def check_outages(world: World, faults: Sequence[Fault], base_ns: int) -> None:
    """No request waits for longer than the bound."""
    for fault, took_ms, bound_ms in outages(world, faults, base_ns):
        if took_ms > bound_ms:
            text = f"an outage of {took_ms:.1f} ms at {fault}; the bound is {bound_ms:.0f} ms"
            raise ViolationError("service_is_back_in_time", text)


def check_blame(world: World, faults: Sequence[Fault]) -> None:
    """Where no node came to harm, none was suspected."""
    kinds = {fault.kind for fault in faults}
    if {"coordinator_pause", "deaf"} <= kinds:
        return  # all links closed while it was stopped: it cannot know that nobody died
    blamed = world.watch.events["node_suspect"]
    if blamed and kinds <= {*HARMLESS, "slow", "havoc"}:
        raise ViolationError("nobody_is_blamed_without_reason", f"{blamed} suspicions")


def check_convergence(world: World) -> None:
    """Faults have stopped: everyone obeys one plan, which is the full one, and answers are full."""
    core = world.coordinator.core
    if core.step is None or core.step.technique != "none":
        raise ViolationError("all_converge", f"the coordinator has {core.step}")
    for name, agent in world.agents.items():
        held = (agent.holder.version, agent.ingress._step, sorted(agent.control.repairs.failed))
        if held != (core.version, core.step, []):
            raise ViolationError("all_converge", f"{name}: {held}; in force is {core.version}")
