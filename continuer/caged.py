"""Work with model files of others in a child process that may crash, hang or eat memory.

A model file is a program: structurally valid files abort or hang the runtime, some of them
only for some inputs. So whatever opens, parses or runs one that nobody has tried yet does so
in a child with a memory limit, a CPU limit and a deadline for each step, without network and
without other programs where the system has filters (``continuer/confinement.py``). This contains
accidents and denial of service; code that breaks out of the runtime can still read this user's
files.

``run("package.module:function", {...}, ...)`` calls the function in the child and yields what
it yields. Items and arguments are plain data (JSON). Linux only (``RLIMIT_AS`` and the
parent-death signal).
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any

from continuer import confinement, errors
from continuer.errors import ModelError

START = "import sys; from continuer import caged; caged.work(*sys.argv[1:])"
READ_BYTES = 1 << 16
#: What a child may write to its log, and to any file.
MAX_FILE_BYTES = 1 << 30
RAISED_AGAIN = ("BundleError", "ModelError", "UsageError")
BROKEN = "the file is damaged or hostile; get it anew from its source"


@dataclass(frozen=True)
class Limits:
    """What the child may use: address space, time for one step, and CPU time in all.

    A step ends with an item, or when the child says what it is ``doing`` next.
    """

    memory_mib: int = 2048
    deadline_s: float = 60.0
    cpu_s: int = 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for the limits; ``limits_from`` reads them."""
    parser.add_argument(
        "--memory-mib",
        type=int,
        default=Limits.memory_mib,
        metavar="N",
        help="what the child that runs the files may use (default %(default)s)",
    )
    parser.add_argument(
        "--deadline-s",
        type=float,
        default=Limits.deadline_s,
        metavar="S",
        help="how long one step of it may take (default %(default)g)",
    )


def limits_from(options: argparse.Namespace) -> Limits:
    """The limits that were given; raises UsageError for nonsense."""
    if not (options.memory_mib > 0 and 0 < options.deadline_s < math.inf):
        raise errors.UsageError("--memory-mib and --deadline-s: give numbers above 0")
    return Limits(options.memory_mib, options.deadline_s)


def run(function: str, arguments: Mapping[str, Any], subject: str, limits: Limits) -> Iterator[Any]:
    """Call a generator function in a caged child, and yield its items as they come.

    Errors of this project that it raises are raised here. Raises ModelError, a line that
    begins with ``subject``, when the child crashes, or runs out of time or memory.
    """
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as log, os.fdopen(reading, "rb", buffering=0) as channel:
        job = {"function": function, "arguments": arguments, "limits": asdict(limits)}
        child = subprocess.Popen(  # noqa: S603  # our own interpreter, our own module
            [sys.executable, "-c", START, json.dumps(job), str(writing)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[writing],
            # One thread each: pools of idle threads would count as memory.
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        os.close(writing)
        try:
            yield from _Listener(child, channel, subject, limits).listen(log)
        finally:
            child.kill()
            child.wait()


class _Listener:
    """The parent's side of one child."""

    def __init__(
        self, child: subprocess.Popen[bytes], channel: IO[bytes], subject: str, limits: Limits
    ) -> None:
        self._child = child
        self._channel = channel
        self._subject = subject
        self._limits = limits
        self._doing = "starting"

    def listen(self, log: IO[bytes]) -> Iterator[Any]:
        for line in self._lines():
            message = json.loads(line)
            if "item" in message:
                yield message["item"]
            elif "doing" in message:
                self._doing = message["doing"]
            elif "error" in message:
                name, text = message["error"]
                raise getattr(errors, name)(text)
            elif "memory" in message:
                raise ModelError(self._out_of_memory())
            else:
                return
        self._child.wait()
        raise ModelError(self._obituary(log))

    def _lines(self) -> Iterator[bytes]:
        """Whole lines until the child closes its end; raises ModelError when a step is late."""
        buffered = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            while selector.select(self._limits.deadline_s):
                read = self._channel.read(READ_BYTES)
                if not read:
                    return
                *lines, buffered = (buffered + read).split(b"\n")
                yield from lines
        raise ModelError(self._late())

    def _late(self) -> str:
        return (
            f"{self._subject}: not done after {self._limits.deadline_s:g} s, while {self._doing}; "
            "the file makes the runtime hang, or give it more time (--deadline-s)"
        )

    def _out_of_memory(self) -> str:
        return (
            f"{self._subject}: needs more than {self._limits.memory_mib} MiB, while "
            f"{self._doing}; a shape in the file is absurd, or give it more (--memory-mib)"
        )

    def _obituary(self, log: IO[bytes]) -> str:
        """Why the child ended before its work did, from its status and the end of its log."""
        log.seek(max(0, log.seek(0, os.SEEK_END) - READ_BYTES))
        said = log.read()
        code = self._child.returncode
        if lacked_memory(said):
            return self._out_of_memory()
        if code == -signal.SIGXCPU:
            return f"{self._subject}: {self._limits.cpu_s} s of CPU used up, while {self._doing}"
        return f"{self._subject}: {how_it_ended(code, self._doing, said)}; {BROKEN}"


def lacked_memory(said: bytes) -> bool:
    """Whether a process's last words are about memory that it did not get."""
    return b"bad_alloc" in said or b"MemoryError" in said


def how_it_ended(code: int, doing: str, said: bytes) -> str:
    """A process's end in words: its return code as ``subprocess`` has it, and its last words."""
    lines = (line.strip() for line in said.decode(errors="replace").splitlines())
    told = [line for line in lines if line and not line.startswith("INFO")]
    last = f" ({told[-1]})" if told else ""
    if code < 0:
        how = f"the runtime crashed with {signal.Signals(-code).name}"
    else:
        how = f"the runtime ended the process with code {code}"
    return f"{how} while {doing}{last}"


# --- the child's side -----------------------------------------------------------------------

_channel: IO[str] | None = None


def doing(what: str) -> None:
    """Say what comes next, for the message if it goes wrong. Outside of a cage: nothing."""
    _tell({"doing": what})


def _tell(message: dict[str, Any]) -> None:
    if _channel is not None:
        _channel.write(json.dumps(message) + "\n")
        _channel.flush()


def _confine(limits: Limits) -> None:
    """Set this process's limits, close the network, and die with the parent."""
    confinement.die_with_parent(signal.SIGKILL)
    confinement.limit(
        {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_AS: limits.memory_mib << 20,
            resource.RLIMIT_CPU: limits.cpu_s,
            resource.RLIMIT_FSIZE: MAX_FILE_BYTES,
        }
    )
    confinement.forbid_calls()


def work(job: str, descriptor: str) -> None:
    """The child's whole life: ``job`` is JSON, ``descriptor`` where to report."""
    global _channel  # noqa: PLW0603  # one process, one channel; functions deep down report on it
    _channel = os.fdopen(int(descriptor), "w")
    order = json.loads(job)
    _confine(Limits(**order["limits"]))
    module, _, name = order["function"].partition(":")
    try:
        for item in getattr(importlib.import_module(module), name)(**order["arguments"]):
            _tell({"item": item})
    except errors.ContinuerError as error:
        name = type(error).__name__
        _tell({"error": [name if name in RAISED_AGAIN else "ContinuerError", str(error)]})
    except MemoryError:
        _tell({"memory": True})
    else:
        _tell({"end": True})
