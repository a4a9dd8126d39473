"""Running one hop of a request: check what arrived, run its parts, send the outcome on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from agent.engine import Engine, EngineDiedError
from agent.peers import PeerKey, Peers
from agent.repairs import ENGINE_DIED, UNREACHABLE
from continuer import wire
from continuer.bundle import Bundle, tensor_problem
from continuer.errors import BundleError, WireError
from continuer.wire import BUNDLE_ID_BYTES, Problem, Result, TensorMeta, Work

# A hop as short as this is run by the ingress itself instead of waking the stage's thread.
INLINE_US = 2000.0


class Progress(msgspec.Struct):
    """What one executor has done; read by the heartbeat.

    ``worked_us`` and ``predicted_us``: see ``Heartbeat``.
    """

    received: int = 0
    done: int = 0
    foreign: int = 0
    expired: int = 0
    worked_us: float = 0.0
    predicted_us: float = 0.0


class Model:
    """A bundle that can be run here, and the engine that runs it."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.engine = engine
        self._parts = bundle.manifest.parts
        self._inputs = [wire.metas(part.inputs) for part in self._parts]
        self.outputs = [wire.metas(part.outputs) for part in self._parts]

    def problem(self, work: Work, tensors: list[wire.Array]) -> tuple[str, str] | None:
        """Code and text of what is wrong with work for this bundle; None if nothing is."""
        parts = work.route[work.cursor].parts
        if not parts or not all(0 <= part < len(self._inputs) for part in parts):
            return "bad_route", "no part, or one that the bundle does not have"
        if work.tensors != self._inputs[parts[0]]:
            wrong = tensor_problem(self._parts[parts[0]].inputs, tensors)
            return "bad_input", wrong or "another quantisation"
        return None


class Executor:
    """For one thread, with that thread's links. The engine is shared."""

    def __init__(
        self,
        own: PeerKey,
        cluster: str,
        bundle: Bundle,
        engine: Engine,
        peers: Peers,
        ingresses: Peers,
        on_foreign: Callable[[str, str, int], None],
    ) -> None:
        self.progress = Progress()
        self._own = own
        self._cluster = cluster
        self._models = {bundle.hash[:BUNDLE_ID_BYTES]: Model(bundle, engine)}
        self._peers = peers
        self._ingresses = ingresses
        self._on_foreign = on_foreign

    def serve(self, models: Mapping[Bundle, Engine]) -> None:
        """From now on run work for these bundles, and no others. From any thread."""
        self._models = {b.hash[:BUNDLE_ID_BYTES]: Model(b, e) for b, e in models.items()}

    def receive(self, frames: Sequence[Any]) -> None:
        """Handle a multipart from the data socket, whatever it is."""
        started = time.perf_counter_ns()
        self.progress.received += 1
        try:
            work = wire.decode(frames[0], Work)
            tensors = wire.from_frames(work.tensors, frames[1:])
            self._check(work)
            model = self._models.get(work.bundle)
            if model is None:
                self._complain(work, "bundle", "this agent holds another bundle")
                return
            problem = model.problem(work, tensors)
            if problem is not None:
                self._complain(work, *problem)
                return
            with model.engine.lock:
                self._execute(model, work, tensors, started)
        except WireError as error:
            # Also what is so long that the header of its outcome would exceed the cap.
            self.progress.foreign += 1
            self._on_foreign("data", str(error), self.progress.foreign)

    def try_inline(self, work: Work, frames: Sequence[Any]) -> bool:
        """Run our own first hop here and now, if it is short and the engine is free.

        The frames were checked when the request was accepted. An engine in a process of its own
        may hang until its deadline: that shall hold up the stage, not the ingress.
        """
        model = self._models.get(work.bundle)
        if model is None or model.engine.pid > 0:
            return False
        if model.engine.latency_us(work.route[0].parts) > INLINE_US:
            return False
        if not model.engine.lock.acquire(blocking=False):
            return False
        try:
            tensors = wire.from_frames(work.tensors, frames)
            self._execute(model, work, tensors, time.perf_counter_ns())
        finally:
            model.engine.lock.release()
        return True

    def flush(self) -> dict[PeerKey, int]:
        """Try again what could not be sent; returns what was dropped, per peer."""
        return {**self._peers.flush(self._unreachable), **self._ingresses.flush()}

    @property
    def waiting(self) -> bool:
        """True while ``flush`` has something to do."""
        return self._peers.waiting or self._ingresses.waiting

    def _check(self, work: Work) -> None:
        if work.cluster != self._cluster:
            raise WireError(f"cluster = {work.cluster!r}: this is {self._cluster!r}")
        if not 0 <= work.cursor < len(work.route):
            raise WireError(f"cursor = {work.cursor}: the route has {len(work.route)} hops")
        if work.route[work.cursor].node != self._own[0]:
            raise WireError(f"the hop is for {work.route[work.cursor].node!r}")

    def _execute(self, model: Model, work: Work, tensors: list[wire.Array], started: int) -> None:
        parts = work.route[work.cursor].parts
        predicted_us = model.engine.latency_us(parts)
        begun = time.perf_counter_ns()
        try:
            tensors = model.engine.run(parts, tensors, (work.client, work.seq))
        except EngineDiedError as error:
            self._complain(work, ENGINE_DIED, str(error))
            return
        except (BundleError, ValueError, RuntimeError) as error:
            # ValueError and RuntimeError are what the runtime raises for tensors or models
            # it cannot work with; whatever it is, the thread lives on.
            self._complain(work, "failed", f"{type(error).__name__}: {error}")
            return
        if predicted_us < math.inf:  # else parts had to be loaded first: that was not their work
            self.progress.worked_us += (time.perf_counter_ns() - begun) / 1e3
            self.progress.predicted_us += predicted_us
        outputs = model.outputs[parts[-1]]
        self._forward(work, tensors, outputs, (time.perf_counter_ns() - started) // 1000)
        self.progress.done += 1

    def _forward(
        self,
        work: Work,
        tensors: list[wire.Array],
        metas: tuple[TensorMeta, ...],
        spent_us: int,
    ) -> None:
        remaining_us = work.remaining_us - spent_us
        if remaining_us <= 0:
            self.progress.expired += 1
            return  # the ingress has ended it, or will at once
        frames = wire.to_frames(tensors)
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

    def _unreachable(self, peer: PeerKey, frames: Sequence[Any]) -> None:
        """Work could not be passed on: whoever accepted the request may know another way."""
        self._complain(wire.decode(frames[0], Work), UNREACHABLE, peer[0])

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
