"""What deciding code asks the shell to do, and what it remembers of nodes and failovers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from continuer.events import Event
from continuer.plan import Member, Step, Version
from continuer.wire import Message, PartTiming
from coordinator.planner import Candidate, ClassRoutes, Decision

NodeState = Literal["absent", "joined", "active", "suspect", "dead", "left"]
MS = 1_000_000


class Send(msgspec.Struct, frozen=True):
    """Send a message over the control link."""

    link: bytes
    message: Message


class SetPace(msgspec.Struct, frozen=True):
    """Tell a node how often to send heartbeats over its link (``wire.Pace``).

    ``fresh``: its beacons get a session of their own from now on, else they keep the one they have.
    """

    link: bytes
    node: str
    incarnation: int
    every_us: int
    fresh: bool


class Probe(msgspec.Struct, frozen=True):
    """Find out whether anything listens at a node's data endpoint; report ``on_probe``."""

    node: str
    incarnation: int
    endpoint: str


class Decided(msgspec.Struct, frozen=True):
    """A decision was just made: report the time to ``decided`` before sending anything."""

    version: Version


Command = Send | SetPace | Probe | Decided | Event


class NodeRecord(msgspec.Struct):
    """All that is known of one node. Times in ns of the coordinator's clock.

    ``accepted`` counts requests since the agent started, ``arrived`` those since we listen;
    ``heartbeats`` counts since it joined. ``refused``: parts it could not load in this life;
    ``stored``: those on its disk, None for all, which others fetch at ``store``.
    ``slowness``: how many times as long as reported its parts take now; ``worked_us`` and
    ``predicted_us`` as in its last heartbeat. ``drained``: by order, or, while ``retiring``,
    because this life of it is about to stop.
    """

    name: str
    state: NodeState = "absent"
    member: Member | None = None
    link: bytes | None = None
    loaded: dict[int, PartTiming] = {}
    memory_bytes: float = float("inf")
    standby: str = "all"
    since_ns: int = 0
    suspect_ns: int = 0
    knocked_ns: int = 0
    was_dead: bool = False
    reason: str = ""
    accused_by: str = ""
    left_out_ms: int = 0
    left_out_until_ns: int = 0
    accepted: int = 0
    arrived: int = 0
    done: int = 0
    queued: int = 0
    rss_bytes: int = 0
    repairs: int = 0
    heartbeats: int = 0
    worked_us: int = 0
    predicted_us: int = 0
    slowness: float = 1.0
    drained: bool = False
    retiring: bool = False
    refused: frozenset[int] = frozenset()
    stored: frozenset[int] | None = None
    store: str = ""

    @property
    def obeys(self) -> bool:
        """Gets plans: at work, or drained but still an ingress to clients that know it."""
        return self.state == "active" or (self.drained and self.state == "joined")

    @property
    def live(self) -> bool:
        """Connected and not doubted."""
        return self.state in ("joined", "active")


class Failure(msgspec.Struct, frozen=True):
    """Why a node is held failed, and when that was known.

    ``lost``: requests that had entered there and had no outcome, as it said itself last.
    """

    node: str
    reason: str
    last_heard_ns: int
    evidence_ns: int
    was_active: bool
    lost: int = 0


class StepTaken(msgspec.Struct):
    """One step of a failover: decided, and told to all who live."""

    version: Version
    step: Step
    begun_ns: int
    decided_ns: int | None = None
    first_ack_ns: int | None = None
    last_ack_ns: int | None = None


