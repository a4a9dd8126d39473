"""Latency of a whole plan: its blocks on their nodes, and the hops between them. Plain look-ups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from scipy.optimize import nnls

from continuer.placement import Link

Stage = tuple[str, Sequence[int]]


class HopSample(NamedTuple):
    """A hop measured in a running chain: so many bytes took so long from one node to another."""

    sender: str
    receiver: str
    nbytes: int
    us: float


class Links(msgspec.Struct, frozen=True):
    """What hops cost: of the links that were measured, and ``usual`` for any other."""

    usual: Link
    measured: dict[tuple[str, str], Link] = {}

    @classmethod
    def fit(cls, samples: Iterable[HopSample]) -> Links:
        """Latency and time for each byte of each link, and of all links taken together.

        Raises ValueError where there are no samples.
        """
        pairs: dict[tuple[str, str], list[HopSample]] = {}
        for sample in samples:
            pairs.setdefault((sample.sender, sample.receiver), []).append(sample)
        if not pairs:
            raise ValueError("no hops were measured")
        usual = _fitted([sample for found in pairs.values() for sample in found])
        return cls(usual, {pair: _fitted(found) for pair, found in pairs.items()})

    def hop_us(self, sender: str, receiver: str, nbytes: int) -> float:
        """What a hop of so many bytes takes."""
        link = self.measured.get((sender, receiver), self.usual)
        return link.hop_us + link.us_per_byte * nbytes


def _fitted(samples: Sequence[HopSample]) -> Link:
    """Least squares of relative errors, neither figure negative.

    Hops of one size say nothing of the bytes: all is latency then.
    """
    us = np.array([sample.us for sample in samples])
    sizes = np.array([float(sample.nbytes) for sample in samples])
    if len(set(sizes.tolist())) == 1:
        return Link(float(np.median(us)))
    largest = sizes.max()
    table = np.stack([np.ones_like(us), sizes / largest], axis=1) / us[:, np.newaxis]
    hop_us, whole_us = nnls(table, np.ones_like(us))[0]
    return Link(float(hop_us), float(whole_us / largest))


class PartFigures(msgspec.Struct, frozen=True):
    """A bundle's parts as plans need them, by the index of the part.

    ``latency_ms`` by node: of each part there; ``input_bytes`` and ``output_bytes`` of each part.
    """

    latency_ms: dict[str, tuple[float, ...]]
    input_bytes: tuple[int, ...]
    output_bytes: tuple[int, ...]


def predict_plan(
    route: Sequence[Stage],
    figures: PartFigures,
    links: Links,
    *,
    ingress: str = "",
    factors: Mapping[str, float] | None = None,
) -> float:
    """Latency in ms of a request over ``route``: (node, indices of its parts) in order.

    From the ingress to the first stage, through the stages, and back to the ingress; links of
    an ingress that is not named are usual ones. ``factors``: how much slower each node now is
    than its figures, 1 where nothing is said.
    """
    slower = factors or {}
    total_ms, hops_us = 0.0, 0.0
    sender = ingress
    for node, parts in route:
        hops_us += links.hop_us(sender, node, figures.input_bytes[parts[0]])
        latency_ms = figures.latency_ms[node]
        stage_ms = 0.0
        for part in parts:
            stage_ms += latency_ms[part]
        total_ms += stage_ms * slower.get(node, 1.0)
        sender = node
    last = route[-1][1][-1]
    return total_ms + (hops_us + links.hop_us(sender, ingress, figures.output_bytes[last])) / 1e3
