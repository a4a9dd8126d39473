"""A ``.tflite`` of others into a bundle. Runs in a cage (``continuer.caged``): see ``work``."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from continuer import bundle
from continuer.caged import doing
from continuer.errors import BundleError, ModelError
from continuer.runtime import LoadedPart, random_tensors
from models import measure
from models.imported import foreign
from models.imported.cut import Cut, Cutter, Piece
from models.imported.flatbuffer import Network, extract

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

#: Random inputs that blocks and halves are compared with the whole model on.
TRIALS = 3
NOT_MEASURED = bundle.Accuracy("nothing", "no labels were given", 0, ())


def work(
    file: str, directory: str, described: dict[str, Any], more: dict[str, Any]
) -> Iterator[Any]:
    """Check, run, cut, compare; writes the bundle into the empty ``directory``.

    What its parts cost is still 0: see ``cost``.

    ``described``: the manifest's fields that no file tells (name, version, description,
    licence, classes, preprocessing). ``more``: ``blocks``, how many at least, and
    ``every_cut``, to compare at every partition point and not only where blocks end. Yields
    one item, what the report shows besides the bundle. Raises ModelError.
    """
    source, target = Path(file), Path(directory)
    doing("reading it")
    network = foreign.read(source.read_bytes(), file)
    whole = Whole(source, network)
    cutter = Cutter(network)
    pieces = cutter.blocks(more["blocks"])
    names = [f"block{number:02}" for number in range(1, len(pieces) + 1)]
    for name, piece in zip(names, pieces, strict=True):
        doing(f"cutting out {name}")
        content = extract(network, piece.operators, piece.inputs, piece.outputs)
        (target / f"{name}.tflite").write_bytes(content)
    whole.compare_chain(
        [whole.load(target / f"{n}.tflite", p) for n, p in zip(names, pieces, strict=True)]
    )
    ends = {tuple(piece.outputs) for piece in pieces}
    chosen = [cut for cut in cutter.cuts.values() if more["every_cut"] or cut.tensors in ends]
    for cut in chosen:
        whole.compare_halves(cutter, cut, target / "half.tflite")
    parts = [_part(n, network, p, target) for n, p in zip(names, pieces, strict=True)]
    manifest = _manifest(network, parts, described)
    bundle.dump(manifest, target)
    yield {
        "operators": len(network.operators),
        "fixed_operators": len(network.fixed),
        "cuts": dict(Counter(str(len(cut.tensors)) for cut in cutter.cuts.values())),
        "compared_cuts": len(chosen),
        "residual": [n for n, p in zip(names, pieces, strict=True) if p.residual is not None],
    }


class Whole:
    """The whole model in memory: it must run, and what is cut from it must agree with it."""

    def __init__(self, path: Path, network: Network) -> None:
        self._path = path
        self._network = network
        self._inputs = [network.spec(t) for t in network.inputs]
        outputs = [network.spec(t) for t in network.outputs]
        model = _load(path, path, self._inputs, outputs)
        generator = np.random.default_rng(0)
        self._trials = [random_tensors(generator, self._inputs) for _ in range(TRIALS)]
        self._trials += [[_extreme(spec, end) for spec in self._inputs] for end in ("min", "max")]
        self._answers = [self._run(model, trial) for trial in self._trials]

    def _run(self, model: LoadedPart, trial: Sequence[Array]) -> list[Array]:
        doing("running it on random and extreme inputs")
        try:
            return model.run(trial)
        except (ValueError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise ModelError(f"{self._path}: fails for some inputs ({why})") from error

    def load(self, path: Path, piece: Piece) -> LoadedPart:
        """A piece that was written to the path, in memory."""
        inputs = [self._network.spec(t) for t in piece.inputs]
        return _load(path, self._path, inputs, [self._network.spec(t) for t in piece.outputs])

    def compare_chain(self, parts: Sequence[LoadedPart]) -> None:
        """Run the parts one after the other; raises ModelError unless all bits agree."""
        self._compare(parts, "its blocks one after the other")

    def compare_halves(self, cutter: Cutter, cut: Cut, scratch: Path) -> None:
        """Cut the model in two, and compare. ``scratch`` is written over, and removed."""
        halves = [
            cutter.piece(0, cut.position),
            cutter.piece(cut.position, len(cutter.order)),
        ]
        loaded = []
        for half in halves:
            doing(f"loading a half, cut after {cut.position} operators")
            content = extract(self._network, half.operators, half.inputs, half.outputs)
            scratch.write_bytes(content)
            loaded.append(self.load(scratch, half))
            scratch.unlink()
        self._compare(loaded, f"its halves, cut after {cut.position} operators,")

    def _compare(self, parts: Sequence[LoadedPart], what: str) -> None:
        for trial, answer in zip(self._trials, self._answers, strict=True):
            flow = list(trial)
            for part in parts:
                doing(f"running {what}")
                flow = part.run(flow)
            if any(a.tobytes() != b.tobytes() for a, b in zip(flow, answer, strict=True)):
                raise ModelError(
                    f"{self._path}: {what} give another answer than the whole model; it is not "
                    "imported (the runtime computes it differently when it sees less of it)"
                )


def _extreme(spec: bundle.TensorSpec, end: str) -> Array:
    """The smallest or largest values that an input may have; 8 standard deviations for floats."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return np.full(spec.shape, -8 if end == "min" else 8, dtype)
    if dtype.kind == "b" or dtype.itemsize > 2:  # indices, perhaps: see random_tensors
        return np.full(spec.shape, end == "max", dtype)
    return np.full(spec.shape, getattr(np.iinfo(dtype), end), dtype)


