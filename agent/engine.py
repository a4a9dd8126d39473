"""The parts that this agent has in memory, within its budget."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from continuer.bundle import Bundle
from continuer.errors import BundleError, ContinuerError
from continuer.runtime import LoadedPart, load_part, warm_up
from continuer.wire import PartTiming

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

# How much too late a sleeping thread may wake.
SLACK_NS = 200_000


# A request's client and sequence number.
Request = tuple[bytes, int]


def request_name(client: bytes, seq: int) -> str:
    """What errors and the journal call a request: its client's id in hex, and its number."""
    return f"{client.hex()}/{seq}"


class AbsentError(Exception):
    """A part is not in memory; ``part`` is its number."""

    def __init__(self, part: int) -> None:
        super().__init__(part)
        self.part = part


class EngineDiedError(ContinuerError):
    """What ran the parts died of it, and is there again."""


class Costs(Protocol):
    """What a loaded part costs on this box."""

    @property
    def latency_us(self) -> float:
        """To run it once."""

    @property
    def load_us(self) -> float:
        """To load it."""


class Runner(Protocol):
    """Where the parts are, and what runs them. For ``load`` and ``run`` of two threads at once."""

    #: What a run costs besides its parts.
    overhead_us: float

    @property
    def pid(self) -> int:
        """The process in which the parts are, besides this one; -1 for none."""

    def load(self, part: int) -> Costs:
        """Have a part in memory. Raises BundleError."""

    def unload(self, part: int) -> None:
        """Free a loaded part's memory."""

    def holds(self, part: int) -> bool:
        """The part is loaded: nothing has happened to it since."""

    def run(
        self, parts: Sequence[int], tensors: Sequence[Array], request: Request | None
    ) -> list[Array]:
        """Run loaded parts one after the other.

        Raises AbsentError where one is not loaded (any more), EngineDiedError, and what the runtime
        does: BundleError, ValueError or RuntimeError.
        """

    def stop(self) -> None:
        """The end."""


class InProcess:
    """A ``Runner``: the parts are in the agent's own process."""

    overhead_us = 0.0
    pid = -1

    def __init__(self, bundle: Bundle) -> None:
        warm_up()
        self._bundle = bundle
        self._parts: dict[int, LoadedPart] = {}

    def load(self, part: int) -> LoadedPart:
        """See ``Runner``."""
        self._parts[part] = loaded = load_part(self._bundle, self._bundle.part_names[part])
        return loaded

    def unload(self, part: int) -> None:
        """See ``Runner``. The running thread may hold it for one more call."""
        del self._parts[part]

    def holds(self, part: int) -> bool:
        """See ``Runner``."""
        return part in self._parts

    def run(self, parts: Sequence[int], tensors: Sequence[Array], _: Request | None) -> list[Array]:
        """See ``Runner``."""
        try:
            loaded = [self._parts[part] for part in parts]
        except KeyError as error:
            raise AbsentError(int(error.args[0])) from None
        flow = list(tensors)
        for one in loaded:
            flow = one.run(flow)
        return flow

    def stop(self) -> None:
        """Nothing runs by itself."""


class Engine:
    """Loads parts (any thread) and runs them (whoever holds ``lock``).

    A part that is needed but absent is loaded on the spot: slower, but never an error. A
    part beyond the memory budget is refused when prepared, and then loaded only if needed.
    ``slowdown``: how many times as long everything takes as it would by itself. ``runner``: what
    has the parts, in this very process unless given.
    """

    def __init__(
        self,
        bundle: Bundle,
        memory_bytes: float,
        slowdown: float = 1.0,
        runner: Runner | None = None,
    ) -> None:
        self._bundle = bundle
        self._memory_bytes = memory_bytes
        self._slowdown = slowdown
        self._runner = InProcess(bundle) if runner is None else runner
        self._loaded: dict[int, Costs] = {}
        self._loading = threading.Lock()
        self.lock = threading.Lock()

    def latency_us(self, parts: Sequence[int]) -> float:
        """How long the parts take here; infinite while one is not in memory."""
        # Looked up once each: the loader may evict a part between two look-ups.
        loaded = [self._loaded.get(part) for part in parts]
        alone = sum(math.inf if part is None else part.latency_us for part in loaded)
        return (alone + self._runner.overhead_us) * self._slowdown

    def run(
        self, parts: Sequence[int], tensors: Sequence[Array], request: Request | None = None
    ) -> list[Array]:
        """Run parts one after the other, for a request that is named if it kills the engine.

        Raises BundleError where one cannot be loaded, and what ``Runner.run`` does.
        """
        started = time.perf_counter_ns()
        while True:
            try:
                flow = self._runner.run(parts, tensors, request)
                break
            except AbsentError as error:
                self._load(error.part)
        if self._slowdown > 1:
            self._drag(started)
        return flow

    @property
    def pid(self) -> int:
        """The process in which the parts are, besides this one; -1 for none."""
        return self._runner.pid

    def stop(self) -> None:
        """The end: nothing is run any more."""
        self._runner.stop()

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
                problems.append(_naming(self._bundle.part_names[part], str(error)))
        return problems

    def release(self) -> None:
        """Let all parts go; what is still asked for is loaded on the spot."""
        with self._loading:
            for part in [*self._loaded]:
                del self._loaded[part]
                self._runner.unload(part)

    def timings(self) -> tuple[PartTiming, ...]:
        """What is loaded, and what each part costs on this box."""
        return tuple(
            PartTiming(part, loaded.latency_us * self._slowdown, loaded.load_us)
            for part, loaded in sorted(self._loaded.items())
        )

    def _load(self, part: int) -> Costs:
        with self._loading:
            if part not in self._loaded or not self._runner.holds(part):
                self._loaded[part] = self._runner.load(part)
            return self._loaded[part]

    def _make_room(self, part: int, keep: frozenset[int]) -> None:
        sizes = [p.memory_bytes for p in self._bundle.manifest.parts]
        with self._loading:
            used = sum(sizes[p] for p in self._loaded)
            for other in [p for p in self._loaded if p not in keep]:
                if used + sizes[part] <= self._memory_bytes:
                    break
                del self._loaded[other]
                self._runner.unload(other)
                used -= sizes[other]
        if used + sizes[part] > self._memory_bytes:
            raise BundleError(
                f"part {self._bundle.part_names[part]!r}: needs {sizes[part]} bytes, "
                f"{self._memory_bytes - used:.0f} are left; raise 'memory_mib'"
            )


def _naming(part: str, problem: str) -> str:
    """The problem with the part's name; files in a store are named by their hashes only."""
    return problem if repr(part) in problem else f"part {part!r}: {problem}"
