"""A bundle: a network cut into blocks and ready to deploy.

A bundle is a directory with ``manifest.json`` and one ``.tflite`` file per *part*.
A part is a block, an exit head, or a bypass (what runs in a skipped block's stead).
A *path* is a sequence of part names that leads from the input to an output; the
*variant* of a path says which blocks it skipped and at which exit it left.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np

from continuer.errors import BundleError

MANIFEST = "manifest.json"
SCHEMA = 1
MAX_MANIFEST_BYTES = 4 << 20
MAX_PART_BYTES = 1 << 30

SHA256 = re.compile(r"[0-9a-f]{64}")

PartKind = Literal["block", "exit", "bypass"]
DTYPES = {
    "float32": 4,
    "float16": 2,
    "float64": 8,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "bool": 1,
}


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class TensorSpec(_Strict, frozen=True):
    """One tensor at a partition point: full shape (batch of 1 first), dtype, quantisation."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    scale: float | None = None
    zero_point: int | None = None

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype]


class Preprocessing(_Strict, frozen=True):
    """How a uint8 image becomes the input: ``(x / divisor - mean) / std`` per channel."""

    layout: str
    colour: str
    divisor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class InputSpec(_Strict, frozen=True):
    """The network's inputs and how an image is prepared for them."""

    tensors: tuple[TensorSpec, ...]
    preprocessing: Preprocessing | None = None

    @property
    def mark(self) -> bytes:
        """The same for all networks whose inputs are prepared in the same way: 8 bytes."""
        return hashlib.sha256(msgspec.json.encode(self)).digest()[:8]


class Part(_Strict, frozen=True):
    """One ``.tflite`` file and what was measured of it when the bundle was built.

    ``latency_us`` is the median of ``invoke`` on one thread of the building machine,
    ``load_us`` the time to create, allocate and first invoke from a warm cache;
    agents report their own figures when they load the part.
    """

    name: str
    kind: PartKind
    file: str
    sha256: str
    bytes: int
    memory_bytes: int
    latency_us: float
    load_us: float
    operators: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Block(_Strict, frozen=True):
    """The unit of placement. ``part`` runs it; when skipped, ``bypass`` runs, or nothing.

    ``exit`` is the exit head that may be run on this block's output.
    """

    part: str
    skippable: bool = False
    bypass: str | None = None
    exit: str | None = None


class Variant(_Strict, frozen=True):
    """Accuracy measured for one way to run the network: ``correct`` of ``total`` images."""

    correct: int
    total: int
    exit: str | None = None
    skipped: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.correct / self.total

    @property
    def interval_95(self) -> tuple[float, float]:
        """Bounds between which the accuracy on all images of this kind lies (Wilson, 95 %)."""
        share, n, z = self.accuracy, self.total, 1.96
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return max(0.0, centre - reach), min(1.0, centre + reach)


class Accuracy(_Strict, frozen=True):
    """Measured accuracy per variant, and on which data in which form."""

    data: str
    form: str
    images: int
    variants: tuple[Variant, ...]


class Manifest(_Strict, frozen=True):
    """The whole manifest; ``Bundle`` adds the directory and the derived look-ups.

    ``recipe``: how the weights were trained (seed, epochs, form of the data and so on).
    """

    schema: int
    name: str
    version: str
    description: str
    licence: str
    input: InputSpec
    classes: tuple[str, ...]
    blocks: tuple[Block, ...]
    parts: tuple[Part, ...]
    accuracy: Accuracy
    recipe: dict[str, str | int | float | bool] | None = None


def find_path(
    model: str, blocks: Sequence[Block], skipped: Iterable[str], exit_name: str | None
) -> tuple[str, ...]:
    """The part names that run a variant of the model with the given blocks, in order.

    Raises BundleError when a block is not skippable or the exit does not exist.
    """
    out = set(skipped)
    names: list[str] = []
    for block in blocks:
        if block.part not in out:
            names.append(block.part)
        elif not block.skippable:
            raise BundleError(f"block {block.part!r} of {model} cannot be skipped; re-home it")
        elif block.bypass is not None:
            names.append(block.bypass)
        if exit_name is not None and block.exit == exit_name:
            return (*names, exit_name)
    if exit_name is not None:
        exits = sorted(block.exit for block in blocks if block.exit is not None)
        raise BundleError(
            f"exit {exit_name!r} does not exist in {model}; it has {', '.join(exits) or 'none'}"
        )
    return tuple(names)


