"""The engine's process: what runs in it. ``agent/engine_process.py`` is the agent's side.

Two kinds of process. The *keeper* is started once, imports the runtime, opens no model, and
forks *workers*, one after the other; so the worker that follows a dead one is there within
milliseconds. The *worker* has the parts in memory and runs them. It has no descriptor but the
socket to the agent, the shared memory and its log; its limits are set, and its network closed,
before it sees the first model.

Tensors are in memory that the agent shares: the inputs of a run at its beginning, the outputs in
its second half, each where ``places`` says. Only small messages of fixed form go over the socket.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from continuer import confinement
from continuer.bundle import TensorSpec
from continuer.errors import BundleError, ContinuerError
from continuer.runtime import LoadedPart, warm_up

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

START = "from agent import engine_worker; engine_worker.keep({descriptor})"
ALIGNMENT = 64
#: An order, in bytes; and what comes with one to load, or to fork.
MAX_ORDER = 1 << 12
MAX_MESSAGE = 1 << 17
MAX_TEXT = 400
#: What a worker may write to its log, and into any file.
MAX_LOG_BYTES = 1 << 16
MAX_DESCRIPTORS = 64

# Agent to keeper. FORK carries three descriptors (socket, memory, log) and a ``Setting``.
FORK, END = b"F", b"E"
# Agent to worker. RUN and UNLOAD have the numbers of parts. LOAD is followed by a message with an
# ``Order`` and the part's file: asking every order for descriptors would cost each run some time.
LOAD, UNLOAD, RUN, PING = b"L", b"U", b"R", b"P"
# Worker to agent. LOADED has two doubles: latency and loading time in microseconds.
READY, LOADED, DONE, REFUSED = b"r", b"l", b"d", b"x"
TIMES = struct.Struct("=dd")
PID = struct.Struct("=i")


class Setting(msgspec.Struct, frozen=True):
    """What a worker is given: size of the shared memory, and of the memory beyond what it has."""

    shared_bytes: int
    memory_bytes: int


class Order(msgspec.Struct, frozen=True):
    """A part to load: its number, what messages call its file, and its tensors."""

    part: int
    path: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def places(memory: Any, start: int, specs: Sequence[TensorSpec]) -> list[Array]:
    """Arrays over shared memory, one after the other from ``start`` on."""
    found: list[Array] = []
    for spec in specs:
        flat = np.frombuffer(memory, spec.dtype, int(np.prod(spec.shape)), start)
        found.append(flat.reshape(spec.shape))
        start += _padded(spec.nbytes)
    return found


def needed(specs: Sequence[TensorSpec]) -> int:
    """How many bytes ``places`` takes for these."""
    return sum(_padded(spec.nbytes) for spec in specs)


def _padded(nbytes: int) -> int:
    """Up to the next multiple of what numpy and the runtime like tensors to be aligned to."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


# --- the keeper -----------------------------------------------------------------------------


def keep(descriptor: int) -> None:
    """The keeper's life: fork a worker, bury it, at the agent's word; end with the agent."""
    # What tells the agent to stop, and hand its work over first, is often sent to all of a service.
    for request in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(request, signal.SIG_IGN)
    agent = socket.socket(fileno=descriptor)
    held = confinement.close_network()
    warm_up()
    agent.send(READY + (held or "").encode())
    worker = 0
    while True:
        order, descriptors, _, _ = socket.recv_fds(agent, MAX_MESSAGE, 3)
        if not order:
            return
        if order[:1] == END:
            agent.send(PID.pack(_bury(worker)))
            continue
        worker = os.fork()
        if worker == 0:
            agent.close()
            setting = msgspec.json.decode(order[1:], type=Setting)
            _Worker(setting, *descriptors).work(held)
            os._exit(0)
        for one in descriptors:
            os.close(one)
        agent.send(PID.pack(worker))


def _bury(worker: int) -> int:
    """End a worker that may have ended by itself; its exit code as ``subprocess`` has it."""
    os.kill(worker, signal.SIGKILL)
    _, status = os.waitpid(worker, 0)
    return os.waitstatus_to_exitcode(status)


# --- the worker -----------------------------------------------------------------------------


class _Held:
    """A loaded part, and where its tensors are in the shared memory."""

    def __init__(self, order: Order, source: Path, memory: Any, half: int) -> None:
        self.part = LoadedPart(Path(order.path), order.inputs, order.outputs, source)
        self.inputs = places(memory, 0, order.inputs)
        self.outputs = places(memory, half, order.outputs)


class _Worker:
    def __init__(self, setting: Setting, channel: int, shared: int, log: int) -> None:
        for standard in (1, 2):
            os.dup2(log, standard)
        os.close(log)
        self._agent = socket.socket(fileno=channel)
        self._memory = mmap.mmap(shared, setting.shared_bytes)
        os.close(shared)
        self._half = setting.shared_bytes // 2
        self._parts: dict[int, _Held] = {}
        self._allowance = setting.memory_bytes

    def work(self, held: str | None) -> None:
        """Serve the agent until it closes the socket."""
        self._agent.send(READY + ", ".join(self._confine(held)).encode())
        while order := self._agent.recv(MAX_ORDER):
            self._agent.send(self._answer(order))

    def _confine(self, held: str | None) -> list[str]:
        """Set limits and close the network; what closes it."""
        confinement.die_with_parent(signal.SIGKILL)
        confinement.limit(
            {
                resource.RLIMIT_CORE: 0,
                resource.RLIMIT_AS: _address_space() + self._allowance,
                resource.RLIMIT_FSIZE: MAX_LOG_BYTES,
                resource.RLIMIT_NOFILE: MAX_DESCRIPTORS,
            }
        )
        return [means for means in (confinement.forbid_calls(), held) if means]

    def _answer(self, order: bytes) -> bytes:
        verb, numbers = order[:1], order[1:]
        try:
            if verb == RUN:
                return self._run(memoryview(numbers).cast("H").tolist())
            if verb == LOAD:
                return self._load()
            if verb == UNLOAD:
                del self._parts[memoryview(numbers).cast("H")[0]]
        except MemoryError:
            return REFUSED + b"MemoryError: the engine has no more memory"
        except (BundleError, ValueError, RuntimeError) as error:
            # ValueError and RuntimeError are what the runtime raises for tensors or models it
            # cannot work with. ModelError is a BundleError: text of ours, the others need a name.
            ours = isinstance(error, ContinuerError)
            text = str(error) if ours else f"{type(error).__name__}: {error}"
            return REFUSED + text.encode()[:MAX_TEXT]
        return DONE

    def _load(self) -> bytes:
        raw, (file,), _, _ = socket.recv_fds(self._agent, MAX_MESSAGE, 1)
        try:
            order = msgspec.json.decode(raw, type=Order)
            source = Path("/proc/self/fd") / str(file)
            held = _Held(order, source, self._memory, self._half)
        finally:
            os.close(file)
        self._parts[order.part] = held
        return LOADED + TIMES.pack(held.part.latency_us, held.part.load_us)

    def _run(self, parts: Sequence[int]) -> bytes:
        held = [self._parts[part] for part in parts]
        flow: Sequence[Array] = held[0].inputs
        for one in held:
            flow = one.part.run(flow)
        for place, tensor in zip(held[-1].outputs, flow, strict=True):
            np.copyto(place, tensor)
        return DONE


def _address_space() -> int:
    """What this process has reserved already, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * mmap.PAGESIZE
