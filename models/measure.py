"""What a part costs on the building machine: time to run, time to load, memory.

Each part is measured in fresh processes, in several passes over all parts. Other work
on the machine can only slow a part down, and comes and goes: the best pass counts.

Memory is measured, not estimated: a process loads copies of the part and reads how its
resident set grew. That counts the pages of the file that were touched, the tensor
arena, and the weights that XNNPACK repacks. Linux only (``/proc/self/statm``).
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from continuer.bundle import TensorSpec
from continuer.runtime import LoadedPart

#: Copies for one reading of memory, so that pages of 4 KiB do not round a part off.
COPIES = 8
RUNS = 300

#: A ``.tflite`` file and its tensors.
File = tuple[Path, Sequence[TensorSpec], Sequence[TensorSpec]]


@dataclass(frozen=True)
class Cost:
    """Figures for one part, by the names they have in the manifest.

    ``latency_us``: median of a run, which is to copy the inputs in, invoke, and copy the
    outputs out. ``load_us``: the quickest of the copies to be created, allocated and
    first invoked. ``memory_bytes``: growth of the resident set.
    """

    latency_us: float
    load_us: float
    memory_bytes: int


def measure(files: Sequence[File], passes: int) -> list[Cost]:
    """The cost of each file, the best of the passes. Progress goes to stderr."""
    found = []
    for number in range(1, passes + 1):
        sys.stderr.write(f"cost: pass {number} of {passes} over {len(files)} parts\n")
        found.append([_in_fresh_process(file) for file in files])
    return [_best(costs) for costs in zip(*found, strict=True)]


def _best(costs: Sequence[Cost]) -> Cost:
    """Quickest pass for times, the middle one for memory, which load does not change."""
    return Cost(
        latency_us=min(cost.latency_us for cost in costs),
        load_us=min(cost.load_us for cost in costs),
        memory_bytes=int(statistics.median(cost.memory_bytes for cost in costs)),
    )


def _in_fresh_process(file: File) -> Cost:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_here, file)


def measure_here(path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Cost:
    """The cost of a file in this process, which has run no other model yet."""
    # The first load brings in the runtime itself, which is no cost of the part.
    part = LoadedPart(path, inputs, outputs)
    before = _resident_bytes()
    copies = [LoadedPart(path, inputs, outputs) for _ in range(COPIES)]
    memory = (_resident_bytes() - before) // COPIES
    generator = np.random.default_rng(0)
    tensors = [generator.random(spec.shape).astype(spec.dtype) for spec in inputs]
    latencies = []
    for _ in range(RUNS):
        started = time.perf_counter_ns()
        part.run(tensors)
        latencies.append((time.perf_counter_ns() - started) / 1e3)
    return Cost(
        latency_us=round(statistics.median(latencies), 1),
        load_us=round(min(copy.load_us for copy in copies), 1),
        memory_bytes=memory,
    )


def _resident_bytes() -> int:
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE")
