"""What ``python -m bench.decisions`` recorded of forced techniques: one fault a line."""

from __future__ import annotations

from pathlib import Path

import msgspec

from continuer.errors import UsageError

TECHNIQUES = ("repartition", "early_exit", "skip")


class Figures(msgspec.Struct, frozen=True):
    """One plan: what the coordinator said of it beforehand, and what was measured.

    ``compute_ms`` is the part of ``predicted_latency_ms`` that is not hops: what its blocks take,
    as their nodes measured it. ``hops``: how many nodes its route visits.
    """

    accuracy: float
    predicted_accuracy: float
    hops: int
    compute_ms: float
    predicted_latency_ms: float
    latency_ms: float


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """One technique at one failing node, once. Without ``after``: it cannot serve without it.

    ``number`` is the pass that it belongs to; ``downtime_ms`` from the fault to the first answer
    by the new route; ``select_ms`` from the judgement that the node has failed to the choice.
    """

    network: str
    number: int
    node: str
    technique: str
    before: Figures | None = None
    after: Figures | None = None
    predicted_downtime_ms: float = 0.0
    downtime_ms: float = 0.0
    select_ms: float = 0.0

    @property
    def possible(self) -> bool:
        """The technique could be used."""
        return self.after is not None

    @property
    def calibrates(self) -> bool:
        """Predictions may be fitted to it; else they are judged by it."""
        return self.number % 2 == 0


def read(path: Path) -> list[Run]:
    """The runs of a file; raises UsageError where it is no recorded campaign."""
    try:
        return msgspec.json.decode(
            b"[" + b",".join(path.read_bytes().splitlines()) + b"]", type=list[Run]
        )
    except OSError as error:
        raise UsageError(f"--measured {path}: {error.strerror}; record it first") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise UsageError(f"--measured {path}: not a recorded campaign ({error})") from error
