"""A cluster of real processes: one coordinator and N agents, as daemons run.

All on loopback, unless they are told to run at other places, such as network namespaces.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from continuer import sockets
from continuer.control import Connection
from continuer.errors import ContinuerError, UnreachableError
from continuer.security import provision
from continuer.security.identity import with_key

HOST = "127.0.0.1"
READY_TIMEOUT_S = 60.0
POLL_S = 0.05
PORTS = (20_000, 32_000)
ATTEMPTS = 1000


class Place(NamedTuple):
    """Where a daemon runs: the address it listens at, and what its command line begins with."""

    host: str = HOST
    prefix: tuple[str, ...] = ()


def program(name: str) -> list[str]:
    """Command line of one of our programs, from the environment that runs us."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ContinuerError(f"{name} is not installed; install continuer[demo]")
    return [found]


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now. They stay the same when a daemon restarts.

    Below those that kernels give to whoever dials out: one of these may be taken again before
    the daemon that it is meant for has started.
    """
    found: dict[int, None] = {}
    for _ in range(ATTEMPTS):
        port = random.randrange(*PORTS)  # noqa: S311 - not a secret
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            found[port] = None
        if len(found) == count:
            return list(found)
    raise ContinuerError(f"no {count} free ports of {PORTS[0]} to {PORTS[1] - 1} on this machine")


def toml(values: dict[str, Any]) -> str:
    """Values as TOML, tables in a line each. JSON's strings, numbers and arrays are TOML's too."""
    return "".join(f"{key} = {_toml_value(value)}\n" for key, value in values.items())


def _toml_value(value: Any) -> str:
    import json

    if not isinstance(value, dict):
        return json.dumps(value)
    return "{" + ", ".join(f"{key} = {_toml_value(inner)}" for key, inner in value.items()) + "}"


def _kept(state_dir: Path) -> dict[str, Any]:
    """Where a node keeps its key. The bundle lies beside us, and nobody need have signed it."""
    return {"state_dir": str(state_dir), "development": True}


class Cluster:
    """Starts and ends the processes; configurations and logs are in ``directory``.

    ``places`` says where the coordinator (``coordinator``) and nodes run; here, if not named.
    ``secured``: everyone has a key, and ``keys`` is the directory of an operator's; else all
    speak in the clear.
    """

    def __init__(
        self,
        directory: Path,
        bundle: Path,
        nodes: list[str],
        *,
        agent: dict[str, Any] | None = None,
        coordinator: dict[str, Any] | None = None,
        places: Mapping[str, Place] | None = None,
        secured: bool = False,
    ) -> None:
        self.directory = directory
        self.nodes = nodes
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._places = {name: (places or {}).get(name, Place()) for name in ("coordinator", *nodes)}
        hosts = {name: place.host for name, place in self._places.items()}
        ports = free_ports(2 + 3 * len(nodes) + 1)
        self.keys = directory / "operator" if secured else None
        self.agents_endpoint = sockets.endpoint(hosts["coordinator"], ports[0])
        self.control = sockets.endpoint(hosts["coordinator"], ports[1])
        self._ingress = {
            node: sockets.endpoint(hosts[node], ports[2 + 3 * i]) for i, node in enumerate(nodes)
        }
        common = {"bundle": str(bundle)}
        if secured:
            self._make_keys()
        elif any(host != HOST for host in hosts.values()):
            common["security"] = "off"
        self._write(
            "coordinator",
            {
                **common,
                "nodes": nodes,
                "listen": hosts["coordinator"],
                "agents_port": ports[0],
                "control_port": ports[1],
                "store_port": 0,
                "join_port": ports[-1],
                "state_dir": str(directory / "state"),
                **(coordinator or {}),
            },
        )
        for i, node in enumerate(nodes):
            own = ports[2 + 3 * i : 5 + 3 * i]
            self._write(
                node,
                {
                    **common,
                    "node": node,
                    "store_port": 0,
                    "listen": hosts[node],
                    "coordinator": self.agents_endpoint,
                    **(_kept(directory / node) if secured else {}),
                    **dict(zip(("ingress_port", "data_port", "answers_port"), own, strict=True)),
                    **(agent or {}),
                },
            )

    def _make_keys(self) -> None:
        """A key for everyone, and endpoints that name whose key has to answer."""
        public = provision.whole_cluster(
            self.directory / "state",
            {node: self.directory / node for node in self.nodes},
            self.directory / "operator",
            self.control,
            self.agents_endpoint,
        )
        self.agents_endpoint = with_key(self.agents_endpoint, public["coordinator"])
        self.control = with_key(self.control, public["coordinator"])
        self._ingress = {
            node: with_key(endpoint, public[node]) for node, endpoint in self._ingress.items()
        }

    @property
    def endpoints(self) -> list[str]:
        """Ingress endpoints of all nodes, in pipeline order."""
        return list(self._ingress.values())

    def log(self, name: str) -> Path:
        """Where a daemon's events go."""
        return self.directory / f"{name}.log"

    def _write(self, name: str, values: dict[str, Any]) -> None:
        (self.directory / f"{name}.toml").write_text(toml(values))

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start the coordinator or an agent."""
        kind = "continuer-coordinator" if name == "coordinator" else "continuer-agent"
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  # our own programs
                [
                    *self._places[name].prefix,
                    *program(kind),
                    *("--config", str(self.directory / f"{name}.toml")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes[name] = process
        return process

    def start_all(self) -> None:
        """Start everything and wait until a plan with all nodes is in force."""
        for name in ("coordinator", *self.nodes):
            self.start(name)
        self.wait_until(lambda state: state["health"] == "full", "the cluster to form")

    def status(self, *, brief: bool = False) -> dict[str, Any]:
        """What the coordinator says; brief: without contingencies."""
        return self.ask("status", brief=brief)

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Ask the coordinator, as the operator where keys are used."""
        with Connection(self.control, self.keys) as connection:
            return connection.ask(verb, **arguments)

    def wait_until(
        self, condition: Any, what: str, timeout_s: float = READY_TIMEOUT_S
    ) -> dict[str, Any]:
        """Poll the status until the condition holds; raises ContinuerError with the logs' ends."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                state = self.status(brief=True)
                if condition(state):
                    return state
            except UnreachableError:
                pass  # not up yet
            for name, process in self.processes.items():
                code = process.poll()
                if code is not None and code >= 0:  # below 0: a signal, which is what demos do
                    raise ContinuerError(f"{name} ended with code {code}:\n{self._tail(name)}")
            time.sleep(POLL_S)
        tails = "\n".join(self._tail(name) for name in self.processes)
        raise ContinuerError(f"waited {timeout_s:g} s for {what}; the logs end with\n{tails}")

    def _tail(self, name: str) -> str:
        lines = self.log(name).read_text(errors="replace").splitlines()[-5:]
        return "\n".join(f"  {name}: {line}" for line in lines)

    def signal(self, nodes: list[str], number: int) -> int:
        """Send a signal to nodes, all in the same millisecond. Returns the monotonic ns before."""
        pids = [self.processes[node].pid for node in nodes]
        now = time.monotonic_ns()
        for pid in pids:
            os.kill(pid, number)
        return now

    def stop_all(self) -> None:
        """End everything, coordinator first, so that it makes no fuss about leaving agents."""
        names = sorted(self.processes, key=lambda name: name != "coordinator")
        for name in names:
            process = self.processes[name]
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
            if name == "coordinator":
                self._reap(process)
        for name in names:
            self._reap(self.processes[name])

    @staticmethod
    def _reap(process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
