"""The coordinator's shell: sockets, clock and journal around the deciding core."""

from __future__ import annotations

import gc
import socket as tcp
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from continuer import __version__, realtime, sockets, wire
from continuer import bundle as bundles
from continuer.bundle import Bundle
from continuer.config import CoordinatorConfig
from continuer.errors import EXIT_CONFIG, EXIT_PERMISSION, ConfigError, WireError
from continuer.journal import Event, Journal
from continuer.notify import Pulse
from continuer.security import access
from continuer.security.identity import Identity
from continuer.service import Service, unwritable
from continuer.shelf import Shelf
from continuer.wire import (
    Accuse,
    Ack,
    Ask,
    Enrol,
    Heartbeat,
    Join,
    Keyring,
    Leave,
    Members,
    Offer,
    Pace,
    Prepared,
    Refuse,
    Retire,
    Seek,
    Staged,
    Stale,
    Tell,
)
from coordinator import metrics
from coordinator.admission import Admission
from coordinator.beacon_door import BeaconDoor
from coordinator.commands import Command, Decided, Probe, Send, SetPace
from coordinator.core import Coordinator
from coordinator.deploy_verbs import DeployVerbs
from coordinator.deploying import Deployments
from coordinator.event_ring import EventRing
from coordinator.intake import VERBS as INTAKE_VERBS
from coordinator.intake import Intake
from coordinator.library import Library
from coordinator.membership import links
from coordinator.orders import Orders
from coordinator.orders import load as load_orders
from coordinator.predictions import read as read_table
from coordinator.status import health, status
from coordinator.verbs import Verbs

PROBE_TIMEOUT_NS = 200_000_000
READ_AT_MOST = 500
# Preparing for failures takes a millisecond at a time, and an agent on the same box needs the
# core too: with real-time priority one after the other would hold up requests for 20 ms.
IDLE_EVERY_NS = 5_000_000
IDLE_PAUSE = 2
TURN_EVERY_NS = 200_000_000
TERM_FILE = "term"
JOINING = 64
ADMISSION_VERBS = ("token.", "node.")
NO_KEYS = (
    "this coordinator uses no keys, so everyone may join; to change that, 'continuer node init' "
    "and restart it"
)


