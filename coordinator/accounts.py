"""The accounts of failovers: which nodes, which steps, and when each part was done. Sans-IO."""

from __future__ import annotations

from continuer.plan import Step, Version
from coordinator.commands import MS, Failover, Failure, StepTaken
from coordinator.planner import Decision

# Nodes that fail within this time of each other belong to one account.
MERGE_MS = 100
KEPT = 50


class Accounts:
    """The latest failovers, oldest first."""

    def __init__(self) -> None:
        self.failovers: list[Failover] = []

    def failed(self, failure: Failure, decision: Decision, now: int) -> None:
        """Open an account, or add to the one that is running."""
        last = self.failovers[-1] if self.failovers else None
        if last is not None and now - last.begun_ns < MERGE_MS * MS and last.healed_ns is None:
            last.failures.append(failure)
            last.decision = decision
        else:
            self.failovers = [*self.failovers, Failover([failure], decision, now)][-KEPT:]

    def stepped(self, version: Version, step: Step, now: int, *, healed: bool) -> None:
        """A step of the running failover is about to be told."""
        failover = self.failovers[-1]
        failover.steps.append(StepTaken(version, step, now))
        if healed:
            failover.healed_ns = now

    def decided(self, version: Version, now: int) -> float | None:
        """The decision for a version had been made by now; how long it took, in ms."""
        for taken in self.failovers[-1].steps if self.failovers else ():
            if taken.version == version:
                taken.decided_ns = now
                return (now - taken.begun_ns) / MS
        return None

    def acknowledged(
        self, version: Version, replayed: int, now: int
    ) -> tuple[Failover, StepTaken] | None:
        """An agent has a step in force; the account and the step, if it was one."""
        for failover in reversed(self.failovers):
            for taken in failover.steps:
                if taken.version == version:
                    failover.replayed += replayed
                    taken.first_ack_ns = taken.first_ack_ns or now
                    taken.last_ack_ns = now
                    return failover, taken
        return None

    def failures_of(self, node: str) -> int:
        """How often a node has failed, of late."""
        return sum(node == f.node for failover in self.failovers for f in failover.failures)
