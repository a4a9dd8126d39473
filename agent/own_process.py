"""Parts in a process of their own: what a part does to its process does nothing to the agent.

A crash, a hang or an abort costs the request that was in the engine one attempt, and the stage
the milliseconds until a fresh worker has the parts in memory again. The ingress sends the request
anew, and gives it up when that kills an engine too (``agent/ingress_core.py``).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from agent import engine_worker
from agent.engine import AbsentError, EngineDiedError, Request, request_name
from agent.engine_process import DeadError, EngineProcess, RefusedError
from agent.engine_worker import Order, needed
from continuer.bundle import Bundle
from continuer.errors import BundleError, ContinuerError, ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

MIB = 1 << 20
PINGS = 50
# A run may take so many times as long as its parts took when they were loaded, or the deadline.
SLOWER = 8
# What the parts may use, where the configuration says nothing: this, and so many times what was
# measured of them when the bundle was built.
SPARE_BYTES, TIMES_BUILT = 256 * MIB, 2
# A worker that had died before it was asked is replaced, and the next one asked.
ATTEMPTS = 2
EXPOSED = (
    "neither a system call filter nor a network namespace is to be had here: the engine's process "
    "has limits, but could open connections; run it on a kernel with seccomp (x86-64, aarch64)"
)
STOPPED = "the engine has ended; its bundle is not served any more"
BROKEN = "the part is damaged or hostile; have 'continuer model verify' look at the bundle"


class Held(msgspec.Struct, frozen=True):
    """A part in the worker's memory: what it costs, as measured there."""

    latency_us: float
    load_us: float
    inputs: list[Any]
    outputs: list[Any]


class OwnProcess:
    """A ``Runner``. ``emit`` writes events, from whichever thread found out.

    ``memory_bytes``: what all parts may use; None for an allowance that follows from the bundle.
    Raises EngineLostError where no process can be started.
    """

    def __init__(
        self,
        bundle: Bundle,
        memory_bytes: int | None,
        deadline_s: float,
        emit: Callable[..., None],
    ) -> None:
        self._bundle = bundle
        self._emit = emit
        self._held: dict[int, Held] = {}
        self._wanted: set[int] = set()  # what was loaded; after a restart more than is held
        self._open = True
        self._turn = threading.Lock()
        parts = bundle.manifest.parts
        self._half = max(max(needed(part.inputs), needed(part.outputs)) for part in parts)
        built = sum(part.memory_bytes for part in parts)
        allowed = memory_bytes or SPARE_BYTES + TIMES_BUILT * built
        self._process = EngineProcess(2 * self._half, allowed, deadline_s)
        closed_by = self._process.start()
        self.overhead_us = min(self._ping_us() for _ in range(PINGS))
        emit("engine_started", closed_by=closed_by, hop_us=round(self.overhead_us, 1))
        if not closed_by:
            emit("engine_exposed", problem=EXPOSED)

    @property
    def pid(self) -> int:
        """The worker's process, -1 while there is none."""
        return self._process.pid

    def load(self, part: int) -> Held:
        """See ``Runner``. A part that kills the engine is a ModelError, and not loaded."""
        problem = STOPPED
        with self._turn:
            for _ in range(ATTEMPTS if self._open else 0):
                try:
                    if part not in self._held:
                        self._held[part] = self._load(part)
                except DeadError as death:
                    self._wanted.discard(part)
                    problem = self._restart(f"loading {self._names([part])}", death, (), "")
                    if death.begun:
                        problem = f"{problem}; {BROKEN}"
                        break
                else:
                    self._wanted.add(part)
                    return self._held[part]
        raise ModelError(f"{self._file(part)}: {problem}")

    def unload(self, part: int) -> None:
        """See ``Runner``."""
        with self._turn:
            self._wanted.discard(part)
            if self._held.pop(part, None) is None or not self._open:
                return
            try:
                self._process.unload(part)
            except DeadError as death:
                self._restart(f"dropping {self._names([part])}", death, (), "")

    def holds(self, part: int) -> bool:
        """See ``Runner``."""
        return part in self._held

    def run(
        self, parts: Sequence[int], tensors: Sequence[Array], request: Request | None
    ) -> list[Array]:
        """See ``Runner``."""
        problem = STOPPED
        with self._turn:
            for _ in range(ATTEMPTS if self._open else 0):
                try:
                    held = [self._held[part] for part in parts]
                except KeyError as error:
                    raise AbsentError(int(error.args[0])) from None
                for place, tensor in zip(held[0].inputs, tensors, strict=True):
                    np.copyto(place, tensor)
                expected_s = sum(one.latency_us for one in held) / 1e6
                try:
                    self._process.run(parts, expected_s * SLOWER)
                    return [place.copy() for place in held[-1].outputs]
                except RefusedError as error:
                    raise ModelError(str(error)) from error
                except DeadError as death:
                    doing = f"running {self._names(parts)}"
                    name = "" if request is None else request_name(*request)
                    problem = self._restart(doing, death, parts, name)
                    if death.begun:
                        break
        raise EngineDiedError(problem)

    def stop(self) -> None:
        """End the processes."""
        with self._turn:
            self._open = False
            self._process.close()

    def _load(self, part: int) -> Held:
        spec = self._bundle.manifest.parts[part]
        order = Order(part, self._file(part), spec.inputs, spec.outputs)
        with self._bundle.open_verified(spec.name) as file:
            try:
                latency_us, load_us = self._process.load(order, file)
            except RefusedError as error:
                raise ModelError(str(error)) from error
        memory = self._process.memory
        return Held(
            latency_us, load_us,
            engine_worker.places(memory, 0, spec.inputs),
            engine_worker.places(memory, self._half, spec.outputs),
        )  # fmt: skip

    def _restart(self, doing: str, death: DeadError, first: Sequence[int], request: str) -> str:
        """A fresh worker; what the old one died of.

        It has the parts ``first``, where the old one had them. The others follow while it works.
        """
        begun = time.monotonic_ns()
        problem = self._process.bury(doing, death)
        self._start_with([part for part in first if part in self._wanted])
        restart_ms = (time.monotonic_ns() - begun) / 1e6
        self._emit(
            "engine_restarted",
            problem=problem,
            # A request is not to blame for a death that came before it.
            request=request if death.begun else "",
            parts=len(self._wanted),
            restart_ms=round(restart_ms, 1),
        )
        threading.Thread(target=self._load_others, name="engine", daemon=True).start()
        return problem

    def _start_with(self, parts: list[int]) -> None:
        """Start a worker and load these, but for what cannot be loaded any more.

        Whoever needs such a part has it loaded, and hears why that fails.
        """
        while True:
            self._held.clear()
            self._process.start()
            part = -1
            try:
                for part in parts:
                    with contextlib.suppress(BundleError):
                        self._held[part] = self._load(part)
            except DeadError as death:
                self._process.bury(f"loading {self._names([part])}", death)
                self._wanted.discard(part)
                parts.remove(part)
            else:
                return

    def _load_others(self) -> None:
        for part in sorted(self._wanted):
            with contextlib.suppress(ContinuerError):
                self.load(part)

    def _ping_us(self) -> float:
        begun = time.perf_counter_ns()
        self._process.ping()
        return (time.perf_counter_ns() - begun) / 1e3

    def _names(self, parts: Sequence[int]) -> str:
        return ", ".join(self._bundle.part_names[part] for part in parts)

    def _file(self, part: int) -> str:
        return str(self._bundle.file_of(self._bundle.part_names[part]))
