"""Exits and skips for an imported bundle, from labelled images. No TensorFlow.

*Exits*: the blocks run over images, a classifier is fitted on pooled activations. *Skips*: of
every residual block its shortcut is kept. Imported blocks have their batch normalisation
folded in, so what follows expects the statistics of the block that is missing; a correction
per channel restores them, and stays where it gives more right answers on images that it was
not fitted on. At last all of it is measured on images that had no part in any of this.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from continuer import bundle as bundles
from continuer.bundle import Block, Bundle, Part, TensorSpec
from continuer.client import prepare
from continuer.errors import UsageError
from continuer.runtime import PathRunner
from models import accuracy
from models.imported import bypass, foreign, heads, logistic
from models.imported.cut import Cutter
from models.imported.importing import costed, uncosted
from models.imported.labelled import Labelled, Split
from models.imported.observing import Observation, Shortcut, better

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

SAY_EVERY = 500


@dataclass(frozen=True)
class Wishes:
    """What was asked for.

    ``exits``: how many at most, None for as many as fit; the rest as the options say.
    """

    exits: int | None
    longest_skip: int
    processes: int


def image_shape(bundle: Bundle) -> tuple[int, int, int]:
    """Height, width and channels of the images that a model takes; raises UsageError."""
    tensors = bundle.manifest.input.tensors
    shape = tensors[0].shape
    if len(tensors) != 1 or len(shape) != 4 or shape[0] != 1 or shape[3] not in (1, 3):
        raise UsageError(
            f"{bundle.name} takes {', '.join(str(t.shape) for t in tensors)}; exits can be added "
            "to models of one image, (1, height, width, 1 or 3)"
        )
    if bundle.manifest.input.preprocessing is None and tensors[0].dtype.startswith("float"):
        raise UsageError(
            f"{bundle.name} takes floats, and nothing says how pixels become them; import it "
            "again with --divisor, --mean and --std"
        )
    return shape[1], shape[2], shape[3]


class Adder:
    """Makes a bundle with exits and skips, in ``directory``, out of one that has none."""

    def __init__(self, bundle: Bundle, data: Labelled, directory: Path, wishes: Wishes) -> None:
        manifest = bundle.manifest
        if any(block.exit or block.skippable for block in manifest.blocks):
            raise UsageError(f"{bundle.name} has exits or skips already; import it again")
        outputs = bundle.parts[bundle.block_names[-1]].outputs
        if len(outputs) != 1:
            raise UsageError(f"{bundle.name} has {len(outputs)} outputs; exits fit one")
        (self._output,) = outputs
        size = int(np.prod(self._output.shape))
        if len(data.classes) != size:
            raise UsageError(
                f"{bundle.name} has {size} outputs, the images {len(data.classes)} classes; "
                "name its classes with --classes when importing it"
            )
        self._bundle = bundle
        self._data = data
        self._directory = directory
        self._wishes = wishes
        self._runner = PathRunner(bundle)

    def add(self) -> Bundle:
        """Do it all. Progress goes to standard error."""
        for part in self._bundle.manifest.parts:
            shutil.copy(self._bundle.file_of(part.name), self._directory / part.file)
        shortcuts = dict(self._shortcuts())
        exits = self._exit_blocks()
        with tempfile.TemporaryDirectory() as scratch:
            observed = Observation(self._bundle, exits, shortcuts, Path(scratch))
            for flows, _ in self._passes(self._data.fit, "fitting"):
                observed.see(flows)
            contents = {name: self._head(name, observed.features(name)) for name in exits}
            chosen = self._choose(observed)
        built = self._write(contents, chosen)
        say("measuring accuracy")
        return self._measured(built)

    def _passes(self, images: Split, what: str) -> Iterator[tuple[list[list[Array]], int]]:
        """Per image the tensors between the blocks, first those that enter, and the label."""
        pairs = zip(self._prepared(images), images.labels, strict=True)
        for number, (image, label) in enumerate(pairs):
            if number % SAY_EVERY == 0:
                say(f"{what}: image {number} of {len(images.labels)}")
            flows = [[image[np.newaxis]]]
            for name in self._bundle.block_names:
                flows.append(self._runner.part(name).run(flows[-1]))
            yield flows, int(label)

    def _prepared(self, images: Split) -> Array:
        taken = self._bundle.manifest.input
        return prepare(images.pixels, taken.tensors[0], taken.preprocessing)

    def _shortcuts(self) -> Iterator[tuple[str, Shortcut]]:
        """Residual blocks, and what is left of each when it is skipped."""
        positive = False
        for name in self._bundle.block_names:
            path = self._bundle.file_of(name)
            network = foreign.read(path.read_bytes(), str(path))
            cutter = Cutter(network)
            piece = cutter.piece(0, len(cutter.order))
            entered_by, positive = positive, bypass.never_negative(network, network.outputs[0])
            if piece.residual is not None:
                content = bypass.shortcut(network, piece, positive_input=entered_by)
                yield name, Shortcut(content, positive)

    def _exit_blocks(self) -> list[str]:
        """Blocks that get an exit: evenly spread over the time that the network takes."""
        parts = self._bundle.parts
        names = [
            name
            for name in self._bundle.block_names[:-1]
            if len(parts[name].outputs) == 1 and heads.fits(parts[name].outputs[0])
        ]
        wanted = self._wishes.exits
        if wanted is None or wanted >= len(names):
            return names
        at = np.cumsum([parts[name].latency_us for name in self._bundle.block_names])
        done = dict(zip(self._bundle.block_names, at / at[-1], strict=True))
        ideals = [(number + 1) / (wanted + 1) for number in range(wanted)]
        chosen: list[str] = []
        for ideal in ideals:
            left = [name for name in names if name not in chosen]
            chosen.append(min(left, key=lambda name: abs(done[name] - ideal)))
        return [name for name in names if name in chosen]

    def _head(self, block: str, features: npt.NDArray[np.float32]) -> bytes:
        say(f"fitting the exit after {block}")
        weights, biases = logistic.fit(features, self._data.fit.labels, len(self._data.classes))
        operators = self._bundle.parts[self._bundle.block_names[-1]].operators
        (spec,) = self._bundle.parts[block].outputs
        return heads.head(spec, self._output, weights, biases, softmax="SOFTMAX" in operators)

    def _choose(self, observed: Observation) -> dict[str, Shortcut]:
        """Per residual block the plain shortcut, or a corrected one that is clearly better."""
        options = {n: [s, *observed.corrections(n)] for n, s in observed.shortcuts.items()}
        loaded = {
            name: [observed.load(name, option, str(i)) for i, option in enumerate(tried)]
            for name, tried in options.items()
        }
        right: dict[str, list[list[bool]]] = {name: [] for name in options}
        names = self._bundle.block_names
        for flows, label in self._passes(self._data.choice, "choosing corrections"):
            for at, name in enumerate(names):
                skips = [
                    part.run(flows[at]) if part else flows[at] for part in loaded.get(name, ())
                ]
                answers = [self._runner.run(names[at + 1 :], flow)[0] for flow in skips]
                if skips:
                    right[name].append([int(answer.argmax()) == label for answer in answers])
        return {name: options[name][better(np.array(right[name]))] for name in options}

    def _write(self, contents: dict[str, bytes], chosen: dict[str, Shortcut]) -> Bundle:
        """Write the new parts and a manifest whose accuracies are still empty."""
        manifest = self._bundle.manifest
        blocks: list[Block] = []
        parts: list[Part] = []
        for block in manifest.blocks:
            own = self._bundle.parts[block.part]
            added: dict[str, Any] = {}
            if block.part in contents:
                content = contents[block.part]
                added["exit"] = block.part.replace("block", "exit")
                parts.append(
                    self._new_part(added["exit"], "exit", content, own.outputs, (self._output,))
                )
            if block.part in chosen:
                added["skippable"] = True
                bypassing = chosen[block.part].content
                if bypassing is not None:
                    added["bypass"] = block.part.replace("block", "bypass")
                    parts.append(
                        self._new_part(
                            added["bypass"], "bypass", bypassing, own.inputs, own.outputs
                        )
                    )
            blocks.append(msgspec.structs.replace(block, **added))
        built = msgspec.structs.replace(
            manifest,
            blocks=tuple(blocks),
            parts=(*manifest.parts, *costed(parts, self._directory)),
            classes=self._data.classes,
        )
        return bundles.dump(built, self._directory)

    def _new_part(
        self,
        name: str,
        kind: bundles.PartKind,
        content: bytes,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> Part:
        path = self._directory / f"{name}.tflite"
        path.write_bytes(content)
        network = foreign.read(content, str(path))
        operators = tuple(network.operator_name(i) for i in range(len(network.operators)))
        return uncosted(path, kind, operators, inputs, outputs)

    def _measured(self, built: Bundle) -> Bundle:
        test = self._data.test
        images = self._prepared(test)
        wishes = self._wishes
        found = accuracy.measure(built, images, test.labels, wishes.longest_skip, wishes.processes)
        if found[0].correct == 0:  # the first is the whole network
            raise UsageError(
                f"{built.name} is right on none of {len(test.labels)} images; name its classes "
                "in the order of its outputs (--classes when importing it)"
            )
        figures = bundles.Accuracy("labelled images", self._form(), len(test.labels), found)
        return bundles.dump(
            msgspec.structs.replace(built.manifest, accuracy=figures), self._directory
        )

    def _form(self) -> str:
        height, width, _ = image_shape(self._bundle)
        return f"{width}x{height} pixels, not used to fit exits or corrections"


def say(what: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(f"{what}\n")
