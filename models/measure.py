"""What a part costs on the building machine: time to run, time to load, memory.

Memory is measured, not estimated: a fresh process loads copies of the part and reads
how its resident set grew. That counts the pages of the file that were touched, the
tensor arena and the weights that XNNPACK repacks. Linux only (``/proc/self/statm``).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from continuer.bundle import TensorSpec
from continuer.runtime import LoadedPart

#: Copies loaded for one reading of memory: pages are 4 KiB, a part is some hundred.
COPIES = 8
RUNS = 500


@dataclass(frozen=True)
class Cost:
    """Medians for one part: ``run`` (inputs copied in, invoke, outputs out), load, memory."""

    latency_us: float
    load_us: float
    memory_bytes: int


def measure(path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Cost:
    """Measure one ``.tflite`` file, in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (path, inputs, outputs))


def _measure(path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Cost:
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
        load_us=round(statistics.median(copy.load_us for copy in copies), 1),
        memory_bytes=max(memory, 0),
    )


def _resident_bytes() -> int:
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE")
