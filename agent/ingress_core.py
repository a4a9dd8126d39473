"""Book-keeping of the requests that entered here: accept, send, resend, answer. Sans-IO.

Each accepted request has exactly one outcome: the first valid answer, or one error. Its
input is kept until then, so that it can be sent anew when a node of its route fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from agent.plan_holder import InForce
from agent.repairs import ENGINE_DIED, SLOW_MS, UNREACHABLE, Accused, Slow
from agent.served import Served
from continuer.bundle import Bundle, tensor_problem
from continuer.errors import WireError
from continuer.events import Event
from continuer.plan import ClassStep, Member, Step, Version, link_ends, link_name
from continuer.wire import (
    Accepted,
    ClassDoors,
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
)

MS = 1_000_000
# An answer says that the request was accepted; only a slow one needs to be told before.
ACKNOWLEDGE_MS = 20
MAX_ATTEMPTS = 3
# A node that dies so soon after a request was sent anew dies of what killed the one before: of
# one event, or of this request. The request waits for so long (other deaths meanwhile are not
# its doing), then goes out once more; if another node dies of it, it is quarantined.
ONE_EVENT_MS = 100
# Two nodes that died under one request condemn it. Before, it waits for so long: a node that was
# merely silent for a moment comes back meanwhile, and its silence was not the request's doing.
VERDICT_MS = 500
DEADLY = 2
# However it comes about, a request goes out no more often than this.
MAX_SENDS = 6
# Where packets are lost, connections end with what was under way in them, and no plan need follow:
# what is unanswered goes out anew, each time after so many times the wait before.
LONGER = 4
MAX_BUDGET_US = 3_600_000_000
MAX_CLIENTS = 1000
# What a client writes into every header of its request leaves room there for the route.
MAX_LABEL_BYTES = 128
PREPARED_ELSE = (
    "the input was prepared for another network than the one that is served now; prepare it as "
    "the client's 'input' says now"
)
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


Command = Forward | ToClient | Event | Slow | Accused


class Limits(msgspec.Struct, frozen=True):
    """Bounds of what is kept here."""

    max_inflight: int = 256
    max_inflight_bytes: int = 64 << 20
    resend_after_ms: float = 500.0


class Pending(msgspec.Struct):
    """An accepted request without an outcome. ``sends``: by what it was sent each time.

    ``losses``: for each time that nodes died under it, which, and in which of their lives.
    """

    link: bytes
    submit: Submit
    frames: Sequence[Any]
    nbytes: int
    deadline_ns: int
    sends: list[tuple[Version, Step, Served]] = []
    attempts: int = 0
    engine_deaths: int = 0
    losses: list[frozenset[tuple[str, int]]] = []
    was_held: bool = False
    on_trial: bool = False
    held_until_ns: int | None = None
    acknowledged: bool = False
    accepted_ns: int = 0
    sent_ns: int = 0
    redundancy: int = 1


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
        self._served = Served(bundle)
        self._known = {bundle.hash: self._served}
        self._limits = limits
        self._deployment = ""
        self._version = Version()
        self._step: Step | None = None
        self._failed: frozenset[str] = frozenset()
        self._draining: frozenset[str] = frozenset()
        self._classes: dict[str, ClassStep] = {}
        self._members: tuple[Member, ...] = ()
        self._pending: dict[tuple[bytes, int], Pending] = {}
        self._clients: dict[bytes, None] = {}  # links in the order they were heard from
        self._bytes = 0
        self.counters = Counters()

    @property
    def inflight(self) -> int:
        """Accepted requests that have no outcome yet."""
        return len(self._pending)

    def know(self, bundles: Iterable[Bundle]) -> None:
        """These may come into force; others are forgotten. From any thread."""
        self._known = {b.hash: self._known.get(b.hash) or Served(b) for b in bundles}

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
        return [ToClient(link, self._welcome())]

    def _welcome(self) -> Welcome:
        served = self._served
        return Welcome(
            self._cluster,
            self._node,
            self._incarnation,
            self._deployment,
            served.bundle.name,
            served.bundle.hash,
            served.client_view,
            self._version,
            self._ingresses(),
            self._preferred(),
            self._unavailable(),
            tuple(sorted(self._draining)),
            self._doors(),
        )

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
            redundancy=2 if self._second(submit) is not None else 1,
        )
        self._pending[key] = pending
        self._bytes += pending.nbytes
        self.counters.accepted += submit.copy == 1  # the other copy is the same request
        return [self._send(pending, now)]

    def _refusal(self, submit: Submit, frames: Sequence[Any]) -> tuple[str, str] | None:
        """Code and text of what speaks against taking the request; None if nothing does."""
        if submit.cluster != self._cluster:
            return "bad_input", f"cluster = {submit.cluster!r}: this is {self._cluster!r}"
        if self._step is None:
            return "no_plan", "the coordinator has not given out a plan yet; try again"
        name = self._served.bundle.name
        if submit.deployment not in ("", self._deployment, name):
            return "unknown_model", (
                f"model = {submit.deployment!r}: this cluster serves {name!r} "
                f"(deployment {self._deployment!r})"
            )
        problem = self._bad_input(submit, frames)
        if problem is not None:
            return "bad_input", problem
        if submit.request_class and submit.request_class not in self._classes:
            known = ", ".join(self._classes) or "none"
            return "unknown_class", (
                f"request_class = {submit.request_class!r}: the classes of this "
                f"deployment are: {known}; leave it out, or add it to [objectives.class]"
            )
        nbytes = sum(len(frame) for frame in frames)
        if len(self._pending) >= self._limits.max_inflight:
            return "busy", f"{len(self._pending)} requests are in flight here; slow down"
        if self._bytes + nbytes > self._limits.max_inflight_bytes:
            return "busy", f"{self._bytes} bytes are in flight here; slow down"
        return None

    def _bad_input(self, submit: Submit, frames: Sequence[Any]) -> str | None:
        if not 0 < submit.budget_us <= MAX_BUDGET_US:
            return f"budget_us = {submit.budget_us}: give 1 to {MAX_BUDGET_US}"
        if submit.copy not in (1, 2):
            return f"copy = {submit.copy}: give 1, or 2 for the second copy of a masked request"
        labels = {"client": submit.client, "request_class": submit.request_class.encode()}
        for key, label in labels.items():
            if len(label) > MAX_LABEL_BYTES:
                return f"{key}: {len(label)} bytes; give at most {MAX_LABEL_BYTES}"
        try:
            arrays = from_frames(submit.tensors, frames)
        except WireError as error:
            return str(error)
        if submit.input_mark not in (b"", self._served.mark):
            return PREPARED_ELSE
        return tensor_problem(self._served.bundle.manifest.input.tensors, arrays)

    # --- outcomes ---------------------------------------------------------------------

    def on_result(self, result: Result, frames: Sequence[Any]) -> list[Command]:
        """An output of the last stage. The first one of a request is its answer."""
        pending = self._pending.get((result.client, result.seq))
        if pending is None or result.origin_incarnation != self._incarnation:
            self.counters.late += 1
            return []
        if not 1 <= result.attempt <= MAX_SENDS:
            raise WireError(f"attempt = {result.attempt}: at most {MAX_SENDS} are sent")
        if result.attempt > len(pending.sends):
            # The client gave its request up here, and has come back with it since.
            self.counters.late += 1
            return []
        version, step, served = pending.sends[result.attempt - 1]
        path, exit_name = served.path_of(tuple(part for hop in result.route for part in hop.parts))
        outputs = served.bundle.parts[path[-1]].outputs
        problem = tensor_problem(outputs, from_frames(result.tensors, frames))
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
            pending.submit.request_class,
            pending.redundancy,
            served.id,
        )
        self._finish(pending)
        self.counters.answered += 1
        return [ToClient(pending.link, reply, frames)]

    def on_problem(self, problem: Problem, now: int) -> list[Command]:
        """A stage could not run its parts: try again, elsewhere if the plan has changed."""
        pending = self._pending.get((problem.client, problem.seq))
        if pending is None or problem.origin_incarnation != self._incarnation:
            return []
        if problem.code == UNREACHABLE:
            # Sending it again makes no sense before somebody has found a way around.
            return [Accused(problem.message, problem.node)]
        if problem.code == ENGINE_DIED:
            pending.engine_deaths += 1
            if pending.engine_deaths + len(pending.losses) >= DEADLY:
                return self._reject(pending, "quarantined", _killed_engines(problem))
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
        self._classes = {routes.name: routes for routes in order.classes}
        former, self._served = self._served, self._known.get(order.bundle, self._served)
        commands: list[Command] = []
        for pending in list(self._pending.values()):
            _, taken, _ = pending.sends[-1]
            if pending.held_until_ns is not None:
                if pending.on_trial and not self._condemned(pending):
                    commands += self._release(pending, now)
            elif self._gone(taken):
                commands += self._after_death(pending, now)
            elif self._cut_off(taken):
                commands += self._after_cut(pending, now)
        notice: Message = Notice(
            order.version,
            self._preferred(),
            self._unavailable(),
            self._ingresses(),
            tuple(sorted(order.draining)),
            self._doors(),
        )
        if self._served is not former:  # what answers mean may have changed with the bundle
            notice = self._welcome()
        return [*commands, *(ToClient(link, notice) for link in self._clients)]

    def _after_death(self, pending: Pending, now: int) -> list[Command]:
        """A node of its route died: try elsewhere, unless the request may be what kills."""
        one_event = now - pending.sent_ns < ONE_EVENT_MS * MS and pending.attempts > 1
        if one_event and not pending.was_held:
            pending.was_held = True
            pending.held_until_ns = now + ONE_EVENT_MS * MS
            return []
        pending.losses.append(self._gone(pending.sends[-1][1]))
        if self._condemned(pending):
            pending.on_trial = True
            pending.held_until_ns = now + VERDICT_MS * MS
            return []
        return self._resend(pending, now)

    def _gone(self, step: Step) -> frozenset[tuple[str, int]]:
        """Nodes of the route that failed, or are back in another life than the route means."""
        lives = {member.node: member.incarnation for member in self._members}
        return frozenset(
            (hop.node, hop.incarnation)
            for hop in step.route
            if hop.node in self._failed or lives.get(hop.node, hop.incarnation) != hop.incarnation
        )

    def _condemned(self, pending: Pending) -> bool:
        """Whether enough of what died under the request is dead still."""
        lives = {member.node: member.incarnation for member in self._members}
        deaths = sum(
            any(node in self._failed or lives.get(node, life) != life for node, life in loss)
            for loss in pending.losses
        )
        return deaths + pending.engine_deaths >= DEADLY

    def _release(self, pending: Pending, now: int) -> list[Command]:
        """The wait of a request that was held is over: it is sent once more, or condemned."""
        pending.held_until_ns = None
        if pending.on_trial and self._condemned(pending):
            problem = "nodes died, one after another, while they held this request"
            return self._reject(pending, "quarantined", problem)
        pending.on_trial = False
        return self._resend(pending, now, counts=False)

    def _after_cut(self, pending: Pending, now: int) -> list[Command]:
        """A link of its route failed, and no node: try elsewhere, if there is an elsewhere."""
        return [] if self._cut_off(self._route_of(pending.submit)) else self._resend(pending, now)

    def _cut_off(self, step: Step) -> bool:
        """A failed link is part of the route, or of the way from here to it or back."""
        ends = (step.route[0].node, step.route[-1].node)
        own = {link_name(self._node, ends[0]), link_name(ends[1], self._node)}
        return step.uses(self._failed) or not own.isdisjoint(self._failed)

    def _resend(self, pending: Pending, now: int, *, counts: bool = True) -> list[Command]:
        if pending.attempts >= MAX_ATTEMPTS + (not counts) or len(pending.sends) >= MAX_SENDS:
            return self._reject(pending, "failed", f"no answer after {pending.attempts} attempts")
        if not self._served.takes(pending.submit):
            return self._reject(pending, "bad_input", PREPARED_ELSE)
        self.counters.resent += 1
        return [self._send(pending, now, counts=counts)]

    def _send(self, pending: Pending, now: int, *, counts: bool = True) -> Forward:
        step = self._route_of(pending.submit)
        served = self._served
        pending.sends.append((self._version, step, served))
        pending.attempts += counts
        pending.sent_ns = now
        submit = pending.submit
        work = Work(
            self._cluster,
            submit.client,
            submit.seq,
            self._deployment,
            submit.request_class,
            served.id,
            self._node,
            self._incarnation,
            len(pending.sends),
            self._version,
            max(1, (pending.deadline_ns - now) // 1000),
            0,
            step.route,
            served.input_metas,
        )
        first = step.route[0]
        return Forward(first.node, first.incarnation, work, pending.frames)

    def on_tick(self, now: int) -> list[Command]:
        """Time has passed: requests out of budget end, long unanswered ones are sent anew."""
        commands: list[Command] = []
        slow: set[str] = set()
        waited_ns = 0
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
                    commands += self._release(pending, now)
                continue
            wait_ms = self._limits.resend_after_ms * LONGER ** (len(pending.sends) - 1)
            if now - pending.sent_ns >= wait_ms * MS and len(pending.sends) < MAX_SENDS - 1:
                kept = pending.attempts >= MAX_ATTEMPTS - 1  # the last one, for a new plan
                commands += self._resend(pending, now, counts=not kept)
            elif now - pending.sent_ns >= SLOW_MS * MS:
                slow |= pending.sends[-1][1].nodes
                waited_ns = max(waited_ns, now - pending.sent_ns)
        return [*commands, Slow(frozenset(slow), waited_ns / MS)] if slow else commands

    def _ingresses(self) -> tuple[tuple[str, str], ...]:
        return tuple((member.node, member.ingress) for member in self._members)

    def _unavailable(self) -> tuple[str, ...]:
        """Nodes not to enter by: failed ones, and those that failed links cut off from a route."""
        broken = {ends for name in self._failed if (ends := link_ends(name)) is not None}
        routes = [step.route for step in self._steps()]
        cut = {source for source, to in broken if any(r[0].node == to for r in routes)}
        cut |= {target for at, target in broken if any(r[-1].node == at for r in routes)}
        nodes = {name for name in self._failed if link_ends(name) is None}
        return tuple(sorted(nodes | cut))

    def _steps(self) -> list[Step]:
        """All steps in force: the deployment's, and those of request classes."""
        own = [s for c in self._classes.values() for s in (c.step, c.second) if s is not None]
        return own if self._step is None else [self._step, *own]

    def _route_of(self, submit: Submit) -> Step:
        """The step by which a request goes, or this copy of it."""
        assert self._step is not None
        own = self._classes.get(submit.request_class)
        second = self._second(submit)
        if submit.copy > 1 and second is not None:
            return second
        return own.step if own is not None and own.step is not None else self._step

    def _second(self, submit: Submit) -> Step | None:
        """The other route of a masked class, where it has one now."""
        own = self._classes.get(submit.request_class)
        return own.second if own is not None else None

    def _doors(self) -> tuple[ClassDoors, ...]:
        """For each class, where its requests are best entered."""
        if self._step is None:
            return ()
        found = []
        for name, own in self._classes.items():
            steps = [own.step or self._step, *([own.second] if own.second else [])]
            found.append(ClassDoors(name, tuple(step.route[0].node for step in steps)))
        return tuple(found)

    @property
    def route_peers(self) -> set[tuple[str, int]]:
        """Other agents, by name and life, on the routes in force."""
        hops = (hop for step in self._steps() for hop in step.route)
        return {(hop.node, hop.incarnation) for hop in hops if hop.node != self._node}

    def _preferred(self) -> str | None:
        return self._step.route[0].node if self._step else None


def _killed_engines(problem: Problem) -> str:
    """Why a request is given up that was in an engine's process when it died, twice."""
    name = f"{problem.client.hex()}/{problem.seq}"
    return f"request {name} killed the engine twice, at last on {problem.node}: {problem.message}"
