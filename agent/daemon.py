"""An agent: engine, stage, ingress and control link put together."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import zmq

from agent import accepted, metrics
from agent.control import Applied, Control, HandOver, Stop, Unreachable
from agent.control_core import Adopt
from agent.engine_choice import make_engine
from agent.executor import Executor
from agent.fetch import Fetcher
from agent.ingress import Ingress
from agent.ingress_core import IngressCore, Limits
from agent.leaving import Leaving, Situation
from agent.loader import Loader
from agent.memory import MIB, rss_bytes
from agent.models import Model, Models
from agent.peers import PeerKey, Peers
from agent.plan_holder import InForce, PlanHolder
from agent.repairs import Accused, Slow, Unwritable
from agent.seeking import seek
from agent.stage import Stage
from agent.staging import Staging
from agent.standstill import Standstill
from continuer import __version__, realtime, sockets, wire
from continuer import bundle as bundles
from continuer.bundle import Bundle
from continuer.config import AgentConfig
from continuer.errors import ConfigError
from continuer.journal import Journal
from continuer.plan import Member, Version
from continuer.security import signing
from continuer.service import Service, unwritable
from continuer.shelf import Shelf
from continuer.store import Store
from continuer.wire import Heartbeat, Join, Offer, Prepare, Prepared, Staged, Unstage

# Python hands the interpreter lock over every 5 ms by default: as long as fifty blocks run.
SWITCH_INTERVAL_S = 1e-4
RSS_EVERY = 100
INPROC_DATA = "inproc://data"
INPROC_ANSWERS = "inproc://answers"
LEAVING_TURN_S = 0.05


class Daemon:
    """Raises BundleError or ConfigError before it has opened a socket, or on a busy port."""

    def __init__(
        self, config: AgentConfig, journal: Journal, service: Service[AgentConfig]
    ) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._config = config
        self._service = service
        self._journal = journal
        self._host = sockets.resolve("advertise", config.advertise or config.listen)
        self._fetching, bundle = self._find_bundle()
        self._memory_bytes = int(config.memory_mib * MIB) if config.memory_mib else 0
        self._context: zmq.Context[Any] = zmq.Context()
        clients, answers, data = self._bind()
        incarnation = time.time_ns()  # rises from life to life while the clock is sane
        own: PeerKey = (config.node, incarnation)
        host = self._host
        self._member = Member(
            *own,
            *(sockets.announce(host, self._ports[name]) for name in ("data", "answers", "ingress")),
        )
        self._holder = PlanHolder(bundle.hash, accepted.load(config.state_dir))
        self._real_time = config.realtime and realtime.permitted()
        self._rss_bytes = 0
        self._stored = self._holder.version
        self._models = Models(self._make_model(bundle), self._models_changed)
        self._staging = Staging(
            config, self._fetching, self._member, self._models, self._start_model, self._report,
            journal,
        )  # fmt: skip
        self._shelf = Shelf(
            config.listen, config.store_port, self._file_of, self._foreign,
            config.transfer_mib_per_s,
        )  # fmt: skip
        stage_links, stage_executor = self._make_executor(own)
        self._stage = Stage(data, INPROC_DATA, stage_executor, stage_links, self._unreachable)
        ingress_links, ingress_executor = self._make_executor(own)
        self._executors = (stage_executor, ingress_executor)
        limits = Limits(
            config.max_inflight, int(config.max_inflight_mib * MIB), config.resend_after_ms
        )
        self._core = IngressCore(config.cluster, config.node, incarnation, bundle, limits)
        self._ingress = Ingress(
            clients, answers, own, self._core, ingress_executor, ingress_links,
            self._journal.write, self._applied, self._unreachable, self._foreign,
            self._report,
        )  # fmt: skip
        self._control = Control(
            config.coordinator, config.heartbeat_ms, self._member,
            self._make_join, self._make_heartbeat, self._holder, journal,
            self._members, self._order, self._prepare, self._on_bundle,
            Standstill((self._stage.pulse, self._ingress.pulse), self._round_us),
            real_time=self._real_time,
        )  # fmt: skip
        self._in_force: InForce | None = None
        self._woken = threading.Event()
        self._pulses = (self._stage.pulse, self._ingress.pulse, self._control.pulse)
        self._metrics = metrics.serve(config.metrics, journal, self._sight, self._pulses)
        if self._metrics is not None:
            self._ports["metrics"] = self._metrics.port

    def _find_bundle(self) -> tuple[tuple[Store, Fetcher] | None, Bundle]:
        """The bundle that was copied here; else the coordinator's, in a store of our own.

        Raises SystemExit where the agent is told to stop while it waits for the coordinator.
        """
        config = self._config
        trusted = signing.trusted_by(config)
        if config.bundle is not None:
            bundle = bundles.load(config.bundle)
            signing.check(bundle, signing.signature_of(bundle.directory), trusted)
            bundle.verify_files()
            return self._make_room(), bundle
        assert config.state_dir is not None  # the configuration is checked
        store = Store(Path(config.state_dir) / "store")
        fetcher = Fetcher(store, config.transfer_mib_per_s)
        self._service.arrange(lambda: None)
        found = seek(config, store, fetcher, self._journal, lambda: self._service.stops > 0)
        if found is None:
            raise SystemExit(0)
        return (store, fetcher), found

    def _make_room(self) -> tuple[Store, Fetcher] | None:
        """Where other bundles than the one that was copied here may be kept, if anywhere."""
        if self._config.state_dir is None:
            return None
        try:
            store = Store(Path(self._config.state_dir) / "store")
        except ConfigError:
            return None  # said when it is needed: what is here runs without
        return store, Fetcher(store, self._config.transfer_mib_per_s)

    def _make_model(self, bundle: Bundle) -> Model:
        """Engine and loader of a bundle; what it reads from the store is fetched where missing."""
        config = self._config
        engine = make_engine(bundle, config, self._journal)
        loader = Loader(
            bundle, engine, self._fetching if bundle.by_hash else None, config.coordinator,
            self._member, self._journal, self._report, self._store,
        )  # fmt: skip
        return Model(bundle, engine, loader)

    def _start_model(self, bundle: Bundle) -> Model:
        model = self._make_model(bundle)
        model.loader.start()
        return model

    def _file_of(self, digest: bytes) -> Path | None:
        """What other agents may fetch from here."""
        for model in self._models.all():
            path = model.bundle.files.get(digest)
            if path is not None and path.is_file():
                return path
        return None

    def _make_executor(self, own: PeerKey) -> tuple[tuple[Peers, Peers], Executor]:
        """An executor with links of its own; sockets are not for two threads."""
        peers = Peers(self._context, own, INPROC_DATA, lambda member: member.data)
        ingresses = Peers(self._context, own, INPROC_ANSWERS, lambda member: member.answers)
        model = self._models.current
        executor = Executor(
            own, self._config.cluster, model.bundle, model.engine, peers, ingresses, self._foreign
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
        self._service.arrange(self._woken.set)
        threads = (self._stage, self._ingress, self._control, self._shelf, self._staging)
        gc.freeze()  # what exists now stays; collections need not look at it again
        for thread in (self._models.current.loader, *threads):
            thread.start()
        self._journal.emit(
            "daemon_started",
            role="agent",
            endpoints=self._ports,
            bundle=self._models.current.bundle.name,
            version=__version__,
            realtime=self._real_time,
        )
        self._service.ready(self._status(), self._pulses)
        dead: list[str] = []
        while not self._service.stops and not dead:
            self._turn()
            working = (self._models.current.loader, *threads)
            dead = [thread.name for thread in working if not thread.is_alive()]
        # A thread that is gone is a defect. Half an agent must not look alive: end,
        # so that the coordinator reroutes and the service manager starts us afresh.
        reason = f"thread {dead[0]} ended" if dead else "signal"
        if not dead:
            self._hand_over()
        self._control.mailbox.post(Stop())
        self._control.join(1)
        self._ingress.mailbox.post(None)
        self._stage.mailbox.post(None)
        loaders = [model.loader for model in self._models.all()]
        for loader in loaders:
            loader.post(None)
        self._staging.post(None)
        self._shelf.stop()
        if self._metrics is not None:
            self._metrics.stop()
        for worker in (*loaders, *threads):
            worker.join(1)
        for model in self._models.all():
            model.engine.stop()
        self._journal.emit("daemon_stopped", role="agent", reason=reason)
        if reason != "signal":
            os._exit(1)

    def _turn(self, wait_s: float = 0.5) -> None:
        """Once in a while, and when a signal has come."""
        self._woken.wait(wait_s)
        self._woken.clear()
        self._service.reloaded()
        self._models.release(time.monotonic_ns())
        self._service.turn(time.monotonic_ns(), self._status())

    def _status(self) -> str:
        joined = "joined" if self._control.joined else "waiting for"
        return f"{joined} {self._config.coordinator}, plan {self._holder.version}"

    def _hand_over(self) -> None:
        """Have others do this agent's work before it stops; a second signal ends the wait."""
        self._service.stopping("handing its work over")
        begun_ns = time.monotonic_ns()
        self._control.mailbox.post(HandOver())
        leaving = Leaving(self._config.node, int(self._config.drain_timeout_s * 1e9), begun_ns)
        outcome = None
        while outcome is None and self._service.stops == 1:
            self._turn(LEAVING_TURN_S)
            outcome = leaving.outcome(self._situation(), time.monotonic_ns())
        drain_ms = round((time.monotonic_ns() - begun_ns) / 1e6, 1)
        outcome = outcome or "told to stop again"
        self._journal.emit("handed_over", outcome=outcome, drain_ms=drain_ms)

    def _situation(self) -> Situation:
        received = sum(executor.progress.received for executor in self._executors)
        return Situation(
            joined=self._control.joined,
            refusal=self._control.retire_refusal,
            in_force=self._in_force,
            inflight=self._core.inflight,
            arrived=received + self._core.counters.accepted,
        )

    def _sight(self) -> metrics.Sight:
        """For metrics; read in a thread of theirs."""
        held, counters = self._in_force, self._core.counters
        progress = [executor.progress for executor in self._executors]
        return metrics.Sight(
            joined=self._control.joined,
            technique=held.step.technique if held is not None else None,
            version=self._holder.version,
            failed_nodes=len(held.failed) if held is not None else 0,
            accepted=counters.accepted,
            answered=counters.answered,
            failed=counters.failed,
            refused=counters.refused,
            resent=counters.resent,
            inflight=self._core.inflight,
            stages=sum(one.done for one in progress),
            foreign=sum(one.foreign for one in progress),
            parts=sum(len(model.engine.timings()) for model in self._models.all()),
            rss_bytes=rss_bytes(self._models.current.engine.pid),
        )

    # --- bundles ----------------------------------------------------------------------

    def _models_changed(self, models: list[Model]) -> None:
        """What can be run here is another set: whoever obeys plans for it comes last."""
        engines = {model.bundle: model.engine for model in models}
        for executor in self._executors:
            executor.serve(engines)
        self._core.know(engines)
        self._holder.bundles = {bundle.hash for bundle in engines}

    def _on_bundle(self, order: Offer | Unstage | Adopt) -> None:
        if isinstance(order, Adopt):
            self._models.adopt(order.bundle)
        else:
            self._staging.post(order)

    def _prepare(self, order: Prepare) -> None:
        model = self._models.find(order.bundle)
        if model is not None:  # else it was let go meanwhile
            model.loader.post(order)

    def _order(self, order: InForce) -> None:
        """A step to put in force; with it perhaps another bundle."""
        now = time.monotonic_ns()
        if self._models.in_force(order.bundle, order.version.term, now):
            bundle = self._models.current.bundle
            self._staging.post(bundle)
            self._journal.emit(
                "bundle_switched",
                bundle=bundle.name,
                digest=bundle.hash.hex()[:16],
                version=str(order.version),
            )
        self._ingress.mailbox.post(order)

    # --- what the threads say to each other -------------------------------------------

    def _members(self, members: tuple[Member, ...]) -> None:
        self._stage.mailbox.post(members)
        self._ingress.mailbox.post(members)

    def _applied(self, in_force: InForce, replayed: int) -> None:
        self._in_force = in_force
        self._control.mailbox.post(Applied(in_force, replayed))
        if in_force.version > self._stored:
            self._stored = in_force.version
            self._models.current.loader.post(in_force.version)

    def _report(self, report: Unwritable | Slow | Accused | Prepared | Staged) -> None:
        self._control.mailbox.post(report)

    def _unreachable(self, peer: PeerKey, dropped: int) -> None:
        self._control.mailbox.post(Unreachable(peer, dropped))

    def _foreign(self, socket: str, problem: str, dropped: int) -> None:
        if dropped & (dropped - 1) == 0:  # said at 1, 2, 4, 8, ...: strangers fill no disk
            self._journal.emit("foreign_bytes", socket=socket, problem=problem, dropped=dropped)

    def _store(self, version: Version) -> None:
        """Keep the version for the next life; on the loader's time, since a disk may be slow."""
        if self._config.state_dir is None:
            return
        try:
            accepted.save(self._config.state_dir, version)
        except OSError as error:
            self._journal.emit(
                "state_unwritable", problem=unwritable(self._config.state_dir, error)
            )

    def _make_join(self) -> Join:
        config, model = self._config, self._models.current
        return Join(
            config.cluster,
            self._member,
            model.bundle.name,
            model.bundle.hash,
            self._holder.version,
            self._memory_bytes,
            config.standby,
            model.engine.timings(),
            model.loader.stored(),
            sockets.announce(self._host, self._shelf.port),
        )

    def _round_us(self) -> float:
        """What all parts in memory take to be loaded and run here, in us."""
        timings = [t for model in self._models.all() for t in model.engine.timings()]
        return sum(t.latency_us + t.load_us for t in timings)

    def _make_heartbeat(self, sequence: int) -> Heartbeat:
        if sequence % RSS_EVERY == 1:
            self._rss_bytes = rss_bytes(self._models.current.engine.pid)
        return Heartbeat(
            self._member.node,
            self._member.incarnation,
            sequence,
            self._holder.version,
            self._core.counters.accepted,
            sum(executor.progress.done for executor in self._executors),
            self._core.inflight,
            self._rss_bytes,
            int(sum(executor.progress.worked_us for executor in self._executors)),
            int(sum(executor.progress.predicted_us for executor in self._executors)),
            repairs=self._control.repairs,
        )
