"""What a confined process cannot do any more; each is tried in a child of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from continuer import confinement

TRY = """
import json, os, signal, socket, subprocess, sys, threading
from continuer import confinement

with socket.socket() as there:
    there.bind(("127.0.0.1", 0))
    there.listen()
    address = there.getsockname()
    print(json.dumps(getattr(confinement, sys.argv[1])()))

    def connect():
        with socket.create_connection(address, 5):
            pass

    def fork():
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)

    def thread():
        started = threading.Thread(target=lambda: None)
        started.start()
        started.join()

    for what in (
        connect,
        lambda: [end.close() for end in socket.socketpair()],
        lambda: subprocess.run(["true"], check=True),
        fork,
        lambda: os.kill(os.getppid(), 0),
        lambda: os.kill(os.getpid(), 0),
        thread,
        lambda: open(os.devnull).close(),
    ):
        try:
            what()
        except OSError as error:
            print(json.dumps(error.errno))
        else:
            print(json.dumps(0))
"""
EPERM, UNREACHABLE = 1, 101


def tried(means: str) -> tuple[str | None, list[int]]:
    """What a means says of itself, and the error of each attempt, 0 for none."""
    done = subprocess.run(
        [sys.executable, "-c", TRY, means], capture_output=True, text=True, check=True, timeout=60
    )
    held, *errors = map(json.loads, done.stdout.splitlines())
    return held, errors


def test_the_filter_forbids_all_but_computing_reading_and_threads() -> None:
    held, errors = tried("forbid_calls")
    if held is None:
        pytest.skip("this kernel or processor has no system call filter that is known here")
    assert held == confinement.FILTER
    assert errors == [EPERM, EPERM, EPERM, EPERM, EPERM, 0, 0, 0]


def test_a_namespace_of_its_own_has_no_way_out() -> None:
    held, errors = tried("close_network")
    if held is None:
        pytest.skip("this system permits no user namespaces")
    assert held == confinement.NAMESPACE
    assert errors[0] == UNREACHABLE
    assert errors[1] == 0  # it closes the network and nothing else


def test_an_abort_still_ends_a_filtered_process() -> None:
    script = "from continuer import confinement; confinement.forbid_calls(); import os; os.abort()"
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert done.returncode == -6


def test_limits_cannot_be_raised_again() -> None:
    script = (
        "import resource; from continuer import confinement\n"
        "confinement.limit({resource.RLIMIT_NOFILE: 20})\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "(20, 20)\n"


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")],
)
def test_calls_are_numbered_as_the_kernels_headers_say(machine: str, header: str) -> None:
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip(f"{path} is not here; it comes with linux-libc-dev")
    found = re.findall(r"^#define __NR_(\w+)\s+(\d+)$", path.read_text(), re.MULTILINE)
    known = {name: int(number) for name, number in found}
    ours = {**confinement._EVERYWHERE, **confinement._DENY[machine]}
    kill, tgkill = confinement._SIGNAL_ITSELF[machine]
    ours |= {"clone": confinement._CLONE[machine], "clone3": confinement._CLONE3}
    ours |= {"kill": kill, "tgkill": tgkill}
    assert {name: known[name] for name in ours} == ours