class Bundle:
    """A loaded manifest and its directory.

    ``hash`` identifies the bundle on the wire: SHA-256 of the manifest's bytes, which
    contain the SHA-256 of every file. With ``by_hash`` files are named by their SHA-256, as in
    an agent's store; they need not be there yet.
    """

    def __init__(
        self, directory: Path, manifest: Manifest, digest: bytes, *, by_hash: bool = False
    ) -> None:
        self.directory = directory
        self.by_hash = by_hash
        self.manifest = manifest
        self.hash = digest
        self.parts = {part.name: part for part in manifest.parts}
        self.part_names = tuple(part.name for part in manifest.parts)
        self.part_ids = {name: index for index, name in enumerate(self.part_names)}
        self.block_names = tuple(block.part for block in manifest.blocks)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.manifest.name

    @cached_property
    def built_latency_us(self) -> tuple[float, ...]:
        """Latency of every part on the machine that built the bundle, by part number."""
        return tuple(part.latency_us for part in self.manifest.parts)

    @cached_property
    def input_bytes(self) -> tuple[int, ...]:
        """Size of the tensors that go into each part, by part number."""
        return tuple(sum(t.nbytes for t in part.inputs) for part in self.manifest.parts)

    @cached_property
    def exit_after(self) -> dict[int, int]:
        """The exit that may be run on a block's output, both by part number."""
        blocks = self.manifest.blocks
        return {self.part_ids[b.part]: self.part_ids[b.exit] for b in blocks if b.exit is not None}

    @cached_property
    def _accuracies(self) -> dict[tuple[str | None, frozenset[str]], float]:
        return {(v.exit, frozenset(v.skipped)): v.accuracy for v in self.manifest.accuracy.variants}

    @cached_property
    def _block_of_exit(self) -> dict[str, int]:
        return {b.exit: i for i, b in enumerate(self.manifest.blocks) if b.exit is not None}

    def variant_of(self, path: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
        """The (exit, skipped blocks) of a path of part names."""
        exit_name = path[-1] if path and self.parts[path[-1]].kind == "exit" else None
        last = self._block_of_exit[exit_name] if exit_name else len(self.block_names) - 1
        ran = set(path)
        return exit_name, tuple([n for n in self.block_names[: last + 1] if n not in ran])

    def path(self, skipped: Iterable[str] = (), exit_name: str | None = None) -> tuple[str, ...]:
        """The part names that run the variant, in order.

        Raises BundleError when a block is not skippable or the exit does not exist.
        """
        return find_path(self.name, self.manifest.blocks, skipped, exit_name)

    def measured_accuracy(self, path: Sequence[str]) -> float | None:
        """Measured accuracy of the path's variant, or None where it was not measured."""
        return self.variant_accuracy(*self.variant_of(path))

    def variant_accuracy(self, exit_name: str | None, skipped: Iterable[str]) -> float | None:
        """Measured accuracy of a variant, or None where it was not measured."""
        return self._accuracies.get((exit_name, frozenset(skipped)))

    def file_of(self, part: str) -> Path:
        """Path of the part's ``.tflite`` file."""
        spec = self.parts[part]
        return self.directory / (spec.sha256 if self.by_hash else spec.file)

    @cached_property
    def files(self) -> dict[bytes, Path]:
        """Every file of the bundle by its SHA-256, the manifest too."""
        manifest = self.directory / (self.hash.hex() if self.by_hash else MANIFEST)
        found = {
            bytes.fromhex(part.sha256): self.file_of(part.name) for part in self.parts.values()
        }
        return {**found, self.hash: manifest}

    def verify_file(self, part: str) -> None:
        """Raise BundleError unless the part's file is there and unaltered."""
        self.open_verified(part).close()

    def open_verified(self, part: str) -> BinaryIO:
        """The part's file, opened and found unaltered; raises BundleError.

        Whoever loads it has to load what is open here: another may lie there by then.
        """
        path = self.file_of(part)
        try:
            file = path.open("rb")
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}; copy the bundle again") from error
        try:
            self._verify(part, path, file)
        except BaseException:
            file.close()
            raise
        return file

    def _verify(self, part: str, path: Path, file: BinaryIO) -> None:
        spec = self.parts[part]
        try:
            size = os.fstat(file.fileno()).st_size
            if size != spec.bytes:
                raise BundleError(
                    f"{path}: {size} bytes, the manifest says {spec.bytes}; "
                    "the file is truncated or altered, copy the bundle again"
                )
            digest = hashlib.sha256(file.read()).hexdigest()
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}; copy the bundle again") from error
        if digest != spec.sha256:
            raise BundleError(
                f"{path}: SHA-256 {digest[:16]}..., the manifest says {spec.sha256[:16]}...; "
                "the file is altered, copy the bundle again"
            )

    def verify_files(self) -> None:
        """Check every file's size and SHA-256; raises BundleError on the first that differs."""
        for name in self.parts:
            self.verify_file(name)