def _load(
    path: Path,
    whole: Path,
    inputs: Sequence[bundle.TensorSpec],
    outputs: Sequence[bundle.TensorSpec],
) -> LoadedPart:
    """The model, or a part of it, in memory. Raises ModelError, which names the whole model."""
    doing("loading it and running it on zeros" if path == whole else f"loading {path.name}")
    try:
        return LoadedPart(path, inputs, outputs)
    except ModelError as error:
        if path == whole:
            raise
        raise ModelError(f"{whole}: cut out of it, {error}") from error
    except BundleError as error:
        raise ModelError(
            f"{whole}: the runtime finds other shapes or types than the file says ({error}); "
            "convert the model for fixed shapes"
        ) from error


def _part(name: str, network: Network, piece: Piece, directory: Path) -> bundle.Part:
    """The block as the manifest has it; what it costs is still 0."""
    inputs = tuple(network.spec(t) for t in piece.inputs)
    outputs = tuple(network.spec(t) for t in piece.outputs)
    operators = tuple(network.operator_name(operator) for operator in piece.operators)
    return uncosted(directory / f"{name}.tflite", "block", operators, inputs, outputs)


def cost(directory: str, part: str) -> Iterator[dict[str, Any]]:
    """Yields one item, what a part of a bundle costs here, by the manifest's names.

    Each part in a cage of its own: nothing else may have touched the memory that is measured,
    and a caged process starts no other.
    """
    made = bundle.load(Path(directory))
    own = made.parts[part]
    doing(f"measuring {own.file}")
    yield asdict(measure.measure_here(made.file_of(part), own.inputs, own.outputs))


def uncosted(
    path: Path,
    kind: bundle.PartKind,
    operators: tuple[str, ...],
    inputs: tuple[bundle.TensorSpec, ...],
    outputs: tuple[bundle.TensorSpec, ...],
) -> bundle.Part:
    """A written file as a part; what it costs is still 0."""
    content = path.read_bytes()
    return bundle.Part(
        name=path.stem,
        kind=kind,
        file=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        memory_bytes=0,
        latency_us=0.0,
        load_us=0.0,
        operators=operators,
        inputs=inputs,
        outputs=outputs,
    )


def costed(parts: Sequence[bundle.Part], directory: Path) -> list[bundle.Part]:
    """The parts with what they cost on this machine."""
    files = [(directory / part.file, part.inputs, part.outputs) for part in parts]
    costs = measure.measure(files, passes=1)
    return [
        msgspec.structs.replace(part, **asdict(cost))
        for part, cost in zip(parts, costs, strict=True)
    ]


def _manifest(
    network: Network, parts: Sequence[bundle.Part], described: dict[str, Any]
) -> bundle.Manifest:
    """All blocks, none of them skippable: nobody knows yet how accurate that would be."""
    preprocessing = described.pop("preprocessing")
    return bundle.Manifest(
        schema=bundle.SCHEMA,
        input=bundle.InputSpec(
            tuple(network.spec(t) for t in network.inputs),
            preprocessing and msgspec.convert(preprocessing, bundle.Preprocessing),
        ),
        blocks=tuple(bundle.Block(part.name) for part in parts),
        parts=tuple(parts),
        accuracy=NOT_MEASURED,
        **described,
    )
