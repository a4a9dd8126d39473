"""What is under way before a step or a plan comes into force: loading, then looking ahead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from continuer.bundle import Bundle
from coordinator.commands import NodeRecord
from coordinator.contingencies import Contingencies
from coordinator.downtimes import Timings
from coordinator.planner import Candidate, ClassRoutes, fetch_bytes, steps_of
from coordinator.planning import facts

PREPARE_TIMEOUT_MS = 5000
# Fetching may take so many times what the bandwidth seen so far suggests.
PATIENCE = 5


class Preparing(msgspec.Struct):
    """Nodes are loading parts; when all are done, the candidate goes in force.

    ``heal`` is the step of the running failover that is prepared; None while a whole plan
    is being formed, with ``routes`` for request classes. ``alone_ms``: what the loading would
    take on idle nodes; the slowest has to fetch for ``fetch_ms`` before.
    """

    ticket: int
    candidate: Candidate
    waiting: set[str]
    begun_ns: int
    wanted: dict[str, tuple[int, ...]]
    alone_ms: dict[str, float]
    fetch_ms: float
    heal: int | None = None
    routes: tuple[ClassRoutes, ...] = ()

    @property
    def patience_ms(self) -> float:
        """After so long the nodes are asked anew; a slow network gets its time."""
        return PREPARE_TIMEOUT_MS + PATIENCE * self.fetch_ms

    def uses(self, failed: frozenset[str]) -> bool:
        """It counts on a node or link that has failed."""
        return any(step.uses(failed) for step in steps_of(self.candidate, self.routes))


class Forming(msgspec.Struct):
    """A plan whose parts are loaded; its contingencies are being decided."""

    candidate: Candidate
    contingencies: Contingencies
    routes: tuple[ClassRoutes, ...] = ()

    def uses(self, failed: frozenset[str]) -> bool:
        """It counts on a node or link that has failed."""
        return any(step.uses(failed) for step in steps_of(self.candidate, self.routes))


def also_missing(
    nodes: Mapping[str, NodeRecord], missing: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """What nodes that lack something should hold: what they have, and what is missing."""
    return {
        name: (*parts, *(p for p in nodes[name].loaded if p not in parts))
        for name, parts in missing.items()
    }


def longest_fetch_ms(
    bundle: Bundle,
    nodes: Mapping[str, NodeRecord],
    lacking: Mapping[str, Sequence[int]],
    timings: Timings,
) -> float:
    """How long the slowest node needs to fetch what it lacks and does not have on its disk."""
    return max(
        (
            timings.fetch(name, fetch_bytes(bundle, facts(nodes[name]), parts))
            for name, parts in lacking.items()
        ),
        default=0.0,
    )


def sources_for(
    node: NodeRecord,
    parts: Sequence[int],
    live: Iterable[NodeRecord],
    shelf: frozenset[int],
    shelf_endpoint: str,
) -> tuple[str, ...]:
    """From whom a node with a store may fetch these parts, those on its disk too.

    It finds out only when it loads a file whether that is unaltered. Nodes that have one of the
    parts come before the coordinator, which is there for everybody.
    """
    if node.stored is None:
        return ()
    asked = frozenset(parts)
    others = [
        other.store
        for other in live
        if other.store and other is not node and (other.stored is None or asked & other.stored)
    ]
    return (*others, *([shelf_endpoint] if asked & shelf else ()))
