"""One coordinator and many agents: what a large fleet costs it, and how fast it still is.

Agents here are sockets without an engine: each joins, sends beacons and heartbeats at the pace
that it is told, acknowledges plans and claims to hold every part. The coordinator is the real
daemon. Agents die one after the other by closing their link, as those of a killed process do.

    python -m bench.scale [--agents 200] [--deaths 20] [--seconds 20] [--no-beacons]

``--no-beacons``: as where a firewall drops them.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import zmq

from bench.agent import cpu_s
from bench.outage import high
from continuer import beacon, sockets, wire
from continuer import bundle as bundles
from continuer.bundle import Bundle
from continuer.catalog import find_bundle
from continuer.demo.cluster import HOST, Cluster
from continuer.errors import ContinuerError
from continuer.plan import Member, Version
from continuer.wire import (
    Ack,
    Activate,
    Heartbeat,
    Join,
    NewPlan,
    Pace,
    PartTiming,
    Prepare,
    Prepared,
)

PER_PROCESS = 50
INTERVAL_NS = 10_000_000
NO_VERSION = Version(0, 0)
#: What each part is said to cost: about that of a block of ResNet-32 on a small box.
LATENCY_US, LOAD_US = 400.0, 2_000.0
EARLY_NS = 1_000_000
#: Also until the coordinator has heard beacons for so long that links may be slow.
SETTLE_S = 2.0
FORM_S = 120.0


class Dummy:
    """One agent: its socket, and the version that it obeys."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, name: str, bundle: Bundle) -> None:
        self.name = name
        self.socket = sockets.make(context, zmq.DEALER, wire.MAX_CONTROL_BYTES)
        sockets.dial(self.socket, endpoint)
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.connect((HOST, int(endpoint.rpartition(":")[2])))
        self._pace = Pace(0)
        self._beacons = 0
        self._said_ns = 0
        self._sequence = 0
        self._held = NO_VERSION
        self._timings = tuple(
            PartTiming(part, LATENCY_US, LOAD_US) for part in range(len(bundle.part_names))
        )
        here = f"tcp://{HOST}:1"  # nobody sends work to it
        member = Member(name, 1, here, here, here)
        self._send(
            Join(
                cluster="continuer",
                member=member,
                model=bundle.name,
                bundle=bundle.hash,
                held=NO_VERSION,
                memory_bytes=0,
                standby="all",
                loaded=self._timings,
            )
        )

    def beat(self, now: int, *, beacons: bool) -> None:
        """Send a beacon, and a heartbeat where it is time for one."""
        if beacons and self._pace.session:
            self._beacons += 1
            pace, interval_us = self._pace, INTERVAL_NS // 1000
            with contextlib.suppress(OSError):  # as agents: the coordinator may be gone
                self._udp.send(beacon.seal(pace.session, pace.key, self._beacons, interval_us))
        if now - self._said_ns >= self._pace.every_us * 1000 - EARLY_NS:
            self._heartbeat(now)

    def _heartbeat(self, now: int) -> None:
        self._said_ns = now
        self._sequence += 1
        self._send(Heartbeat(self.name, 1, self._sequence, self._held, 0, 0, 0, 80 << 20))

    def obey(self) -> list[tuple[str, str, int]]:
        """Read what has come: (name, version, ns) of each plan put in force."""
        found: list[tuple[str, str, int]] = []
        while True:
            try:
                raw = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return found
            kinds = (wire.Refuse, wire.Members, Prepare, NewPlan, wire.Foresee, Activate, Pace)
            message = wire.decode(raw, *kinds)
            if isinstance(message, Prepare):
                held = tuple(self._timings[part] for part in message.parts)
                self._send(Prepared(self.name, 1, message.ticket, held))
            elif isinstance(message, NewPlan | Activate):
                now = time.monotonic_ns()
                plan = message.plan if isinstance(message, NewPlan) else message
                self._held = plan.version
                self._send(Ack(self.name, 1, self._held, 0))
                found.append((self.name, str(self._held), now))
            elif isinstance(message, Pace):
                asked = message.every_us <= self._pace.every_us
                self._pace = message
                if asked:
                    self._heartbeat(time.monotonic_ns())
            elif isinstance(message, wire.Refuse):
                problem = f"{self.name} refused: {message.message}"
                raise ContinuerError(problem)

    def _send(self, message: wire.Message) -> None:
        self.socket.send(wire.encode(message))  # waits for the connection