class Daemon:
    """Runs until told to stop. Raises ConfigError before it opens a socket, or on a busy port."""

    def __init__(
        self, config: CoordinatorConfig, journal: Journal, service: Service[CoordinatorConfig]
    ) -> None:
        self._journal = journal
        self._config = config
        self._state = Path(config.state_dir) if config.state_dir else None
        orders = load_orders(self._state)
        self._library = Library(bundles.load(config.bundle), self._state)
        bundle, said = self._library.serve()
        self._unwritten: deque[Event] = deque(said)
        core = Coordinator(config, bundle, self._stored_term(), orders)
        self._stored = core.version.term
        self._deployments = Deployments(core, self._make_core, self._library.remember)
        ring = EventRing()
        journal.listeners.append(ring.add)
        deploying = DeployVerbs(self._deployments, self._library)
        self._verbs = Verbs(core, orders, self._state, ring, deploying)
        self._intake = Intake(self._library, lambda: self._deployments.running is not None)
        self._context: zmq.Context[Any] = zmq.Context()
        self._real_time = config.realtime and realtime.permitted()
        if self._real_time:
            realtime.raise_context(self._context)
        self._agents = sockets.make(self._context, zmq.ROUTER, wire.MAX_CONTROL_BYTES)
        self._control = sockets.make(self._context, zmq.ROUTER, wire.MAX_CONTROL_BYTES)
        self._monitor = self._agents.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self.agents_port = sockets.bind(
            self._agents, "agents_port", config.listen, config.agents_port
        )
        self.control_port = sockets.bind(
            self._control, "control_port", config.listen, config.control_port
        )
        self._beacons = BeaconDoor(
            config.listen, self.agents_port, lambda problem: self._foreign("beacons", problem)
        )
        self._gates = {"agents": access.gate("agents"), "control": access.gate("control")}
        self._admission, self._join = self._make_admission()
        self._shelf = Shelf(
            config.listen,
            config.store_port,
            self._library.file_of,
            self._foreign_file,
            config.transfer_mib_per_s,
        )
        self._equip(core)
        self._poller = zmq.Poller()
        for sock in (self._agents, self._control, self._monitor, self._join):
            if sock is not None:
                self._poller.register(sock, zmq.POLLIN)
        self._poller.register(self._intake.mailbox.fd, zmq.POLLIN)
        self._open_fds: set[int] = set()
        self._link_of_fd: dict[int, bytes] = {}
        self._known: set[bytes] = set()
        self._probes: dict[int, tuple[tcp.socket, Probe, int]] = {}
        self._dropped = 0
        self._service = service
        self._pulse = Pulse("coordinator")
        self._metrics = metrics.serve(config.metrics, journal, self._brief, [self._pulse])
        self._turn_ns = 0

    @property
    def _core(self) -> Coordinator:
        """The core in force."""
        return self._deployments.core

    def _make_core(self, bundle: Bundle, orders: Orders, former: Coordinator) -> Coordinator:
        """A core for another bundle; it outranks and outlives the one in force."""
        made = Coordinator(former.config, bundle, former.version.term, orders, former)
        made.planning.timings = former.planning.timings
        made.planning.rate.per_s = former.planning.rate.per_s
        self._equip(made)
        return made

    def _equip(self, core: Coordinator) -> None:
        """What a core cannot find out by itself: predictions, and what we hand out."""
        bundle = core.bundle
        core.planning.table, said = read_table(self._config.tables, bundle)
        self._unwritten.append(said)
        core.shelf_endpoint = sockets.announce("*", self._shelf.port)
        core.planning.shelf = frozenset(
            bundle.part_ids[name] for name in bundle.parts if bundle.file_of(name).is_file()
        )

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        # The loop comes around every 20 ms, and looks at what signals have left.
        self._service.arrange(lambda: None)
        self._journal.emit(
            "daemon_started",
            role="coordinator",
            endpoints=self._endpoints(),
            bundle=self._core.bundle.name,
            version=__version__,
            realtime=self._real_time,
        )
        if self._real_time:
            realtime.raise_thread()
        # A full collection takes milliseconds at the worst of moments; what exists now stays.
        gc.freeze()
        self._shelf.start()
        self._intake.start()
        due = self._deployments.due(time.monotonic_ns())
        idle_due = 0
        self._service.ready(self._status(), [self._pulse])
        while not self._service.stops:
            wait_ms = max(0, -(-(due - time.monotonic_ns()) // 1_000_000))
            if self._deployments.busy:
                wait_ms = min(wait_ms, IDLE_EVERY_NS // 1_000_000)
            ready = dict(self._poller.poll(0 if self._unwritten else wait_ms))
            if not ready:
                self._write_events()
            self._read(ready)
            now = time.monotonic_ns()
            if self._deployments.busy and now >= idle_due:
                self._perform(self._deployments.on_idle(now))
                done = time.monotonic_ns()
                # In a large fleet a piece of this takes long: most of the time is for what comes.
                idle_due = done + max(IDLE_EVERY_NS, IDLE_PAUSE * (done - now))
            if now >= due:
                self._read_beacons(now)
                self._perform(self._deployments.on_tick(now))
                self._expire_probes(now)
                due = self._deployments.due(time.monotonic_ns())
            self._turn(now)
        self._service.stopping("")
        if self._metrics is not None:
            self._metrics.stop()
        self._shelf.stop()
        self._intake.post(None)
        self._write_events()
        self._journal.emit("daemon_stopped", role="coordinator", reason="signal")
        self._beacons.close()
        self._agents.disable_monitor()
        sockets.end(self._context)

    def _turn(self, now: int) -> None:
        """After every round: earn the watchdog's feed, and see to a reload."""
        self._pulse.beat()
        if now >= self._turn_ns:
            self._turn_ns = now + TURN_EVERY_NS
            self._service.turn(now, self._status())
        config = self._service.reloaded()
        if config is not None:
            self._perform(self._verbs.configured(config.objectives, now))
            self._perform(self._deployments.orders_changed(now))

    def _endpoints(self) -> dict[str, int]:
        ports = {"agents": self.agents_port, "control": self.control_port}
        return ports if self._metrics is None else {**ports, "metrics": self._metrics.port}

    def _brief(self) -> dict[str, Any]:
        """For metrics; read in a thread of theirs."""
        return status(self._core, time.monotonic_ns(), brief=True)

    def _status(self) -> str:
        nodes = self._core.membership
        live = f"{len(nodes.live())} of {len(nodes.nodes)} nodes"
        return f"{health(self._core)}, plan {self._core.version}, {live}"

    # --- receiving --------------------------------------------------------------------

    def _read(self, ready: dict[Any, int]) -> None:
        if self._agents in ready or self._monitor in ready:
            self._read_agents()  # what was said before a link closed comes before its closing
        if self._monitor in ready:
            self._read_monitor()
        for fd in [fd for fd in ready if fd in self._probes]:
            self._finish_probe(fd)
        if self._control in ready:
            self._read_control()
        if self._intake.mailbox.fd in ready:
            self._tell(self._intake.mailbox.take())
        if self._join in ready:
            self._read_join()

    def _read_monitor(self) -> None:
        """Connections that came and went, in order. Descriptors are used again and again."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            fd = int(event["value"])
            link = self._link_of_fd.pop(fd, None)
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._open_fds.add(fd)
            else:
                self._open_fds.discard(fd)
            if link is not None:
                self._closed(link)

    def _read_agents(self) -> None:
        for _ in range(READ_AT_MOST):
            try:
                frames = self._agents.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            now = time.monotonic_ns()
            link = frames[0].bytes
            try:
                sender = self._gates["agents"].sender(frames[-1])
                if link not in self._known:
                    self._learn_link(link, frames[-1])
                if len(frames) != 2:
                    raise WireError(f"{len(frames)} frames; expected 2")
                message = wire.decode(
                    frames[1].buffer,
                    *(Heartbeat, Join, Ack, Prepared, Stale, Accuse, Retire, Leave, Seek, Staged),
                )
                self._gates["agents"].check(sender, message)
            except wire.ProtocolMismatchError as error:
                self._send(link, wire.encode(Refuse("protocol", str(error))))
                self._foreign("agents", error)
                continue
            except WireError as error:
                self._foreign("agents", error)
                continue
            if isinstance(message, Join) and sender is not None:
                self._introduce(link, sender)
            if isinstance(message, Seek):
                self._offer(link, message)
                continue
            self._perform(self._deployments.on_message(link, message, now))

    def _read_beacons(self, now: int) -> None:
        for b in self._beacons.read(now):
            said = (b.node, b.incarnation, b.sequence, b.interval_ns, b.at_ns)
            commands = self._deployments.on_beacon(*said)
            if commands:
                self._perform(commands)

    def _offer(self, link: bytes, seek: Seek) -> None:
        """Tell an agent that has no bundle which one is served, and where it is handed out."""
        source = self._core.shelf_endpoint
        signature = self._library.signature
        answer: Offer | Refuse = Offer(self._core.bundle.hash, source, signature)
        if seek.cluster != self._config.cluster:
            answer = Refuse("cluster", f"this coordinator serves {self._config.cluster!r}")
        self._send(link, wire.encode(answer))

    def _learn_link(self, link: bytes, frame: zmq.Frame) -> None:
        """Remember the connection of a link, so that its closing can be told from others'.

        Raises WireError where the connection has closed already: nobody is there any more.
        """
        try:
            fd = int(frame.get(zmq.SRCFD))
        except zmq.ZMQError as error:  # a peer of the oldest protocol, which no agent speaks
            raise WireError("a message without a connection") from error
        self._read_monitor()  # all that befell the descriptor before this message was sent
        if fd not in self._open_fds:
            raise WireError("its sender has gone")
        self._link_of_fd[fd] = link
        self._known.add(link)

    def _closed(self, link: bytes) -> None:
        self._known.discard(link)
        self._perform(self._deployments.on_link_closed(link, time.monotonic_ns()))

    def _read_control(self) -> None:
        while self._control.poll(0):
            try:
                frames, sender = self._gates["control"].receive(self._control)
            except zmq.Again:
                return
            try:
                if len(frames) != 2:
                    raise WireError(f"{len(frames)} frames; expected 2")
                answer = self._answer(frames[0], wire.decode(frames[1], Ask), sender)
            except wire.ProtocolMismatchError as error:
                answer = Tell({}, str(error))
            except WireError as error:
                self._foreign("control", error)
                continue
            if answer is not None:
                self._tell([(frames[0], answer)])

    def _tell(self, answers: Iterable[tuple[bytes, Tell]]) -> None:
        for link, answer in answers:
            try:
                self._control.send_multipart([link, wire.encode(answer)], zmq.NOBLOCK)
            except zmq.ZMQError:
                continue  # who asked has gone

    def _answer(self, link: bytes, ask: Ask, sender: Identity | None) -> Tell | None:
        """What is said at once; None where a thread answers that may wait for the disk."""
        try:
            self._gates["control"].check(sender, ask)
        except access.RefusedError as error:
            return Tell({}, str(error), EXIT_PERMISSION)
        if self._admission is not None and sender is not None:
            told = self._admission.answer(ask, sender)
            if told is not None:
                return told
        elif ask.verb.startswith(ADMISSION_VERBS):
            return Tell({}, NO_KEYS, EXIT_CONFIG)
        if ask.verb in INTAKE_VERBS:
            self._intake.post((link, ask))
            return None
        answer, commands = self._verbs.answer(ask, time.monotonic_ns())
        self._perform(commands)
        if commands:  # an order: what is being made ready has to obey it too
            self._perform(self._deployments.orders_changed(time.monotonic_ns()))
        return answer

    # --- who is known -----------------------------------------------------------------

    def _make_admission(self) -> tuple[Admission | None, sockets.Socket | None]:
        """Where keys are used: a door for those who have none yet, shut unless a token is open."""
        own = access.installed()
        if own is None:
            return None, None
        made = Admission(self._config, own, self._journal, self._ring_changed)
        door = sockets.make(self._context, zmq.ROUTER, wire.MAX_HEADER_BYTES, high_water=JOINING)
        join_port = sockets.bind(door, "join_port", self._config.listen, self._config.join_port)
        made.ports = {
            "agents": self.agents_port, "control": self.control_port, "join": join_port
        }  # fmt: skip
        return made, door

    def _read_join(self) -> None:
        assert self._admission is not None
        assert self._join is not None
        for _ in range(JOINING):  # strangers may be many; the fleet comes first
            try:
                frames = self._join.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            try:
                if len(frames) != 2:
                    raise WireError(f"{len(frames)} frames; expected 2")
                enrol = wire.decode(frames[1].buffer, Enrol)
            except WireError as error:
                self._foreign("join", error)
                continue
            members = self._core.membership.members()
            ingresses = tuple((member.node, member.ingress) for member in members)
            answer = self._admission.enrol(enrol, str(frames[1].get("User-Id")), ingresses)
            try:
                self._join.send_multipart([frames[0].bytes, wire.encode(answer)], zmq.NOBLOCK)
            except zmq.ZMQError:
                continue  # who asked has gone, and is known: it may try again as that

    def _introduce(self, link: bytes, sender: Identity) -> None:
        """Before an agent is told of others: their keys. Its new key replaces an older one."""
        own = access.installed()
        assert own is not None
        assert self._admission is not None
        self._admission.used(sender)
        self._send(link, wire.encode(Keyring(own.ring.identities)))

    def _ring_changed(self, out: frozenset[str]) -> None:
        """Tell every agent whose keys are good, and do without nodes whose keys are not."""
        own = access.installed()
        assert own is not None
        membership = self._core.membership
        raw = wire.encode(Keyring(own.ring.identities))
        for link in links(membership.nodes.values()):
            self._send(link, raw)
        for node in [membership.nodes[name] for name in out if name in membership.nodes]:
            if node.link is not None and node.member is not None:
                goodbye = Leave(node.name, node.member.incarnation)
                commands = self._deployments.on_message(node.link, goodbye, time.monotonic_ns())
                self._perform(commands)
        if out:
            left = Members(membership.members())
            live = links(node for node in membership.live())
            self._perform([Send(link, left) for link in live])

    # --- strangers --------------------------------------------------------------------

    def _foreign_file(self, socket: str, problem: str, dropped: int) -> None:
        if dropped & (dropped - 1) == 0:  # 1, 2, 4, 8, ...
            self._journal.emit("foreign_bytes", socket=socket, problem=problem, dropped=dropped)

    def _foreign(self, socket: str, error: WireError | str) -> None:
        """Strangers' bytes: dropped, counted, and said only now and then."""
        self._dropped += 1
        if self._dropped & (self._dropped - 1) == 0:  # 1, 2, 4, 8, ...
            self._journal.emit(
                "foreign_bytes", socket=socket, problem=str(error), dropped=self._dropped
            )

    # --- performing -------------------------------------------------------------------

    def _perform(self, commands: Sequence[Command]) -> None:
        encoded: dict[int, bytes] = {}
        events = []
        for command in commands:
            if isinstance(command, Send):
                key = id(command.message)
                if key not in encoded:
                    encoded[key] = wire.encode(command.message)
                self._send(command.link, encoded[key])
            elif isinstance(command, Decided):
                self._deployments.decided(command.version, time.monotonic_ns())
            elif isinstance(command, Probe):
                self._start_probe(command)
            elif isinstance(command, SetPace):
                self._send(command.link, wire.encode(self._pace(command)))
            else:
                events.append(command)
        self._unwritten.extend(events)
        self._verbs.serve(self._core)
        self._store_term()

    def _pace(self, order: SetPace) -> Pace:
        if not self._beacons.is_open:
            return Pace(order.every_us)
        session = None if order.fresh else self._beacons.session(order.node)
        session = session or self._beacons.admit(order.node, order.incarnation)
        return Pace(order.every_us, session.number, session.key)

    def _write_events(self) -> None:
        """Write what has happened, once no message waits: acknowledgements come first."""
        while self._unwritten:
            self._journal.write(self._unwritten.popleft())

    def _send(self, link: bytes, raw: bytes) -> None:
        try:
            self._agents.send_multipart([link, raw], zmq.NOBLOCK)
        except zmq.ZMQError:
            # Gone, or not reading: its closed link or its silence will tell.
            return

    def _start_probe(self, probe: Probe) -> None:
        sock, refused = sockets.connect_probe(probe.endpoint)
        if refused is not None:
            sock.close()
            now = time.monotonic_ns()
            self._perform(self._deployments.on_probe(probe.node, probe.incarnation, refused, now))
            return
        self._probes[sock.fileno()] = (sock, probe, time.monotonic_ns())
        self._poller.register(sock.fileno(), zmq.POLLOUT)

    def _finish_probe(self, fd: int) -> None:
        sock, probe, _ = self._probes.pop(fd)
        self._poller.unregister(fd)
        refused = sockets.probe_refused(sock)
        sock.close()
        now = time.monotonic_ns()
        self._perform(self._deployments.on_probe(probe.node, probe.incarnation, refused, now))

    def _expire_probes(self, now: int) -> None:
        for fd, (_, _, begun) in list(self._probes.items()):
            if now - begun > PROBE_TIMEOUT_NS:
                self._finish_probe(fd)

    # --- the term ---------------------------------------------------------------------

    def _stored_term(self) -> int:
        if self._state is None:
            return 0
        path = self._state / TERM_FILE
        try:
            return int(path.read_text())
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise ConfigError(
                "state_dir", str(self._state), f"cannot read {path}: {error}; repair or remove it"
            ) from error

    def _store_term(self) -> None:
        """Persist a new term; it changes once in a coordinator's life, before its first plan."""
        if self._state is None or self._core.version.term == self._stored:
            return
        self._stored = self._core.version.term
        try:
            self._state.mkdir(parents=True, exist_ok=True)
            temporary = self._state / (TERM_FILE + ".new")
            temporary.write_text(str(self._stored))
            temporary.replace(self._state / TERM_FILE)
        except OSError as error:
            # Agents remember the term as well, so a full disk is no reason to stop serving.
            self._unwritten.append(
                Event("state_unwritable", {"problem": unwritable(self._state, error)})
            )