def load(directory: Path | str) -> Bundle:
    """Read and check a bundle's manifest. Files are checked by ``verify_file``.

    Raises BundleError naming the file, the field and the remedy.
    """
    return _load(Path(directory) / MANIFEST, by_hash=False)


def load_stored(path: Path) -> Bundle:
    """A bundle whose files, and this manifest, are named by their SHA-256; raises BundleError."""
    return _load(path, by_hash=True)


def _load(path: Path, *, by_hash: bool) -> Bundle:
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path}: larger than {MAX_MANIFEST_BYTES} bytes; not a manifest")
        raw = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: {error.strerror}; give the directory of a bundle, one that holds {MANIFEST}"
        ) from error
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {error}; the manifest is damaged, copy it again") from error
    _check(path, manifest)
    return Bundle(path.parent, manifest, hashlib.sha256(raw).digest(), by_hash=by_hash)


def dump(manifest: Manifest, directory: Path) -> Bundle:
    """Write the manifest, one field a line, and load it back (which checks it)."""
    text = json.dumps(msgspec.to_builtins(manifest), indent=1) + "\n"
    (directory / MANIFEST).write_text(text)
    return load(directory)


def _check(path: Path, manifest: Manifest) -> None:
    """What the types cannot say: references, shapes that chain, safe file names."""

    def require(condition: bool, problem: str) -> None:
        if not condition:
            raise BundleError(f"{path}: {problem}; build or copy the bundle again")

    require(manifest.schema == SCHEMA, f"schema {manifest.schema} is not {SCHEMA}")
    parts = {part.name: part for part in manifest.parts}
    require(len(parts) == len(manifest.parts), "parts: a name occurs twice")
    require(len(manifest.blocks) > 0, "blocks: empty")
    for part in manifest.parts:
        require(
            Path(part.file).name == part.file and part.file not in ("", ".", ".."),
            f"parts.{part.name}.file = {part.file!r} is not a plain file name",
        )
        require(
            SHA256.fullmatch(part.sha256) is not None,
            f"parts.{part.name}.sha256 = {part.sha256!r} is not 64 digits of 0-9, a-f",
        )
        require(0 < part.bytes <= MAX_PART_BYTES, f"parts.{part.name}.bytes = {part.bytes}")
        require(bool(part.inputs and part.outputs), f"parts.{part.name}: no tensors")
        for tensor in (*part.inputs, *part.outputs):
            require(tensor.dtype in DTYPES, f"parts.{part.name}: unknown dtype {tensor.dtype!r}")
            require(all(n > 0 for n in tensor.shape), f"parts.{part.name}: shape {tensor.shape}")
    _check_chain(require, manifest, parts)
    for variant in manifest.accuracy.variants:
        require(
            0 <= variant.correct <= variant.total and variant.total > 0,
            f"accuracy: {variant.correct} of {variant.total}",
        )
        # Other variants are judged relative to it.
        whole = variant.exit is None and not variant.skipped
        require(variant.correct > 0 or not whole, "accuracy: the whole network is never right")


def _check_chain(
    require: Callable[[bool, str], None], manifest: Manifest, parts: dict[str, Part]
) -> None:
    """Every block must fit what precedes it; exits and bypasses where they branch off."""
    flow = manifest.input.tensors
    for block in manifest.blocks:
        for name, kind in ((block.part, "block"), (block.bypass, "bypass"), (block.exit, "exit")):
            if name is not None:
                require(name in parts, f"blocks: unknown part {name!r}")
                require(parts[name].kind == kind, f"blocks: part {name!r} is no {kind}")
        own = parts[block.part]
        require(_same(flow, own.inputs), f"block {block.part!r} does not fit what precedes it")
        if block.skippable:
            after = parts[block.bypass].outputs if block.bypass else own.inputs
            require(_same(after, own.outputs), f"skipping {block.part!r} changes the shape")
        flow = own.outputs
        if block.exit is not None:
            require(_same(flow, parts[block.exit].inputs), f"exit {block.exit!r} does not fit")


def tensor_problem(
    specs: Sequence[TensorSpec], arrays: Sequence[np.ndarray[Any, Any]]
) -> str | None:
    """What is wrong with arrays for the given specs, with the remedy; None if nothing."""
    if len(arrays) != len(specs):
        return f"{len(arrays)} tensors; give {len(specs)}"
    for spec, array in zip(specs, arrays, strict=True):
        if array.shape != spec.shape:
            return f"tensor {spec.name!r}: shape {array.shape}; give {spec.shape}"
        if array.dtype != spec.dtype:
            return f"tensor {spec.name!r}: dtype {array.dtype}; give {spec.dtype}"
    return None


def _same(left: Sequence[TensorSpec], right: Sequence[TensorSpec]) -> bool:
    return [(t.shape, t.dtype) for t in left] == [(t.shape, t.dtype) for t in right]
