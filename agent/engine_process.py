"""The agent's side of the engine's process: start it, speak with it, bury it.

``agent/engine_worker.py`` says what runs there. Not for use by two threads at once.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import subprocess
import sys
import time
from array import array
from collections.abc import Sequence
from typing import BinaryIO

import msgspec

from agent import engine_worker as worker
from agent.engine_worker import Order, Setting
from continuer import caged
from continuer.errors import ContinuerError

STARTS = 3
START_S = 60.0
KEEPER_S = 20.0
LOAD_S = 20.0
SAID_BYTES = 4096


class DeadError(Exception):
    """The worker is gone, or was late (``late_s``) and is as good as gone.

    ``begun``: it may have died of what it was asked; else it was gone before.
    """

    def __init__(self, *, begun: bool, late_s: float | None = None) -> None:
        super().__init__(begun, late_s)
        self.begun = begun
        self.late_s = late_s


class RefusedError(Exception):
    """The worker is well, and the runtime refused what it was asked; the text says why."""


class EngineLostError(ContinuerError):
    """The engine's process cannot be started any more. An agent without an engine has to end."""


class EngineProcess:
    """A keeper and its present worker. ``memory`` is shared with the worker.

    ``memory_bytes``: what the worker may use beyond what it has when it starts.
    """

    def __init__(self, shared_bytes: int, memory_bytes: int, deadline_s: float) -> None:
        self._setting = Setting(shared_bytes, memory_bytes)
        self._deadline_s = deadline_s
        self._shared = _sealed_memory(shared_bytes)
        self.memory = mmap.mmap(self._shared, shared_bytes)
        self._log = os.memfd_create("engine-log")
        self._keeper: subprocess.Popen[bytes] | None = None
        self._desk: socket.socket | None = None
        self._channel: socket.socket | None = None
        self.pid = -1

    def start(self) -> str:
        """A fresh worker, without parts. Returns what closes its network; may be empty.

        Raises EngineLostError where that fails several times over.
        """
        problem: Exception | None = None
        for _ in range(STARTS):
            try:
                if self._keeper is None:
                    self._start_keeper()
                return self._start_worker()
            except (OSError, EOFError) as error:
                problem = error
                self.close()
        raise EngineLostError(
            f"engine: its process cannot be started ({problem!r}); see what else the journal says, "
            "and whether this box has memory left"
        )

    def _start_keeper(self) -> None:
        desk, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        desk.settimeout(START_S)
        with theirs:
            self._keeper = subprocess.Popen(  # noqa: S603  # our own interpreter, our own module
                [sys.executable, "-c", worker.START.format(descriptor=theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                # One thread each: whoever forks must have no other.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self._desk = desk
        if not desk.recv(worker.MAX_ORDER):
            raise EOFError("it ended while it started")
        desk.settimeout(KEEPER_S)

    def _start_worker(self) -> str:
        assert self._desk is not None
        os.ftruncate(self._log, 0)
        os.lseek(self._log, 0, os.SEEK_SET)
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            descriptors = [theirs.fileno(), self._shared, self._log]
            order = worker.FORK + msgspec.json.encode(self._setting)
            socket.send_fds(self._desk, [order], descriptors)
        self._channel = channel
        self.pid = int(worker.PID.unpack(self._desk.recv(worker.MAX_ORDER))[0])
        _set_patience(channel, self._deadline_s)
        try:
            return self._answer(KEEPER_S)[1:].decode()
        except DeadError as error:
            raise EOFError(self.bury("starting", error)) from error

    def load(self, order: Order, file: BinaryIO) -> tuple[float, float]:
        """Have a part loaded; its latency and loading time in us. Raises as ``run``."""
        self._send(worker.LOAD)
        self._send(msgspec.json.encode(order), [file.fileno()])
        try:
            latency_us, load_us = worker.TIMES.unpack(self._answer(LOAD_S)[1:])
        except struct.error as error:
            raise DeadError(begun=True) from error  # whatever it is now, it is no worker of ours
        if not (0 <= latency_us <= LOAD_S * 1e6 and 0 <= load_us <= LOAD_S * 1e6):
            raise DeadError(begun=True)
        return latency_us, load_us

    def unload(self, part: int) -> None:
        """Free a part's memory. Raises DeadError."""
        self._send(worker.UNLOAD + array("H", [part]).tobytes())
        self._answer(self._deadline_s)

    def run(self, parts: Sequence[int], within_s: float) -> None:
        """Run parts on what is in the shared memory. Raises RefusedError or DeadError."""
        self._send(worker.RUN + array("H", parts).tobytes())
        self._answer(max(within_s, self._deadline_s))

    def ping(self) -> None:
        """There and back, with nothing to do. Raises DeadError."""
        self._send(worker.PING)
        self._answer(self._deadline_s)

    def bury(self, doing: str, death: DeadError) -> str:
        """End the worker, if it has not ended; what became of it, in words."""
        assert self._desk is not None
        try:
            self._desk.send(worker.END)
            code = int(worker.PID.unpack(self._desk.recv(worker.MAX_ORDER))[0])
        except (OSError, struct.error):
            self.close()  # the keeper is gone too, and with it the worker
            return f"the engine's keeper died while {doing}"
        self._drop_channel()
        if death.late_s is not None:
            return f"not done after {death.late_s:.1f} s, while {doing}"
        size = os.fstat(self._log).st_size
        said = os.pread(self._log, SAID_BYTES, max(0, size - SAID_BYTES))
        if caged.lacked_memory(said):
            return f"the engine's memory was used up while {doing}; see 'engine_memory_mib'"
        return caged.how_it_ended(code, doing, said)

    def close(self) -> None:
        """End keeper and worker."""
        self._drop_channel()
        if self._desk is not None:
            self._desk.close()
            self._desk = None
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.wait()
            self._keeper = None

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self.pid = -1

    def _send(self, order: bytes, descriptors: Sequence[int] = ()) -> None:
        assert self._channel is not None
        try:
            if descriptors:
                socket.send_fds(self._channel, [order], descriptors)
            else:
                self._channel.send(order)
        except OSError as error:
            raise DeadError(begun=False) from error

    def _answer(self, within_s: float) -> bytes:
        """The next message; raises DeadError where none comes, RefusedError where it says so."""
        assert self._channel is not None
        begun = time.monotonic()
        while True:
            try:
                answer = self._channel.recv(worker.MAX_ORDER)
            except BlockingIOError as error:
                spent_s = time.monotonic() - begun
                if spent_s < within_s:
                    continue
                raise DeadError(begun=True, late_s=spent_s) from error
            except OSError as error:
                raise DeadError(begun=True) from error
            if not answer:
                raise DeadError(begun=True)
            if answer[:1] == worker.REFUSED:
                raise RefusedError(answer[1:].decode(errors="replace"))
            return answer


def _sealed_memory(nbytes: int) -> int:
    """Memory to share, whose size nobody can change: a smaller one would kill whoever reads it."""
    descriptor = os.memfd_create("engine-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, nbytes)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def _set_patience(channel: socket.socket, patience_s: float) -> None:
    """Have the kernel end a wait after so long: one system call a message, where a poll takes two.

    A wait longer than that is one that is begun again.
    """
    seconds = int(patience_s)
    timeout = struct.pack("@ll", seconds, int((patience_s - seconds) * 1e6))
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
