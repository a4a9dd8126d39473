"""An agent: engine, stage, ingress and control link put together."""

from __future__ import annotations

import gc
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import zmq

from agent.control import Applied, Control, Stop, Unreachable
from agent.engine import Engine
from agent.executor import Executor
from agent.ingress import Ingress
from agent.ingress_core import IngressCore, Limits
from agent.peers import PeerKey, Peers
from agent.plan_holder import InForce, PlanHolder
from agent.stage import Stage
from continuer import __version__, realtime, sockets, wire
from continuer import bundle as bundles
from continuer.config import AgentConfig
from continuer.journal import Journal
from continuer.plan import Member
from continuer.wire import Heartbeat, Join, Prepare, Prepared

MIB = 1 << 20
PAGE_BYTES = os.sysconf("SC_PAGESIZE")
# Python hands the interpreter lock over every 5 ms by default: as long as fifty blocks run.
SWITCH_INTERVAL_S = 1e-4
RSS_EVERY = 100
INPROC_DATA = "inproc://data"
INPROC_ANSWERS = "inproc://answers"
SPARE_PAUSE_S = 2e-3


class Daemon:
    """Raises BundleError or ConfigError before it has opened a socket, or on a busy port."""

    def __init__(self, config: AgentConfig, journal: Journal) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._config = config
        self._journal = journal
        self._bundle = bundles.load(config.bundle)
        self._bundle.verify_files()
        memory = config.memory_mib * MIB if config.memory_mib else float("inf")
        self._engine = Engine(self._bundle, memory)
        self._memory_bytes = int(memory) if config.memory_mib else 0
        self._context: zmq.Context[Any] = zmq.Context()
        clients, answers, data = self._bind()
        incarnation = time.time_ns()  # rises from life to life while the clock is sane
        own: PeerKey = (config.node, incarnation)
        host = sockets.resolve("advertise", config.advertise or config.listen)
        self._member = Member(
            *own,
            *(sockets.endpoint(host, self._ports[name]) for name in ("data", "answers", "ingress")),
        )
        self._holder = PlanHolder(self._bundle.hash)
        self._real_time = config.realtime and realtime.permitted()
        self._rss_bytes = 0
        self._prepare: queue.SimpleQueue[Prepare | None] = queue.SimpleQueue()
        stage_links, stage_executor = self._make_executor(own)
        self._stage = Stage(data, stage_executor, stage_links, self._unreachable)
        ingress_links, ingress_executor = self._make_executor(own)
        self._executors = (stage_executor, ingress_executor)
        limits = Limits(
            config.max_inflight, int(config.max_inflight_mib * MIB), config.resend_after_ms
        )
        self._core = IngressCore(config.cluster, config.node, incarnation, self._bundle, limits)
        self._ingress = Ingress(
            clients, answers, own, self._core, ingress_executor, ingress_links,
            self._journal.write, self._applied, self._unreachable, self._foreign,
        )  # fmt: skip
        self._control = Control(
            config.coordinator, config.heartbeat_ms, self._member,
            self._make_join, self._make_heartbeat, self._holder, journal,
            self._members, self._ingress.mailbox.post, self._prepare.put,
            real_time=self._real_time,
        )  # fmt: skip
        self._loader = threading.Thread(target=self._load, name="loader", daemon=True)
        self._stopped = threading.Event()

    def _make_executor(self, own: PeerKey) -> tuple[tuple[Peers, Peers], Executor]:
        """An executor with links of its own; sockets are not for two threads."""
        peers = Peers(self._context, own, INPROC_DATA, lambda member: member.data)
        ingresses = Peers(self._context, own, INPROC_ANSWERS, lambda member: member.answers)
        executor = Executor(
            own, self._config.cluster, self._bundle, self._engine, peers, ingresses, self._foreign
        )
        return (peers, ingresses), executor

    def _bind(self) -> tuple[sockets.Socket, sockets.Socket, sockets.Socket]:
        config = self._config
        clients = sockets.make(self._context, zmq.ROUTER, wire.MAX_TENSOR_BYTES)
        answers = sockets.make(self._context, zmq.PULL, wire.MAX_TENSOR_BYTES)
        data = sockets.make(self._context, zmq.PULL, wire.MAX_TENSOR_BYTES)
        ports = {
            name: sockets.bind(sock, f"{name}_port", config.listen, port)
            for name, sock, port in (
                ("ingress", clients, config.ingress_port),
                ("answers", answers, config.answers_port),
                ("data", data, config.data_port),
            )
        }
        answers.bind(INPROC_ANSWERS)
        data.bind(INPROC_DATA)
        self._ports = ports
        return clients, answers, data

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopped.set())
        threads = (self._stage, self._ingress, self._loader, self._control)
        gc.freeze()  # what exists now stays; collections need not look at it again
        for thread in threads:
            thread.start()
        self._journal.emit(
            "daemon_started",
            role="agent",
            endpoints=self._ports,
            bundle=self._bundle.name,
            version=__version__,
            realtime=self._real_time,
        )
        reason = "signal"
        while not self._stopped.wait(0.5):
            dead = [thread.name for thread in threads if not thread.is_alive()]
            if dead:
                # A thread that is gone is a defect. Half an agent must not look alive: end,
                # so that the coordinator reroutes and the service manager starts us afresh.
                reason = f"thread {dead[0]} ended"
                break
        self._control.mailbox.post(Stop())
        self._control.join(1)
        self._ingress.mailbox.post(None)
        self._stage.mailbox.post(None)
        self._prepare.put(None)
        for thread in threads:
            thread.join(1)
        self._journal.emit("daemon_stopped", role="agent", reason=reason)
        if reason != "signal":
            os._exit(1)

    # --- what the threads say to each other -------------------------------------------

    def _members(self, members: tuple[Member, ...]) -> None:
        self._stage.mailbox.post(members)
        self._ingress.mailbox.post(members)

    def _applied(self, in_force: InForce, replayed: int) -> None:
        self._control.mailbox.post(Applied(in_force, replayed))

    def _unreachable(self, peer: PeerKey, dropped: int) -> None:
        self._control.mailbox.post(Unreachable(peer, dropped))

    def _foreign(self, socket: str, problem: str, dropped: int) -> None:
        if dropped & (dropped - 1) == 0:  # said at 1, 2, 4, 8, ...: strangers fill no disk
            self._journal.emit("foreign_bytes", socket=socket, problem=problem, dropped=dropped)

    def _load(self) -> None:
        """The loader thread: brings parts into memory while everything else goes on."""
        while True:
            order = self._prepare.get()
            if order is None:
                return
            started = time.monotonic_ns()
            count = len(self._bundle.part_names)
            known = [part for part in order.parts if 0 <= part < count]
            pause_s = 0.0 if order.urgent else SPARE_PAUSE_S
            problem = "; ".join(self._engine.prepare(known, pause_s))
            timings = self._engine.timings()
            member = self._member
            self._control.mailbox.post(
                Prepared(member.node, member.incarnation, order.ticket, timings, problem[:500])
            )
            if problem:
                self._journal.emit("parts_failed", parts=len(known), problem=problem)
            load_ms = (time.monotonic_ns() - started) / 1e6
            self._journal.emit(
                "parts_loaded",
                parts=len(timings),
                load_ms=round(load_ms, 2),
                rss_mib=round(rss_bytes() / MIB, 1),
            )

    def _make_join(self) -> Join:
        config = self._config
        return Join(
            config.cluster,
            self._member,
            self._bundle.name,
            self._bundle.hash,
            self._holder.version,
            self._memory_bytes,
            config.standby,
            self._engine.timings(),
        )

    def _make_heartbeat(self, sequence: int) -> Heartbeat:
        if sequence % RSS_EVERY == 1:
            self._rss_bytes = rss_bytes()
        return Heartbeat(
            self._member.node,
            self._member.incarnation,
            sequence,
            self._holder.version,
            self._core.counters.accepted,
            sum(executor.progress.done for executor in self._executors),
            self._core.inflight,
            self._rss_bytes,
        )


def rss_bytes() -> int:
    """Resident memory of this process."""
    statm = Path("/proc/self/statm").read_text(encoding="ascii")
    return int(statm.split()[1]) * PAGE_BYTES
