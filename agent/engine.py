"""The parts that this agent has in memory, within its budget."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from continuer.bundle import Bundle
from continuer.errors import BundleError
from continuer.runtime import LoadedPart, load_part, warm_up
from continuer.wire import PartTiming

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

# How much too late a sleeping thread may wake.
SLACK_NS = 200_000


class Engine:
    """Loads parts (any thread) and runs them (whoever holds ``lock``).

    A part that is needed but absent is loaded on the spot: slower, but never an error. A
    part beyond the memory budget is refused when prepared, and then loaded only if needed.
    ``slowdown``: how many times as long everything takes as it would by itself.
    """

    def __init__(self, bundle: Bundle, memory_bytes: float, slowdown: float = 1.0) -> None:
        warm_up()
        self._bundle = bundle
        self._memory_bytes = memory_bytes
        self._slowdown = slowdown
        self._loaded: dict[int, LoadedPart] = {}
        self._loading = threading.Lock()
        self.lock = threading.Lock()

    def latency_us(self, parts: Sequence[int]) -> float:
        """How long the parts take here; infinite while one is not in memory."""
        # Looked up once each: the loader may evict a part between two look-ups.
        loaded = [self._loaded.get(part) for part in parts]
        alone = sum(math.inf if part is None else part.latency_us for part in loaded)
        return alone * self._slowdown

    def run(self, parts: Sequence[int], tensors: Sequence[Array]) -> list[Array]:
        """Run parts one after the other. Raises BundleError where one cannot be loaded."""
        started = time.perf_counter_ns()
        flow = list(tensors)
        for part in parts:
            loaded = self._loaded.get(part)
            if loaded is None:
                loaded = self._load(part)
            flow = loaded.run(flow)
        if self._slowdown > 1:
            self._drag(started)
        return flow

    def _drag(self, started_ns: int) -> None:
        """Be as slow as a slower box: a delay in proportion to the time since ``started_ns``."""
        spent_ns = time.perf_counter_ns() - started_ns
        until_ns = started_ns + int(spent_ns * self._slowdown)
        while (left_ns := until_ns - time.perf_counter_ns()) > 0:
            # Sleeping ends late by the system's timer slack, so the last of it is spent awake.
            time.sleep(max(0, left_ns - SLACK_NS) / 1e9)

    def has(self, part: int) -> bool:
        """The part is in memory."""
        return part in self._loaded

    def prepare(
        self,
        parts: Sequence[int],
        pause_s: float = 0.0,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> list[str]:
        """Have these parts in memory; others leave where the budget demands it.

        Loading holds the GIL for a good part of a millisecond: a pause after each part lets
        the work through where there is no hurry. ``interrupted`` is looked at before each: once
        true, the rest is left. Returns problems, one per part that could not be loaded.
        """
        problems = []
        for part in parts:
            if part in self._loaded:
                continue
            if interrupted():
                break
            try:
                self._make_room(part, frozenset(parts))
                self._load(part)
                time.sleep(pause_s)
            except BundleError as error:
                problems.append(str(error))
        return problems

    def timings(self) -> tuple[PartTiming, ...]:
        """What is loaded, and what each part costs on this box."""
        return tuple(
            PartTiming(part, loaded.latency_us * self._slowdown, loaded.load_us)
            for part, loaded in sorted(self._loaded.items())
        )

    def _load(self, part: int) -> LoadedPart:
        with self._loading:
            loaded = self._loaded.get(part)
            if loaded is None:
                loaded = load_part(self._bundle, self._bundle.part_names[part])
                self._loaded[part] = loaded
            return loaded

    def _make_room(self, part: int, keep: frozenset[int]) -> None:
        sizes = [p.memory_bytes for p in self._bundle.manifest.parts]
        with self._loading:
            used = sum(sizes[p] for p in self._loaded)
            for other in [p for p in self._loaded if p not in keep]:
                if used + sizes[part] <= self._memory_bytes:
                    break
                # The running thread may hold it for one more call: it keeps a reference.
                del self._loaded[other]
                used -= sizes[other]
        if used + sizes[part] > self._memory_bytes:
            raise BundleError(
                f"part {self._bundle.part_names[part]!r}: needs {sizes[part]} bytes, "
                f"{self._memory_bytes - used:.0f} are left; raise 'memory_mib'"
            )
