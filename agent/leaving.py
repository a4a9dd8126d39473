"""When an agent that was told to stop may do so. Sans-IO.

It has asked the coordinator to be relieved. The others load what it does, then a plan without
it comes, its clients are told to enter elsewhere, and what is still under way is finished.
"""

from __future__ import annotations

import msgspec

from agent.plan_holder import InForce

# Others may still have work on its way here by the plan before.
QUIET_NS = 250_000_000


class Situation(msgspec.Struct, frozen=True):
    """What the agent knows of itself. ``arrived`` counts requests and work ever received."""

    joined: bool
    refusal: str
    in_force: InForce | None
    inflight: int
    arrived: int


class Leaving:
    """One agent's way out; ``timeout_ns`` bounds it."""

    def __init__(self, node: str, timeout_ns: int, now: int) -> None:
        self._node = node
        self._timeout_ns = timeout_ns
        self._begun_ns = now
        self._quiet_since_ns: int | None = None
        self._arrived = -1

    def outcome(self, situation: Situation, now: int) -> str | None:
        """Why the agent may stop now, in words; None while it should not."""
        if not situation.joined:
            return "no coordinator to hand over to"
        if situation.refusal:
            return situation.refusal
        if now - self._begun_ns >= self._timeout_ns:
            return f"not handed over in time, {situation.inflight} requests under way"
        if not self._relieved(situation.in_force) or situation.inflight:
            self._quiet_since_ns = None
            return None
        if situation.arrived != self._arrived or self._quiet_since_ns is None:
            self._arrived, self._quiet_since_ns = situation.arrived, now
        return "handed over" if now - self._quiet_since_ns >= QUIET_NS else None

    def _relieved(self, in_force: InForce | None) -> bool:
        """No plan, or one that gives this node neither blocks nor clients."""
        if in_force is None:
            return True
        own = [step for c in in_force.classes for step in (c.step, c.second) if step is not None]
        busy = any(self._node in step.nodes for step in (in_force.step, *own))
        return self._node in in_force.draining and not busy
