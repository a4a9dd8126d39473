"""Running parts with TensorFlow Lite's runtime, one thread each.

``Interpreter`` is used, not ``CompiledModel``: only ``Interpreter.invoke`` releases the
GIL, and a heartbeat thread lives beside it. Input and output details are read once; they
cost microseconds a call.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from continuer.bundle import Bundle, TensorSpec
from continuer.errors import BundleError, ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

WARM_RUNS = 5


def warm_up() -> None:
    """Import the runtime now: it takes a good part of a second and holds the GIL meanwhile."""
    import ai_edge_litert.interpreter  # noqa: F401  # for its side effect of being loaded


class LoadedPart:
    """One part in memory. Not for use by two threads at once.

    ``load_us``: create, allocate and first invoke. ``latency_us``: the best of a few runs
    at load time, a figure of this box. ``path`` is what messages call the file, ``source`` where
    it is read, if not there.
    """

    def __init__(
        self,
        path: Path,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        source: Path | None = None,
    ) -> None:
        # Imported here: clients and coordinators import this package without the runtime.
        from ai_edge_litert.interpreter import Interpreter

        started = time.perf_counter_ns()
        try:
            self._interpreter = Interpreter(model_path=str(source or path), num_threads=1)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise _refused(path, error) from error
        self._inputs = _indices(path, "input", self._interpreter.get_input_details(), inputs)
        self._outputs = _indices(path, "output", self._interpreter.get_output_details(), outputs)
        zeros = [np.zeros(spec.shape, spec.dtype) for spec in inputs]
        try:
            self.run(zeros)
        except (ValueError, RuntimeError) as error:
            raise _refused(path, error) from error
        self.load_us = (time.perf_counter_ns() - started) / 1e3
        self.latency_us = min(self._timed(zeros) for _ in range(WARM_RUNS))

    def run(self, tensors: Sequence[Array]) -> list[Array]:
        """Run once; arrays in and out have the shapes and dtypes of the manifest."""
        interpreter = self._interpreter
        for index, tensor in zip(self._inputs, tensors, strict=True):
            interpreter.set_tensor(index, tensor)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in self._outputs]

    def _timed(self, tensors: Sequence[Array]) -> float:
        started = time.perf_counter_ns()
        self.run(tensors)
        return (time.perf_counter_ns() - started) / 1e3


def _refused(path: Path, error: Exception) -> ModelError:
    why = " ".join(str(error).split()) or "it does not say why, often memory"
    return ModelError(
        f"{path}: the runtime refuses this file ({why}); get the file anew, or build the bundle "
        "again"
    )


def _indices(
    path: Path, what: str, details: list[dict[str, Any]], specs: Sequence[TensorSpec]
) -> list[int]:
    """Tensor indices in the manifest's order; raises BundleError where they differ."""
    found = [(tuple(int(n) for n in d["shape"]), np.dtype(d["dtype"]).name) for d in details]
    wanted = [(spec.shape, spec.dtype) for spec in specs]
    if found != wanted:
        raise BundleError(
            f"{path}: {what} tensors {found}, the manifest says {wanted}; build the bundle again"
        )
    return [int(d["index"]) for d in details]


def random_tensors(generator: np.random.Generator, specs: Sequence[TensorSpec]) -> list[Array]:
    """Random inputs: about normal for floats, all values for bytes, 0 or 1 for wide integers.

    Wide integers often are indices into something, of which nobody knows how long it is.
    """
    return [_random(generator, spec) for spec in specs]


def _random(generator: np.random.Generator, spec: TensorSpec) -> Array:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return generator.standard_normal(spec.shape).astype(dtype)
    if dtype.kind == "b" or dtype.itemsize > 2:
        return generator.integers(0, 2, spec.shape).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, spec.shape, dtype, endpoint=True)


def load_part(bundle: Bundle, name: str) -> LoadedPart:
    """Check the part's file against the manifest, and load what was checked."""
    part = bundle.parts[name]
    path = bundle.file_of(name)
    with bundle.open_verified(name) as file:
        # The path may lead to another file by now; the descriptor does not.
        opened = Path("/proc/self/fd") / str(file.fileno())
        source = opened if sys.platform.startswith("linux") else path
        return LoadedPart(path, part.inputs, part.outputs, source)


class PathRunner:
    """Runs whole paths in one process: the oracle that answers are checked against."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._loaded: dict[str, LoadedPart] = {}

    def part(self, name: str) -> LoadedPart:
        """The part, loaded at first use."""
        if name not in self._loaded:
            self._loaded[name] = load_part(self._bundle, name)
        return self._loaded[name]

    def run(self, path: Sequence[str], tensors: Sequence[Array]) -> list[Array]:
        """Run the parts of a path one after the other on the given inputs."""
        flow = list(tensors)
        for name in path:
            flow = self.part(name).run(flow)
        return flow
