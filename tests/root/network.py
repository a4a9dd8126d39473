"""A network of namespaces with faults: hosts on veth pairs, joined by a bridge.

The bridge is in a namespace of its own, so the machine's own interfaces and routes are not
touched. Names are unique to each network: runs side by side do not meet.
"""

from __future__ import annotations

import ctypes
import functools
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

TOOLS = ("ip", "bridge", "tc", "nft")
CLONE_NEWNET = 0x40000000
SUBNET = "10.77.0"
BUCKET = ("burst", "16kb", "latency", "400ms")

T = TypeVar("T")


@functools.cache
def lacking() -> str:
    """Why no network can be made here, and what to do about it; empty if it can."""
    if os.geteuid() != 0:
        return "needs root, iproute2 and nftables: run 'sudo make test-root'"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found: run 'apt-get install iproute2 nftables'"
    try:
        network = Network(["probe"])
    except OSError as error:
        return f"needs CAP_SYS_ADMIN and CAP_NET_ADMIN, as in no container: {error}"
    network.close()
    return ""


def run(*command: str, stdin: str | None = None) -> None:
    """Run a program; what it complained of is in the error."""
    ended = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if ended.returncode:
        raise OSError(f"{' '.join(command)}: {ended.stderr.strip()}")


class Network:
    """Hosts by name, each in a namespace with one interface, ``eth0``. Remove with ``close``."""

    def __init__(self, hosts: Iterable[str]) -> None:
        prefix = f"continuer-{secrets.token_hex(4)}"
        self._switch = f"{prefix}-switch"
        self._number = {host: i for i, host in enumerate(hosts, start=1)}
        self._namespace = {host: f"{prefix}-{host}" for host in self._number}
        self._made: list[str] = []
        self._drops: dict[tuple[str, str], int] = {}
        self._pulled: set[str] = set()
        self._slow: set[str] = set()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for namespace in (self._switch, *self._namespace.values()):
            run("ip", "netns", "add", namespace)
            self._made.append(namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        switch = ("ip", "-n", self._switch, "link")
        run(*switch, "add", "br0", "type", "bridge", "forward_delay", "0")
        run(*switch, "set", "br0", "up")
        for host, namespace in self._namespace.items():
            run(
                *("ip", "link", "add", "eth0", "netns", namespace, "type", "veth"),
                *("peer", "name", self._port(host), "netns", self._switch),
            )
            run(*switch, "set", self._port(host), "master", "br0", "up")
            run("ip", "-n", namespace, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            run("ip", "-n", namespace, "link", "set", "eth0", "up")

    def close(self) -> None:
        """Remove every namespace, and the interfaces with them."""
        while self._made:
            run("ip", "netns", "del", self._made.pop())

    def address(self, host: str) -> str:
        """The host's IPv4 address."""
        return f"{SUBNET}.{self._number[host]}"

    def namespace(self, host: str) -> str:
        """The name of the host's namespace, below /run/netns."""
        return self._namespace[host]

    def prefix(self, host: str) -> tuple[str, ...]:
        """What a command line begins with to be run there. The process id stays the same."""
        return ("ip", "netns", "exec", self._namespace[host])

    def call(self, host: str, function: Callable[[], T]) -> T:
        """Call a function in a thread of this process that is in the host's namespace.

        Threads that it starts, ZeroMQ's among them, are there too.
        """
        outcome: list[T] = []
        problem: list[BaseException] = []

        def enter_and_call() -> None:
            try:
                enter(self._namespace[host])
                outcome.append(function())
            except BaseException as error:  # noqa: BLE001  # it is raised in the caller's thread
                problem.append(error)

        thread = threading.Thread(target=enter_and_call)
        thread.start()
        thread.join()
        if problem:
            raise problem[0]
        return outcome[0]

    # --- faults -----------------------------------------------------------------------

    def cut(self, host: str) -> None:
        """The cable is cut: the host loses its carrier."""
        run("ip", "-n", self._switch, "link", "set", self._port(host), "down")

    def pull(self, host: str) -> None:
        """The switch's port is dead: nothing passes, and the host still has its carrier."""
        self._port_state(host, "0")
        self._pulled.add(host)

    def oneway(self, source: str, target: str) -> None:
        """What ``source`` sends does not arrive at ``target``; the other way is fine."""
        self._drop(source, target, 100)

    def mute(self, host: str) -> None:
        """Nobody hears the host; it hears everybody."""
        for other in self._number.keys() - {host}:
            self.oneway(host, other)

    def deafen(self, host: str) -> None:
        """The host hears nobody; everybody hears it."""
        for other in self._number.keys() - {host}:
            self.oneway(other, host)

    def part(self, one: str, other: str) -> None:
        """Two hosts do not hear each other; everybody else hears both."""
        self.oneway(one, other)
        self.oneway(other, one)

    def split(self, one: Iterable[str], other: Iterable[str]) -> None:
        """Two groups of hosts do not hear each other; within each everything is fine."""
        groups = (list(one), list(other))
        for ours, theirs in (groups, groups[::-1]):
            for target in theirs:
                self._drops.update(((source, target), 100) for source in ours)
                self._filter(target)

    def loss(self, host: str, percent: int) -> None:
        """Packets to and from the host are lost by chance, each way."""
        for other in self._number.keys() - {host}:
            self._drop(host, other, percent)
            self._drop(other, host, percent)

    def rate(self, host: str, kbit: int) -> None:
        """The host's link is slow, each way (kilobits per second)."""
        shape = ("root", "tbf", "rate", f"{kbit}kbit", *BUCKET)
        for namespace, interface in self._ends(host):
            run("tc", "-n", namespace, "qdisc", "replace", "dev", interface, *shape)
        self._slow.add(host)

    def heal(self) -> None:
        """All faults are over."""
        for host in self._number:
            run("ip", "-n", self._switch, "link", "set", self._port(host), "up")
        for host in self._pulled:
            self._port_state(host, "3")
        self._pulled.clear()
        targets = {target for _, target in self._drops}
        self._drops.clear()
        for target in targets:
            self._filter(target)
        for host in self._slow:
            for namespace, interface in self._ends(host):
                run("tc", "-n", namespace, "qdisc", "del", "dev", interface, "root")
        self._slow.clear()

    def _port(self, host: str) -> str:
        return f"port{self._number[host]}"

    def _ends(self, host: str) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self._switch, self._port(host)), (self._namespace[host], "eth0")

    def _port_state(self, host: str, state: str) -> None:
        run("bridge", "-n", self._switch, "link", "set", "dev", self._port(host), "state", state)

    def _drop(self, source: str, target: str, percent: int) -> None:
        self._drops[source, target] = percent
        self._filter(target)

    def _filter(self, target: str) -> None:
        """Drop at the receiver, in the dark: a sender's own filter would tell its TCP."""
        rules = "".join(
            f"ip saddr {self.address(source)} {chance(percent)} drop\n"
            for (source, to), percent in self._drops.items()
            if to == target
        )
        table = (
            "table inet faults {}\ndelete table inet faults\ntable inet faults {\n"
            f"chain arriving {{ type filter hook input priority 0;\n{rules}}}\n}}\n"
        )
        run(*self.prefix(target), "nft", "-f", "-", stdin=table)


def chance(percent: int) -> str:
    """nft's match for some of the packets, or for all."""
    return f"numgen random mod 100 < {percent}" if percent < 100 else ""


def enter(namespace: str) -> None:
    """Move the calling thread to a network namespace. os.setns is only in Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}", "rb") as file:  # noqa: PTH123  # a descriptor is wanted
        if libc.setns(file.fileno(), CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), namespace)
