"""Book-keeping of the requests that entered here: accept, send, resend, answer. Sans-IO.

Each accepted request has exactly one outcome: the first valid answer, or one error. Its
input is kept until then, so that it can be sent anew when a node of its route fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from agent.plan_holder import InForce
from continuer.bundle import Bundle, tensor_problem
from continuer.errors import BundleError, WireError
from continuer.journal import Event
from continuer.plan import Member, Step, Version
from continuer.wire import (
    BUNDLE_ID_BYTES,
    Accepted,
    Hello,
    Message,
    Notice,
    Problem,
    Refuse,
    Rejected,
    Reply,
    Result,
    Submit,
    Welcome,
    Work,
    from_frames,
    metas,
)

MS = 1_000_000
# An answer says that the request was accepted; only a slow one needs to be told before.
ACKNOWLEDGE_MS = 20
MAX_ATTEMPTS = 3
# A node that dies so soon after a request was sent anew dies of what killed the one before: of
# one event, or of this request. The request waits for so long (other deaths meanwhile are not
# its doing), then goes out once more; if another node dies of it, it is quarantined.
ONE_EVENT_MS = 100
# However it comes about, a request goes out no more often than this.
MAX_SENDS = 6
MAX_BUDGET_US = 3_600_000_000
MAX_CLIENTS = 1000
MAX_PATHS = 1000
# What a client writes into every header of its request leaves room there for the route.
MAX_LABEL_BYTES = 128
# What is quoted in a refusal may be as long as a header; the refusal itself has to fit one.
MAX_PROBLEM = 500


class Forward(msgspec.Struct, frozen=True):
    """Send work to the first node of its route; frames are the raw tensors."""

    node: str
    incarnation: int
    work: Work
    frames: Sequence[Any]


class ToClient(msgspec.Struct, frozen=True):
    """Send a message to a client; frames are the raw tensors of an answer."""

    link: bytes
    message: Message
    frames: Sequence[Any] = ()


Command = Forward | ToClient | Event


class Limits(msgspec.Struct, frozen=True):
    """Bounds of what is kept here."""

    max_inflight: int = 256
    max_inflight_bytes: int = 64 << 20
    resend_after_ms: float = 500.0


class Pending(msgspec.Struct):
    """An accepted request without an outcome. ``sends`` holds (version, step) per sending."""

    link: bytes
    submit: Submit
    frames: Sequence[Any]
    nbytes: int
    deadline_ns: int
    sends: list[tuple[Version, Step]] = []
    attempts: int = 0
    deaths: int = 0
    was_held: bool = False
    held_until_ns: int | None = None
    acknowledged: bool = False
    accepted_ns: int = 0
    sent_ns: int = 0


class Counters(msgspec.Struct):
    """Totals since the agent started."""

    accepted: int = 0
    answered: int = 0
    failed: int = 0
    refused: int = 0
    late: int = 0
    resent: int = 0


class IngressCore:
    """One per agent. ``now`` is ns of a monotonic clock."""

    def __init__(
        self, cluster: str, node: str, incarnation: int, bundle: Bundle, limits: Limits
    ) -> None:
        self._cluster = cluster
        self._node = node
        self._incarnation = incarnation
        self._bundle = bundle
        self._limits = limits
        self._client_view = msgspec.json.encode(
            {
                "input": msgspec.to_builtins(bundle.manifest.input),
                "classes": bundle.manifest.classes,
            }
        )
        self._input_metas = metas(bundle.manifest.input.tensors)
        self._deployment = ""
        self._version = Version()
        self._step: Step | None = None
        self._failed: frozenset[str] = frozenset()
        self._draining: frozenset[str] = frozenset()
        self._members: tuple[Member, ...] = ()
        self._pending: dict[tuple[bytes, int], Pending] = {}
        self._clients: dict[bytes, None] = {}  # links in the order they were heard from
        self._bytes = 0
        self._paths: dict[tuple[int, ...], tuple[tuple[str, ...], str | None]] = {}
        self.counters = Counters()

    @property
    def inflight(self) -> int:
        """Accepted requests that have no outcome yet."""
        return len(self._pending)

    # --- clients ----------------------------------------------------------------------

    def on_hello(self, link: bytes, hello: Hello) -> list[Command]:
        """A client introduces itself: tell it what is served and where else to enter."""
        if hello.cluster != self._cluster:
            problem = f"cluster = {hello.cluster!r}: this agent belongs to {self._cluster!r}"
            return [ToClient(link, Refuse("cluster", problem[:MAX_PROBLEM]))]
        self._clients.pop(link, None)
        self._clients[link] = None
        if len(self._clients) > MAX_CLIENTS:
            del self._clients[next(iter(self._clients))]  # it gets no more notices, only answers
        welcome = Welcome(
            self._cluster,
            self._node,
            self._incarnation,
            self._deployment,
            self._bundle.name,
            self._bundle.hash,
            self._client_view,
            self._version,
            self._ingresses(),
            self._preferred(),
            tuple(sorted(self._failed)),
            tuple(sorted(self._draining)),
        )
        return [ToClient(link, welcome)]

    def forget_client(self, link: bytes) -> None:
        """The client's connection is gone."""
        self._clients.pop(link, None)

    def on_submit(
        self, link: bytes, submit: Submit, frames: Sequence[Any], now: int
    ) -> list[Command]:
        """A request: accept and send it on its way, or refuse it with a reason."""
        key = (submit.client, submit.seq)
        again = self._pending.get(key)
        if again is not None:
            again.link = link  # the client reconnected and asks anew
            again.acknowledged = True
            return [ToClient(link, Accepted(submit.seq))]
        refusal = self._refusal(submit, frames)
        if refusal is not None:
            self.counters.refused += 1
            code, problem = refusal
            return [ToClient(link, Rejected(submit.seq, code, problem[:MAX_PROBLEM]))]
        assert self._step is not None
        pending = Pending(
            link,
            submit,
            frames,
            sum(len(frame) for frame in frames),
            now + submit.budget_us * 1000,
            accepted_ns=now,
        )
        self._pending[key] = pending
        self._bytes += pending.nbytes
        self.counters.accepted += 1
        return [self._send(pending, now)]

    def _refusal(self, submit: Submit, frames: Sequence[Any]) -> tuple[str, str] | None:
        """Code and text of what speaks against taking the request; None if nothing does."""
        if submit.cluster != self._cluster:
            return "bad_input", f"cluster = {submit.cluster!r}: this is {self._cluster!r}"
        if self._step is None:
            return "no_plan", "the coordinator has not given out a plan yet; try again"
        if submit.deployment not in ("", self._deployment, self._bundle.name):
            return "unknown_model", (
                f"model = {submit.deployment!r}: this cluster serves {self._bundle.name!r} "
                f"(deployment {self._deployment!r})"
            )
        problem = self._bad_input(submit, frames)
        if problem is not None:
            return "bad_input", problem
        nbytes = sum(len(frame) for frame in frames)
        if len(self._pending) >= self._limits.max_inflight:
            return "busy", f"{len(self._pending)} requests are in flight here; slow down"
        if self._bytes + nbytes > self._limits.max_inflight_bytes:
            return "busy", f"{self._bytes} bytes are in flight here; slow down"
        return None

    def _bad_input(self, submit: Submit, frames: Sequence[Any]) -> str | None:
        if not 0 < submit.budget_us <= MAX_BUDGET_US:
            return f"budget_us = {submit.budget_us}: give 1 to {MAX_BUDGET_US}"
        labels = {"client": submit.client, "request_class": submit.request_class.encode()}
        for key, label in labels.items():
            if len(label) > MAX_LABEL_BYTES:
                return f"{key}: {len(label)} bytes; give at most {MAX_LABEL_BYTES}"
        try:
            arrays = from_frames(submit.tensors, frames)
        except WireError as error:
            return str(error)
        return tensor_problem(self._bundle.manifest.input.tensors, arrays)

    # --- outcomes ---------------------------------------------------------------------

    def on_result(self, result: Result, frames: Sequence[Any]) -> list[Command]:
        """An output of the last stage. The first one of a request is its answer."""
        pending = self._pending.get((result.client, result.seq))
        if pending is None or result.origin_incarnation != self._incarnation:
            self.counters.late += 1
            return []
        if not 1 <= result.attempt <= len(pending.sends):
            raise WireError(f"attempt = {result.attempt}: {len(pending.sends)} were sent")
        version, step = pending.sends[result.attempt - 1]
        parts = tuple(part for hop in result.route for part in hop.parts)
        path, exit_name = self._paths.get(parts) or self._check_path(parts)
        problem = tensor_problem(
            self._bundle.parts[path[-1]].outputs, from_frames(result.tensors, frames)
        )
        if problem is not None:
            raise WireError(f"result: {problem}")
        reply = Reply(
            result.seq,
            step.technique,
            exit_name,
            path,
            tuple(hop.node for hop in result.route),
            version,
            step.accuracy,
            result.attempt,
            result.tensors,
        )
        self._finish(pending)
        self.counters.answered += 1
        return [ToClient(pending.link, reply, frames)]

    def _check_path(self, parts: tuple[int, ...]) -> tuple[tuple[str, ...], str | None]:
        """The path's part names and its exit. Raises WireError where there is no such path."""
        names = self._bundle.part_names
        if not parts or not all(0 <= part < len(names) for part in parts):
            raise WireError("route: no part, or one that the bundle does not have")
        path = tuple(names[part] for part in parts)
        exit_name, skipped = self._bundle.variant_of(path)
        try:
            coherent = path == self._bundle.path(skipped, exit_name)
        except BundleError as error:
            raise WireError(f"route: {error}") from error
        if not coherent:
            raise WireError(f"route: {' '.join(path)[:200]} is no path of the bundle")
        if len(self._paths) < MAX_PATHS:
            self._paths[parts] = (path, exit_name)
        return path, exit_name

    def on_problem(self, problem: Problem, now: int) -> list[Command]:
        """A stage could not run its parts: try again, elsewhere if the plan has changed."""
        pending = self._pending.get((problem.client, problem.seq))
        if pending is None or problem.origin_incarnation != self._incarnation:
            return []
        if problem.attempt != len(pending.sends):
            return []  # an older attempt; the present one may still succeed
        if pending.attempts >= MAX_ATTEMPTS:
            return self._reject(pending, "failed", f"{problem.node}: {problem.message}")
        return self._resend(pending, now)

    def _reject(self, pending: Pending, code: str, problem: str) -> list[Command]:
        self._finish(pending)
        self.counters.failed += 1
        return [
            ToClient(pending.link, Rejected(pending.submit.seq, code, problem)),
            Event(
                "request_failed", {"code": code, "problem": problem, "attempt": pending.attempts}
            ),
        ]

    def _finish(self, pending: Pending) -> None:
        del self._pending[pending.submit.client, pending.submit.seq]
        self._bytes -= pending.nbytes

    # --- plans and time ---------------------------------------------------------------

    def on_members(self, members: tuple[Member, ...]) -> None:
        """Who may be entered by, besides this agent."""
        self._members = members

    def on_step(self, order: InForce, now: int) -> list[Command]:
        """A step is in force: new requests go by it, and so do those held up by a failure."""
        self._version, self._deployment = order.version, order.deployment
        self._step, self._failed, self._draining = order.step, order.failed, order.draining
        commands: list[Command] = []
        for pending in list(self._pending.values()):
            _, taken = pending.sends[-1]
            if pending.held_until_ns is None and taken.nodes & order.failed:
                commands += self._after_death(pending, now)
        notice = Notice(
            order.version,
            self._preferred(),
            tuple(sorted(order.failed)),
            self._ingresses(),
            tuple(sorted(order.draining)),
        )
        return [*commands, *(ToClient(link, notice) for link in self._clients)]

    def _after_death(self, pending: Pending, now: int) -> list[Command]:
        """A node of its route died: try elsewhere, unless the request may be what kills."""
        one_event = now - pending.sent_ns < ONE_EVENT_MS * MS and pending.attempts > 1
        if one_event and not pending.was_held:
            pending.was_held = True
            pending.held_until_ns = now + ONE_EVENT_MS * MS
            return []
        pending.deaths += 1
        if pending.deaths >= 2:
            problem = "nodes died, one after another, while they held this request"
            return self._reject(pending, "quarantined", problem)
        return self._resend(pending, now)

    def _resend(self, pending: Pending, now: int, *, counts: bool = True) -> list[Command]:
        if pending.attempts >= MAX_ATTEMPTS + (not counts) or len(pending.sends) >= MAX_SENDS:
            return self._reject(pending, "failed", f"no answer after {pending.attempts} attempts")
        self.counters.resent += 1
        return [self._send(pending, now, counts=counts)]

    def _send(self, pending: Pending, now: int, *, counts: bool = True) -> Forward:
        assert self._step is not None
        step = self._step
        pending.sends.append((self._version, step))
        pending.attempts += counts
        pending.sent_ns = now
        submit = pending.submit
        work = Work(
            self._cluster,
            submit.client,
            submit.seq,
            self._deployment,
            submit.request_class,
            self._bundle.hash[:BUNDLE_ID_BYTES],
            self._node,
            self._incarnation,
            len(pending.sends),
            self._version,
            max(1, (pending.deadline_ns - now) // 1000),
            0,
            step.route,
            self._input_metas,
        )
        first = step.route[0]
        return Forward(first.node, first.incarnation, work, pending.frames)

    def on_tick(self, now: int) -> list[Command]:
        """Time has passed: requests out of budget end, long unanswered ones are sent anew."""
        commands: list[Command] = []
        for pending in list(self._pending.values()):
            if now >= pending.deadline_ns:
                problem = f"no answer within {pending.submit.budget_us / 1000:g} ms"
                commands += self._reject(pending, "deadline", problem)
                continue
            if not pending.acknowledged and now - pending.accepted_ns >= ACKNOWLEDGE_MS * MS:
                pending.acknowledged = True
                commands.append(ToClient(pending.link, Accepted(pending.submit.seq)))
            if pending.held_until_ns is not None:
                if now >= pending.held_until_ns:
                    pending.held_until_ns = None
                    commands += self._resend(pending, now, counts=False)
                continue
            if (
                now - pending.sent_ns >= self._limits.resend_after_ms * MS
                and pending.attempts < MAX_ATTEMPTS - 1  # the last one is kept for a new plan
            ):
                commands += self._resend(pending, now)
        return commands

    def _ingresses(self) -> tuple[tuple[str, str], ...]:
        return tuple((member.node, member.ingress) for member in self._members)

    def _preferred(self) -> str | None:
        return self._step.route[0].node if self._step else None
