"""Boxes with systemd as PID 1: containers of systemd-nspawn on hosts of a network.

Each has a writable layer over one Debian root, which is made once and kept in
``/var/cache/continuer-tests``. A power cut keeps what the box has on its disk.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.root import network
from tests.root.network import Network

CACHE = Path("/var/cache/continuer-tests")
CGROUPS = Path("/sys/fs/cgroup")
# What Debian packages of ours depend on, and python3-systemd to see that it is used where it is.
PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "python3-systemd", "iproute2")
TOOLS = {
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "nsenter": "util-linux",
}
PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_S = 60.0
POLL_S = 0.05
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000


@functools.cache
def lacking() -> str:
    """Why no box can be booted here, and what to do about it; empty if it can."""
    if reason := network.lacking():
        return reason
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        return f"run 'apt-get install {' '.join(missing)}'"
    if not hierarchies():
        return f"no control groups below {CGROUPS}: mount them"
    return ""


def hierarchies() -> list[Path]:
    """The control group trees that systemd needs: version 2 alone, or beside version 1."""
    trees = [CGROUPS, CGROUPS / "systemd", CGROUPS / "unified"]
    return [tree for tree in trees if (tree / "cgroup.procs").exists()]


def debian_root() -> Path:
    """A minimal Debian of this machine's release, from its own mirror; made at first use."""
    release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    suite = release["VERSION_CODENAME"].strip('"')
    packages = ",".join(PACKAGES)
    root = CACHE / f"{suite}-{hashlib.sha256(packages.encode()).hexdigest()[:8]}"
    if not root.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        making = CACHE / f"making-{secrets.token_hex(4)}"
        try:
            network.run(
                *("debootstrap", "--variant=minbase", f"--include={packages}"),
                *(suite, str(making), mirror()),
            )
            making.rename(root)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return root


def mirror() -> str:
    """The first Debian archive among apt's sources."""
    command = ("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)")
    listed = subprocess.run(command, capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        site, *rest = line.split()
        if site.rstrip("/").endswith("debian") and rest[-1:] == ["main"]:
            return site
    return "http://deb.debian.org/debian"


class Box:
    """One box on a host of a network; ``boot`` it, and in the end ``close`` it."""

    def __init__(self, name: str, network: Network, directory: Path) -> None:
        self.name = name
        self._network = network
        self._directory = directory / name
        self._group = f"continuer-{secrets.token_hex(4)}-{name}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        """Its file system, as seen from here."""
        return self._directory / "root"

    def boot(self) -> None:
        """Switch it on; returns once systemd has started everything."""
        if not self.root.is_mount():
            self._mount()
        for tree in hierarchies():
            (tree / self._group).mkdir(exist_ok=True)
        with (self._directory / "console").open("ab") as console:
            self._process = subprocess.Popen(
                [
                    *("systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}"),
                    *("--register=no", "--keep-unit", f"--machine={self.name}"),
                    f"--network-namespace-path=/run/netns/{self._network.namespace(self.name)}",
                    *("--resolv-conf=off", "--timezone=off", "--link-journal=no"),
                    "--console=pipe",
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                preexec_fn=self._enter_group,  # noqa: PLW1509  # before nspawn looks where it is
            )
        self.wait_until(self._is_up, "systemd to be up", BOOT_S)

    def _mount(self) -> None:
        for part in ("upper", "work", "root"):
            (self._directory / part).mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir={debian_root()},upperdir={self._directory}/upper"
        options = f"{layers},workdir={self._directory}/work"
        network.run("mount", "-t", "overlay", "overlay", "-o", options, str(self.root))
        (self.root / "etc/hostname").write_text(self.name + "\n")
        (self.root / "etc/machine-id").write_text(secrets.token_hex(16) + "\n")
        (self.root / "var/log/journal").mkdir(parents=True, exist_ok=True)

    def _enter_group(self) -> None:
        for tree in hierarchies():
            (tree / self._group / "cgroup.procs").write_text(str(os.getpid()))

    def _is_up(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            console = (self._directory / "console").read_text(errors="replace")
            raise AssertionError(f"{self.name} did not boot: {console[-2000:]}")
        if self._leader() is None:
            return False
        state = self.run("systemctl", "is-system-running", check=False)
        return state.stdout.strip() in ("running", "degraded")

    def _leader(self) -> int | None:
        """The process id, here, of the box's PID 1."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program inside, as root."""
        ended = subprocess.run(
            [
                *(
                    "nsenter",
                    "-t",
                    str(self._leader()),
                    "-m",
                    "-u",
                    "-i",
                    "-p",
                    "-n",
                    "-C",
                    "-r",
                    "-w",
                ),
                *("--", "env", "-i", PATH, "TERM=dumb", "LANG=C.UTF-8", *command),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        problem = f"{self.name}: {' '.join(command)}: {ended.stdout}{ended.stderr}"
        assert not check or ended.returncode == 0, problem
        return ended

    def show(self, unit: str, key: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", key, unit).stdout.strip()

    def wait_until(self, condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
        """Poll a condition."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"{self.name}: waited for {what}"
            time.sleep(POLL_S)

    def power_cut(self) -> None:
        """Everything in it ends at once; its disk keeps what was written."""
        leader = self._leader()
        assert leader is not None
        os.kill(leader, 9)
        self._gone()

    def _gone(self) -> None:
        assert self._process is not None
        self._process.wait(30)
        self._process = None
        for tree in hierarchies():
            for group in sorted((tree / self._group).rglob("*/"), reverse=True):
                if group.is_dir():
                    group.rmdir()
            (tree / self._group).rmdir()

    def close(self) -> None:
        """Switch it off and forget its disk."""
        if self._process is not None and self._process.poll() is None:
            self.power_cut()
        if self.root.is_mount():
            network.run("umount", str(self.root))

    # --- one thread of a service ------------------------------------------------------

    def thread(self, unit: str, name: str) -> int:
        """The id, here, of a service's thread of this name."""
        for tree in hierarchies():
            for listed in (tree / self._group).rglob(f"{unit}.service/cgroup.procs"):
                for pid in listed.read_text().split():
                    for task in Path(f"/proc/{pid}/task").iterdir():
                        if (task / "comm").read_text().strip() == name:
                            return int(task.name)
        raise AssertionError(f"{self.name}: no thread {name!r} in {unit}")


class Hang:
    """Stops a single thread for as long as this is in force; all others go on."""

    def __init__(self, thread: int) -> None:
        self._thread = thread
        for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
            self._ask(request)

    def _ask(self, request: int) -> None:
        if ctypes.CDLL(None, use_errno=True).ptrace(request, self._thread, None, None):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), f"ptrace of thread {self._thread}")

    def release(self) -> None:
        """The thread goes on."""
        os.waitpid(self._thread, WALL)  # it has stopped
        self._ask(PTRACE_DETACH)

    def over(self) -> bool:
        """The thread has been killed. Without this being asked, it is never quite gone."""
        try:
            pid, status = os.waitpid(self._thread, os.WNOHANG | WALL)
        except ChildProcessError:
            return True
        return pid != 0 and (os.WIFSIGNALED(status) or os.WIFEXITED(status))
