"""The operator's objectives, and how candidates are scored against them.

Hard thresholds first; among the candidates that meet them, the largest
``w_A A' - w_L L' - w_D D'`` (paper section III-B, Equation 2). The paper writes *min* there,
which with that sign would reward the worst candidate; the largest is meant, and taken here.

The paper scales each metric between the smallest and the largest of the candidates. That
flips the choice when an irrelevant bad candidate is added, so metrics are scaled relative to
the full plan in operation instead: ``A' = A / A_full`` and ``L' = max(1, L / L_full)``. A
candidate earns nothing for being faster than the plan the operator deployed: otherwise every
early exit would beat the return to full accuracy. ``D' = D / 50 ms``, the interruption that
carrier networks allow for protection switching.

A request class (an alarm camera, a counter) has objectives of its own: what it gives overrides the
deployment's, the rest is inherited. It may ask for ``redundancy = 2``: each of its requests
goes along two routes that share no node, and the first good answer wins.
"""

from __future__ import annotations

import math
import re

import msgspec

from continuer.errors import ConfigError
from continuer.placement import Optimise

DOWNTIME_UNIT_MS = 50.0
# Each class may need routes of its own in every contingency, which agents hold.
MAX_CLASSES = 16
CLASS_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")


class Objectives(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Thresholds (None: no limit) and weights.

    ``optimise`` is what blocks are placed for: requests a second (the fastest slowest stage),
    or the latency of one request, which uses as few boxes as the rate of requests allows.
    """

    min_accuracy: float | None = None
    max_latency_ms: float | None = None
    max_downtime_ms: float | None = None
    weight_accuracy: float = 0.6
    weight_latency: float = 0.3
    weight_downtime: float = 0.1
    optimise: Optimise = "throughput"

    def check(self, prefix: str = "objectives.") -> None:
        """Raise ConfigError for nonsense: NaN, negative, an accuracy of 80, all weights 0."""
        for key in ("weight_accuracy", "weight_latency", "weight_downtime"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(prefix + key, value, "give a finite number of at least 0")
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise ConfigError(
                prefix + "min_accuracy", self.min_accuracy, "give a fraction, 0.80 for 80 %"
            )
        for key in ("max_latency_ms", "max_downtime_ms"):
            value = getattr(self, key)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(prefix + key, value, "give a finite number above 0, or leave out")
        weightless = self.weight_accuracy + self.weight_latency + self.weight_downtime == 0
        limits = (self.min_accuracy, self.max_latency_ms, self.max_downtime_ms)
        if weightless and all(limit is None for limit in limits):
            raise ConfigError(
                prefix + "weight_*", 0, "give at least one weight above 0, or a threshold"
            )


class ClassObjectives(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a request class says for itself; whatever is left out, the deployment says for it."""

    min_accuracy: float | msgspec.UnsetType | None = msgspec.UNSET
    max_latency_ms: float | msgspec.UnsetType | None = msgspec.UNSET
    max_downtime_ms: float | msgspec.UnsetType | None = msgspec.UNSET
    weight_accuracy: float | msgspec.UnsetType = msgspec.UNSET
    weight_latency: float | msgspec.UnsetType = msgspec.UNSET
    weight_downtime: float | msgspec.UnsetType = msgspec.UNSET
    optimise: Optimise | msgspec.UnsetType = msgspec.UNSET
    redundancy: int = 1

    def over(self, deployment: Objectives) -> Objectives:
        """The objectives that hold for the class."""
        said = {key: getattr(self, key) for key in Objectives.__struct_fields__}
        own = {key: value for key, value in said.items() if value is not msgspec.UNSET}
        return msgspec.structs.replace(deployment, **own)

    def check(self, deployment: Objectives, prefix: str) -> None:
        """Raise ConfigError for nonsense, as for Objectives; redundancy is 1 or 2."""
        if self.redundancy not in (1, 2):
            raise ConfigError(
                prefix + "redundancy", self.redundancy, "give 1, or 2 for two disjoint routes"
            )
        self.over(deployment).check(prefix)


class RequestClass(msgspec.Struct, frozen=True):
    """A request class as decisions see it: all of its objectives."""

    name: str
    objectives: Objectives
    redundancy: int = 1

    @property
    def masked(self) -> bool:
        """A crash is to be covered by a second answer that is on its way already."""
        return self.redundancy > 1


class DeploymentObjectives(Objectives, frozen=True, forbid_unknown_fields=True):
    """``[objectives]`` of the coordinator's configuration, with ``[objectives.class.NAME]``."""

    classes: dict[str, ClassObjectives] = msgspec.field(default_factory=dict, name="class")

    @property
    def own(self) -> Objectives:
        """The deployment's objectives without the classes."""
        return Objectives(*(getattr(self, key) for key in Objectives.__struct_fields__))

    def check(self, prefix: str = "objectives.") -> None:
        """Raise ConfigError for nonsense in the deployment's objectives or in a class's."""
        super().check(prefix)
        if len(self.classes) > MAX_CLASSES:
            raise ConfigError(prefix + "class", len(self.classes), f"at most {MAX_CLASSES} classes")
        for name, wanted in self.classes.items():
            if not CLASS_NAME.fullmatch(name):
                raise ConfigError(
                    prefix + "class", name, "use 1 to 31 of a-z, 0-9, '-', '_', as in 'alarm'"
                )
            wanted.check(self.own, f"{prefix}class.{name}.")


class Metrics(msgspec.Struct, frozen=True):
    """What is predicted of a candidate: accuracy as a fraction, times in milliseconds."""

    accuracy: float
    latency_ms: float
    downtime_ms: float


def violations(objectives: Objectives, metrics: Metrics) -> dict[str, float]:
    """Which thresholds are broken, and by what share of their value."""
    broken = {}
    if objectives.min_accuracy is not None and metrics.accuracy < objectives.min_accuracy:
        broken["min_accuracy"] = 1 - metrics.accuracy / objectives.min_accuracy
    for key, value in (
        ("max_latency_ms", metrics.latency_ms),
        ("max_downtime_ms", metrics.downtime_ms),
    ):
        limit = getattr(objectives, key)
        if limit is not None and value > limit:
            broken[key] = value / limit - 1
    return broken


def score(objectives: Objectives, metrics: Metrics, full: Metrics) -> float:
    """Equation 2 with the scaling of this module's docstring; larger is better."""
    return (
        objectives.weight_accuracy * metrics.accuracy / full.accuracy
        - objectives.weight_latency * max(1.0, metrics.latency_ms / full.latency_ms)
        - objectives.weight_downtime * metrics.downtime_ms / DOWNTIME_UNIT_MS
    )
