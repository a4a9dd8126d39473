"""What is seen of a network's blocks while it runs over images: features, and moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from continuer.bundle import Bundle, TensorSpec
from continuer.runtime import LoadedPart
from models.imported import bypass, heads
from models.imported.bypass import Affine

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

#: A channel that varies less is constant; nothing is scaled by it.
LEAST_VARIANCE = 1e-10


@dataclass(frozen=True)
class Shortcut:
    """What runs in a skipped block's stead: ``content`` of a model, None for nothing at all.

    ``positive``: the block's output is never negative. ``corrected``: per channel.
    """

    content: bytes | None
    positive: bool
    corrected: bool = False


class Moments:
    """Sums per channel of a shortcut's output, the block's output, and their products."""

    def __init__(self, channels: int) -> None:
        self._sums = np.zeros((5, channels))
        self._count = 0

    def add(self, shortcut: Array, block: Array) -> None:
        """Both (..., channels), as real numbers."""
        x, y = (values.reshape(-1, values.shape[-1]).astype(float) for values in (shortcut, block))
        self._sums += [x.sum(0), y.sum(0), (x * x).sum(0), (y * y).sum(0), (x * y).sum(0)]
        self._count += len(x)

    def matching(self) -> Affine:
        """Gives the shortcut the block's mean and variance."""
        x, y, xx, yy, _ = self._sums / self._count
        variance, wanted = np.maximum(xx - x * x, 0), np.maximum(yy - y * y, 0)
        alive = variance > LEAST_VARIANCE
        scale = np.where(alive, np.sqrt(wanted / np.where(alive, variance, 1)), 0)
        return _affine(scale, y - scale * x)

    def nearest(self) -> Affine:
        """Brings the shortcut as near to the block as one line per channel can (least squares)."""
        x, y, xx, _, xy = self._sums / self._count
        variance = np.maximum(xx - x * x, 0)
        alive = variance > LEAST_VARIANCE
        scale = np.where(alive, (xy - x * y) / np.where(alive, variance, 1), 0)
        return _affine(scale, y - scale * x)


def _affine(scale: Array, shift: Array) -> Affine:
    return Affine(scale.astype(np.float32), shift.astype(np.float32))


class Observation:
    """Gathers what heads and corrections are fitted on.

    ``exits``: blocks whose pooled output is kept; ``shortcuts``: per residual block. Models
    that are needed on the way are written to ``scratch``.
    """

    def __init__(
        self, bundle: Bundle, exits: Sequence[str], shortcuts: Mapping[str, Shortcut], scratch: Path
    ) -> None:
        self.shortcuts = shortcuts
        self._bundle = bundle
        self._scratch = scratch
        self._place = {name: index for index, name in enumerate(bundle.block_names)}
        self._pools = {name: self._pool(name) for name in exits}
        self._features: dict[str, list[Array]] = {name: [] for name in exits}
        self._plain = {name: self.load(name, s, "plain") for name, s in shortcuts.items()}
        self._moments = {
            name: Moments(bundle.parts[name].outputs[0].shape[-1]) for name in shortcuts
        }

    def _pool(self, block: str) -> LoadedPart:
        (spec,) = self._bundle.parts[block].outputs
        content = heads.pooled(spec)
        features = TensorSpec("features", (1, heads.feature_count(spec)))
        return self._loaded(f"{block}-pool", content, (spec,), (features,))

    def load(self, block: str, shortcut: Shortcut, tag: str) -> LoadedPart | None:
        """The shortcut in memory; None where it is to do nothing."""
        if shortcut.content is None:
            return None
        part = self._bundle.parts[block]
        return self._loaded(f"{block}-{tag}", shortcut.content, part.inputs, part.outputs)

    def _loaded(
        self, name: str, content: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> LoadedPart:
        path = self._scratch / f"{name}.tflite"
        path.write_bytes(content)
        return LoadedPart(path, inputs, outputs)

    def see(self, flows: Sequence[Sequence[Array]]) -> None:
        """One image: ``flows[i]`` are the tensors that enter block i, the last ones leave."""
        for name, pool in self._pools.items():
            self._features[name].append(pool.run(flows[self._place[name] + 1])[0][0])
        for name, plain in self._plain.items():
            at = self._place[name]
            result = plain.run(flows[at]) if plain else flows[at]
            (spec,) = self._bundle.parts[name].outputs
            self._moments[name].add(_real(result[0], spec), _real(flows[at + 1][0], spec))

    def features(self, block: str) -> npt.NDArray[np.float32]:
        """(images, features) of an exit's block."""
        return np.array(self._features[block], np.float32)

    def corrections(self, block: str) -> list[Shortcut]:
        """Corrected forms of a block's shortcut."""
        (spec,) = self._bundle.parts[block].outputs
        plain, moments = self.shortcuts[block], self._moments[block]
        return [
            Shortcut(
                bypass.corrected(plain.content, spec, affine, positive=plain.positive),
                plain.positive,
                corrected=True,
            )
            for affine in (moments.matching(), moments.nearest())
        ]


def _real(values: Array, spec: TensorSpec) -> Array:
    """The numbers that quantised values stand for."""
    if spec.scale is None:
        return values
    result: Array = (values.astype(np.float32) - (spec.zero_point or 0)) * np.float32(spec.scale)
    return result


def better(right: npt.NDArray[np.bool_]) -> int:
    """Which option to take; ``right`` (images, options): whose answers were right.

    Option 0 is the plain one. Another is taken only if it wins by more than chance does in two
    of three cases: one standard deviation of the difference over the images that differ.
    """
    gained = (right & ~right[:, :1]).sum(0)
    lost = (~right & right[:, :1]).sum(0)
    clear = gained - lost > np.sqrt(gained + lost)
    return int(np.where(clear, gained - lost, 0).argmax())
