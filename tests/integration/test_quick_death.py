"""A killed agent's death is known before its memory is freed."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.support import until

MIB = 1 << 20
# A process that holds much memory and one connection, and says who holds its memory.
VICTIM = """
import mmap, os, socket, sys, threading
from agent import quick_death
holder = quick_death.arrange()
block = mmap.mmap(-1, int(sys.argv[2]))
for at in range(0, len(block), 4096):
    block[at] = 1
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
link.sendall(f"{holder}\\n".encode())
threading.Event().wait()
"""


class Victim:
    """The process, the other end of its connection, and the holder of its memory."""

    def __init__(self, memory_bytes: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            command = [sys.executable, "-c", VICTIM, str(port), str(memory_bytes)]
            self.process = subprocess.Popen(command)
            server.settimeout(60)
            self.link, _ = server.accept()
        self.holder = int(self.link.makefile().readline())

    def closed(self) -> bool:
        """Whether the connection has been closed from the other side."""
        ready, _, _ = select.select([self.link], [], [], 0)
        return bool(ready) and self.link.recv(1) == b""

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.link.close()


def alive(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.fixture
def victim() -> Victim:
    return Victim(512 * MIB)


def test_the_death_is_known_while_the_memory_is_still_held(victim: Victim) -> None:
    try:
        assert alive(victim.holder)
        # Stopped, the holder cannot free anything: what closes now does not wait for that.
        os.kill(victim.holder, signal.SIGSTOP)
        victim.process.kill()
        until(victim.closed, "the connection to close")
        assert alive(victim.holder)
        os.kill(victim.holder, signal.SIGCONT)
        until(lambda: not alive(victim.holder), "the holder to end after the death")
    finally:
        victim.close()


def test_the_holder_ends_with_the_process_and_not_before(victim: Victim) -> None:
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(victim.holder, number)  # as a terminal sends to all of a group
        assert alive(victim.holder)
        victim.process.terminate()
        victim.process.wait()
        until(lambda: not alive(victim.holder), "the holder to end")
    finally:
        victim.close()


def test_the_holder_has_none_of_the_processs_connections(victim: Victim) -> None:
    try:
        links = [str(p.readlink()) for p in Path(f"/proc/{victim.holder}/fd").iterdir()]
        assert [link.partition(":")[0] for link in links] == ["pipe"]
    finally:
        victim.close()
