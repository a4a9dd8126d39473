"""Dying quickly: everyone hears of a killed agent at once, however much memory it has.

When a process is killed, the kernel frees its memory *before* it closes the sockets whose
closing tells the others: 3 ms for a small agent, more with every megabyte of model. It does
not free memory that someone else still uses. So a second process shares this one's memory
(``clone`` with ``CLONE_VM``), waits for a pipe to close, which the agent's death does, and
ends: the memory is freed after the sockets are closed, by a process that nobody waits for.

The second process runs no Python and no code of ours, one call of libc's ``fgetc``; it has
none of our sockets, and signals do not reach it. In lists of processes it appears as another
agent of the same size; its memory is the agent's and counted once.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import threading
import time

CLONE_VM = 0x100
CLONE_FILES = 0x400
STACK_BYTES = 64 << 10
STDIO_UNBUFFERED = 2
WAIT_S = 2.0


class _Holder(threading.Thread):
    """The thread that starts the second process, which borrows its thread-local storage."""

    def __init__(self, read_fd: int) -> None:
        super().__init__(name="holder", daemon=True)
        self.pid = -1
        self.settled = threading.Event()
        self._read_fd = read_fd
        self._stack = mmap.mmap(-1, STACK_BYTES)

    def run(self) -> None:
        """Start the process, then stay: its thread-local storage must not go away."""
        try:
            self.pid = self._clone()
        finally:
            self.settled.set()
        while self.pid > 0:
            time.sleep(3600)

    def _clone(self) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fdopen.restype = ctypes.c_void_p
        libc.fdopen.argtypes = [ctypes.c_int, ctypes.c_char_p]
        libc.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        libc.clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        # Inherited by the process: it is asked to end only by the pipe, and its freeing of the
        # memory must not come before our closing of the sockets on a busy core.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        # A table of file descriptors of this thread's own, for the process to copy: with the
        # pipe's other end in it, the pipe would never close.
        if libc.unshare(CLONE_FILES) != 0:
            return -1
        os.closerange(0, self._read_fd)
        os.closerange(self._read_fd + 1, os.sysconf("SC_OPEN_MAX"))
        pipe = libc.fdopen(self._read_fd, b"rb")
        libc.setvbuf(pipe, None, STDIO_UNBUFFERED, 0)
        top = ctypes.addressof(ctypes.c_char.from_buffer(self._stack)) + STACK_BYTES
        wait_for_end = ctypes.cast(libc.fgetc, ctypes.c_void_p)
        return int(libc.clone(wait_for_end, top, CLONE_VM, pipe))


_kept: list[tuple[_Holder, int]] = []


def arrange() -> int | None:
    """Have another process hold this one's memory beyond its death; call before any socket.

    Returns the process's id, None where the system does not allow it: then all works, but
    the others hear of a death some milliseconds later.
    """
    if not sys.platform.startswith("linux"):
        return None
    read_fd, write_fd = os.pipe()
    holder = _Holder(read_fd)
    holder.start()
    if not holder.settled.wait(WAIT_S) or holder.pid <= 0:
        return None
    os.close(read_fd)  # the holder's thread and process have it in tables of their own
    _kept.append((holder, write_fd))
    return holder.pid