class Failover(msgspec.Struct):
    """The account of one failover, however many nodes and steps it has."""

    failures: list[Failure]
    decision: Decision
    begun_ns: int
    steps: list[StepTaken] = []
    replayed: int = 0
    healed_ns: int | None = None

    def report(self) -> dict[str, Any]:
        """The account as plain data. Times are ns of the coordinator's monotonic clock."""
        return {
            "nodes": [f.node for f in self.failures],
            "reasons": [f.reason for f in self.failures],
            "last_heard_ns": [f.last_heard_ns for f in self.failures],
            "evidence_ns": [f.evidence_ns for f in self.failures],
            "begun_ns": self.begun_ns,
            "steps": [
                {
                    "version": str(taken.version),
                    "technique": taken.step.technique,
                    "exit": taken.step.exit,
                    "accuracy": taken.step.reported_accuracy,
                    "latency_ms": round(taken.step.latency_ms, 3),
                    "begun_ns": taken.begun_ns,
                    "decided_ns": taken.decided_ns,
                    "first_ack_ns": taken.first_ack_ns,
                    "last_ack_ns": taken.last_ack_ns,
                }
                for taken in self.steps
            ],
            "candidates": [candidate.report() for candidate in self.decision.candidates],
            "why": self.decision.why,
            "replayed": self.replayed,
            "healed_ns": self.healed_ns,
        }


def formed_event(version: Version, step: Step) -> Event:
    """A whole plan is in force."""
    return Event(
        "plan_formed",
        {
            "version": str(version),
            "technique": step.technique,
            "nodes": [hop.node for hop in step.route],
            "accuracy": step.reported_accuracy,
            "latency_ms": round(step.latency_ms, 3),
            "capacity_per_s": round(step.capacity_per_s, 1),
        },
    )


def failover_event(
    version: Version, failed: frozenset[str], decision: Decision, index: int
) -> Event:
    """A step of a failover is in force: the first one, or the healing that follows."""
    step = decision.chosen[index].step
    fields = {
        "version": str(version),
        "nodes": sorted(failed),
        "technique": step.technique,
        "accuracy": step.reported_accuracy,
        "latency_ms": round(step.latency_ms, 3),
    }
    if index > 0:
        return Event("healed", fields)
    why = {"exit": step.exit, "downtime_ms": round(step.downtime_ms, 2), "why": decision.why}
    return Event("failover", {**fields, **why})


def violation_events(
    candidate: Candidate, decisions: Mapping[frozenset[str], Decision]
) -> list[Event]:
    """Say which thresholds the plan breaks, and in advance which failures nothing covers."""
    broken: list[tuple[tuple[str, ...], Candidate]] = []
    if candidate.problems:
        broken.append(((), candidate))
    broken += [
        (decision.failed, decision.chosen[-1])
        for decision in decisions.values()
        if len(decision.failed) == 1 and not decision.chosen[-1].feasible
    ]
    return [
        Event(
            "objectives_violated",
            {
                "nodes": list(failed),
                "technique": best.step.technique,
                "violations": sorted(best.problems),
            },
        )
        for failed, best in broken
    ]


def class_events(routes: Iterable[ClassRoutes]) -> list[Event]:
    """Say which request classes ask for a second route and cannot have one, and why."""
    return [
        Event("redundancy_refused", {"request_class": each.name, "problem": each.problem})
        for each in routes
        if each.problem
    ]


def told_event(failover: Failover, taken: StepTaken) -> Event:
    """The account of telling, once every survivor has acknowledged a step."""
    first = failover.failures[0]
    decided_ns = taken.decided_ns or taken.begun_ns
    last_ack_ns = taken.last_ack_ns or decided_ns
    return Event(
        "failover_told",
        {
            "version": str(taken.version),
            "nodes": [failure.node for failure in failover.failures],
            "silence_ms": round((first.evidence_ns - first.last_heard_ns) / MS, 3),
            "detect_ms": round((failover.begun_ns - first.evidence_ns) / MS, 3),
            "decide_ms": round((decided_ns - taken.begun_ns) / MS, 3),
            "tell_ms": round((last_ack_ns - decided_ns) / MS, 3),
            "outage_ms": round((last_ack_ns - first.last_heard_ns) / MS, 3),
            "predicted_ms": round(taken.step.downtime_ms, 3),
            "replayed": failover.replayed,
            "lost": sum(failure.lost for failure in failover.failures),
        },
    )


def feasible_first(candidates: tuple[Candidate, ...]) -> list[Candidate]:
    """Candidates as an operator wants to read them: feasible ones first, best score first."""
    return sorted(candidates, key=lambda c: (not c.feasible, -c.score))
