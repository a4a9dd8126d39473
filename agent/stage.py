"""The stage thread: receives work, runs its parts, forwards. Reads the route, needs no plan."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

from agent.engine import Engine
from agent.peers import PeerKey, Peers
from continuer import sockets, wire
from continuer.bundle import Bundle, tensor_problem
from continuer.errors import BundleError, WireError
from continuer.mailbox import Mailbox
from continuer.plan import Member
from continuer.wire import BUNDLE_ID_BYTES, Problem, Result, Work

INPROC_DATA = "inproc://data"
INPROC_ANSWERS = "inproc://answers"
POLL_MS = 200


class Progress(msgspec.Struct):
    """What the stage has done; read by the heartbeat."""

    received: int = 0
    done: int = 0
    foreign: int = 0
    expired: int = 0


class Stage(threading.Thread):
    """Owns the data socket (tensors in) and the links to peers (tensors and answers out)."""

    def __init__(
        self,
        context: zmq.Context[Any],
        data: sockets.Socket,
        own: PeerKey,
        cluster: str,
        bundle: Bundle,
        engine: Engine,
        on_unreachable: Callable[[PeerKey, int], None],
        on_foreign: Callable[[str, str, int], None],
    ) -> None:
        super().__init__(name="stage", daemon=True)
        self.mailbox: Mailbox[tuple[Member, ...] | None] = Mailbox()
        self.progress = Progress()
        self._data = data
        self._own = own
        self._cluster = cluster
        self._bundle = bundle
        self._engine = engine
        self._on_unreachable = on_unreachable
        self._on_foreign = on_foreign
        self._peers = Peers(context, own, INPROC_DATA, lambda member: member.data)
        self._ingresses = Peers(context, own, INPROC_ANSWERS, lambda member: member.answers)

    def run(self) -> None:
        """Serve until None is posted to the mailbox."""
        poller = zmq.Poller()
        poller.register(self._data, zmq.POLLIN)
        poller.register(self.mailbox.fd, zmq.POLLIN)
        while True:
            waiting = self._peers.waiting or self._ingresses.waiting
            ready = dict(poller.poll(1 if waiting else POLL_MS))
            if self.mailbox.fd in ready:
                for members in self.mailbox.take():
                    if members is None:
                        self._close()
                        return
                    self._peers.update(members)
                    self._ingresses.update(members)
            if self._data in ready:
                self._receive()
            if waiting:
                self._flush()

    def _receive(self) -> None:
        try:
            frames = self._data.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        started = time.perf_counter_ns()
        self.progress.received += 1
        try:
            work = wire.decode(frames[0], Work)
            tensors = wire.from_frames(work.tensors, frames[1:])
            self._check(work)
        except WireError as error:
            self.progress.foreign += 1
            self._on_foreign("data", str(error), self.progress.foreign)
            return
        if work.bundle != self._bundle.hash[:BUNDLE_ID_BYTES]:
            self._complain(work, "bundle", "this agent holds another bundle")
            return
        hop = work.route[work.cursor]
        names = self._bundle.part_names
        if not all(0 <= part < len(names) for part in hop.parts):
            self._complain(work, "bad_route", "a part that the bundle does not have")
            return
        if hop.parts:
            wrong = tensor_problem(self._bundle.parts[names[hop.parts[0]]].inputs, tensors)
            if wrong is not None:
                self._complain(work, "bad_input", wrong)
                return
        try:
            tensors = self._engine.run(hop.parts, tensors)
        except (BundleError, ValueError, RuntimeError) as error:
            # ValueError and RuntimeError are what the runtime raises for tensors or models
            # it cannot work with; whatever it is, the stage lives on.
            self._complain(work, "failed", f"{type(error).__name__}: {error}")
            return
        self._forward(work, tensors, (time.perf_counter_ns() - started) // 1000)
        self.progress.done += 1

    def _check(self, work: Work) -> None:
        if work.cluster != self._cluster:
            raise WireError(f"cluster = {work.cluster!r}: this is {self._cluster!r}")
        if not 0 <= work.cursor < len(work.route):
            raise WireError(f"cursor = {work.cursor}: the route has {len(work.route)} hops")
        if work.route[work.cursor].node != self._own[0]:
            raise WireError(f"the hop is for {work.route[work.cursor].node!r}")

    def _forward(self, work: Work, tensors: list[wire.Array], spent_us: int) -> None:
        remaining_us = work.remaining_us - spent_us
        if remaining_us <= 0:
            self.progress.expired += 1
            return  # the ingress has ended it, or will at once
        frames = wire.to_frames(tensors)
        metas = wire.metas(tensors)
        following = work.cursor + 1
        if following < len(work.route):
            hop = work.route[following]
            onward = msgspec.structs.replace(
                work,
                cursor=following,
                remaining_us=remaining_us,
                tensors=metas,
                compute_us=work.compute_us + spent_us,
            )
            self._peers.send((hop.node, hop.incarnation), [wire.encode(onward), *frames])
            return
        result = Result(
            work.cluster,
            work.client,
            work.seq,
            work.origin_incarnation,
            work.attempt,
            work.version,
            work.route,
            work.compute_us + spent_us,
            metas,
        )
        origin = (work.origin, work.origin_incarnation)
        self._ingresses.send(origin, [wire.encode(result), *frames])

    def _complain(self, work: Work, code: str, message: str) -> None:
        problem = Problem(
            work.cluster,
            work.client,
            work.seq,
            work.origin_incarnation,
            work.attempt,
            self._own[0],
            code,
            message[:500],
        )
        origin = (work.origin, work.origin_incarnation)
        self._ingresses.send(origin, [wire.encode(problem)])

    def _flush(self) -> None:
        for peers in (self._peers, self._ingresses):
            for key, count in peers.flush().items():
                self._on_unreachable(key, count)

    def _close(self) -> None:
        self._peers.close()
        self._ingresses.close()
        self._data.close(linger=0)
