"""Plans: which node runs which parts, and what will be done when nodes fail.

These structures travel on the wire (as arrays, so fields are only ever appended) and are
pure data. Parts are named by their index in the bundle's manifest, which keeps a route of
fourteen hops under the header's 4 KiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

Technique = Literal["none", "repartition", "early_exit", "skip", "mixed"]


class Version(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Version of a plan: the coordinator's term, then a number that only rises."""

    term: int = 0
    number: int = 0

    def __str__(self) -> str:
        return f"{self.term}.{self.number}"


class Hop(msgspec.Struct, frozen=True, array_like=True):
    """One stage of a route: this life of this node runs these parts, in this order."""

    node: str
    incarnation: int
    parts: tuple[int, ...]


Route = tuple[Hop, ...]


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A node that others may send to: one life of its agent and its three endpoints."""

    node: str
    incarnation: int
    data: str
    answers: str
    ingress: str


class Step(msgspec.Struct, frozen=True, array_like=True):
    """A route and what is predicted of it.

    ``accuracy`` is a fraction, None where it was not measured: a model that came without
    labels runs all of its blocks, and nobody knows how well. ``downtime_ms`` is the predicted
    time from the fault to the first answer by this route, ``capacity_per_s`` the rate at
    which the slowest stage is fully used.
    """

    technique: Technique
    exit: str | None
    route: Route
    accuracy: float | None
    latency_ms: float
    downtime_ms: float
    capacity_per_s: float

    @property
    def parts(self) -> tuple[int, ...]:
        """All parts of the route in order: its path."""
        return tuple(part for hop in self.route for part in hop.parts)

    @property
    def reported_accuracy(self) -> float | None:
        """The accuracy as reports and events show it: four digits, None where unknown."""
        return None if self.accuracy is None else round(self.accuracy, 4)

    @property
    def nodes(self) -> frozenset[str]:
        """The nodes that the route visits."""
        return frozenset(hop.node for hop in self.route)

    @property
    def links(self) -> frozenset[str]:
        """The directed links that the route needs."""
        return frozenset(links_of([hop.node for hop in self.route]))

    def uses(self, failed: frozenset[str]) -> bool:
        """A failed node or link is part of the route."""
        return not (self.nodes.isdisjoint(failed) and self.links.isdisjoint(failed))


def link_name(source: str, target: str) -> str:
    """The link from a node to another one, in a set of failures: ``n2>n3``."""
    return f"{source}>{target}"


def links_of(nodes: Sequence[str]) -> list[str]:
    """The links that a route over these nodes needs, as ``link_name`` writes them.

    One of them leads from the last node to the first, by which clients enter.
    """
    following = (*nodes[1:], *nodes[:1])
    return [link_name(a, b) for a, b in zip(nodes, following, strict=True) if a != b]


def link_ends(name: str) -> tuple[str, str] | None:
    """Source and target of a link in a set of failures; None where the name is a node's."""
    source, arrow, target = name.partition(">")
    return (source, target) if arrow else None


class ClassStep(msgspec.Struct, frozen=True, array_like=True):
    """What is done for one request class. ``step`` is None where it goes by the plan's own.

    ``second`` is the other route of a masked class; it shares no node with the first.
    """

    name: str
    step: Step | None = None
    second: Step | None = None

    def without(self, failed: frozenset[str]) -> ClassStep:
        """What is left of it: a route that is hit is given up for the other, or the plan's own."""
        left = [s for s in (self.step, self.second) if s is not None and not s.uses(failed)]
        return ClassStep(self.name, *left)


class Contingency(msgspec.Struct, frozen=True, array_like=True):
    """What to do when exactly these nodes and links have failed: the steps in order, bridge first.

    The first step needs nothing that is not in memory already, where one such exists; the
    last is the best that the survivors can give. ``classes``: for each step, what request
    classes do that have routes of their own.
    """

    failed: tuple[str, ...]
    steps: tuple[Step, ...]
    classes: tuple[tuple[ClassStep, ...], ...] = ()

    def classes_at(self, index: int) -> tuple[ClassStep, ...]:
        """What request classes do at a step."""
        return self.classes[index] if index < len(self.classes) else ()


class Plan(msgspec.Struct, frozen=True, array_like=True):
    """The plan in force and the contingencies prepared for it.

    ``draining`` nodes live, but are to get no new work, nor new clients. ``classes`` names every
    request class there is.
    """

    version: Version
    deployment: str
    bundle: bytes
    members: tuple[Member, ...]
    failed: tuple[str, ...]
    step: Step
    contingencies: tuple[Contingency, ...] = ()
    draining: tuple[str, ...] = ()
    classes: tuple[ClassStep, ...] = ()

    def contingency(self, failed: frozenset[str]) -> Contingency | None:
        """The contingency prepared for exactly this failure set."""
        for candidate in self.contingencies:
            if frozenset(candidate.failed) == failed:
                return candidate
        return None

    def classes_with(self, own: tuple[ClassStep, ...]) -> tuple[ClassStep, ...]:
        """Every request class; those that are not named go by the step in force."""
        named = {each.name: each for each in own}
        return tuple(named.get(each.name, ClassStep(each.name)) for each in self.classes)