def drive(
    endpoint: str,
    names: list[str],
    bundle_directory: Path,
    pipe: Connection,
    *,
    beacons: bool,
) -> None:
    """A process of agents. Takes names to close; sends what was put in force, and when."""
    bundle = bundles.load(bundle_directory)
    context: zmq.Context[Any] = zmq.Context()
    agents = {name: Dummy(context, endpoint, name, bundle) for name in names}
    poller = zmq.Poller()
    for agent in agents.values():
        poller.register(agent.socket, zmq.POLLIN)
    poller.register(pipe.fileno(), zmq.POLLIN)
    by_socket = {agent.socket: agent for agent in agents.values()}
    begin = time.monotonic_ns()
    due = [(begin + i * INTERVAL_NS // len(names), name) for i, name in enumerate(names)]
    while True:
        wait_ms = max(0, (due[0][0] - time.monotonic_ns()) // 1_000_000) if due else 100
        for source, _ in poller.poll(wait_ms):
            if source in by_socket:
                for item in by_socket[source].obey():
                    pipe.send(item)
                continue
            name = pipe.recv()
            if name is None:
                return
            agent = agents.pop(name)
            poller.unregister(agent.socket)
            pipe.send((name, "closed", time.monotonic_ns()))
            agent.socket.close(linger=0)
        while due and due[0][0] <= time.monotonic_ns():
            at, name = heapq.heappop(due)
            if name in agents:
                agents[name].beat(time.monotonic_ns(), beacons=beacons)
                # As real agents: beats that were missed are not made up for.
                heapq.heappush(due, (max(at + INTERVAL_NS, time.monotonic_ns()), name))


class Fleet:
    """The driving processes."""

    def __init__(self, endpoint: str, names: list[str], bundle: Path, *, beacons: bool) -> None:
        self._pipes: dict[str, Connection] = {}
        self._processes = []
        for start in range(0, len(names), PER_PROCESS):
            ours, theirs = multiprocessing.Pipe()
            group = names[start : start + PER_PROCESS]
            process = multiprocessing.Process(
                target=drive, args=(endpoint, group, bundle, theirs), kwargs={"beacons": beacons}
            )
            process.start()
            self._processes.append(process)
            self._pipes |= dict.fromkeys(group, ours)

    def close_agent(self, name: str) -> None:
        """Let one die."""
        self._pipes[name].send(name)

    def heard(self, for_s: float) -> Iterator[tuple[str, str, int]]:
        """What the agents put in force, until nothing came for so long."""
        while ready := connection.wait(set(self._pipes.values()), for_s):
            for pipe in ready:
                assert isinstance(pipe, Connection)
                yield pipe.recv()

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()


@contextmanager
def running(agents: int, *, beacons: bool = True) -> Iterator[tuple[Cluster, Fleet]]:
    """A coordinator with so many agents, all in its plan."""
    bundle = find_bundle("resnet32-cifar10")
    names = [f"n{i:03}" for i in range(1, agents + 1)]
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(Path(directory), bundle, names)
        fleet = None
        try:
            cluster.start("coordinator")
            fleet = Fleet(cluster.agents_endpoint, names, bundle, beacons=beacons)
            cluster.wait_until(lambda s: s["health"] == "full", f"{agents} agents", FORM_S)
            yield cluster, fleet
        finally:
            if fleet is not None:
                fleet.stop()
            cluster.stop_all()


def measure(agents: int, deaths: int, seconds: float, *, beacons: bool = True) -> dict[str, Any]:
    """Coordinator CPU while nothing happens; then detection and telling, death by death."""
    with running(agents, beacons=beacons) as (cluster, fleet):
        for _ in fleet.heard(SETTLE_S):
            pass
        cpu = cpu_percent(cluster.processes["coordinator"].pid, seconds)
        alarms = len(cluster.status(brief=True)["failovers"])
        found = [die(cluster, fleet) for _ in range(deaths)]
        failovers = cluster.status(brief=True)["failovers"][alarms:]
    begun = {name: f["begun_ns"] for f in failovers for name in f["nodes"]}
    detect = [(begun[name] - closed) / 1e6 for name, closed, _ in found]
    tell = [(last - begun[name]) / 1e6 for name, _, last in found]
    return {
        "agents": agents,
        "beacons": beacons,
        "deaths": deaths,
        "cpu_percent": round(cpu, 1),
        "false_failovers_idle": alarms,
        "detect_p50_ms": round(statistics.median(detect), 2),
        "detect_p99_ms": high(detect),
        "tell_p50_ms": round(statistics.median(tell), 2),
        "tell_p99_ms": high(tell),
    }


def die(cluster: Cluster, fleet: Fleet) -> tuple[str, int, int]:
    """One agent of the route dies: who, when, and when the last survivor had the next plan."""
    state = cluster.status(brief=True)
    name: str = state["plan"]["route"][len(state["plan"]["route"]) // 2]["node"]
    living = sum(node["state"] == "active" for node in state["nodes"]) - 1
    fleet.close_agent(name)
    closed_ns = 0
    first: dict[str, int] = {}
    for node, what, at in fleet.heard(SETTLE_S):
        if what == "closed":
            closed_ns = at
        else:
            first.setdefault(node, at)
    if len(first) < living:
        raise ContinuerError(f"{living - len(first)} of {living} agents were not told")
    return name, closed_ns, max(first.values())


def cpu_percent(pid: int, seconds: float) -> float:
    """Share of one core that a process uses."""
    before = cpu_s(pid)
    time.sleep(seconds)
    return 100 * (cpu_s(pid) - before) / seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale")
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--deaths", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--no-beacons", action="store_false", dest="beacons")
    options = parser.parse_args()
    asked = (options.agents, options.deaths, options.seconds)
    print(json.dumps(measure(*asked, beacons=options.beacons), indent=1))


if __name__ == "__main__":
    main()
