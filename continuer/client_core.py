"""A client's deciding core: which ingress to use, and what to do when it goes away. Sans-IO.

A request's input is kept until its one outcome. It moves to another ingress when the one in
use closes the connection, is reported failed by another, or does not accept in time. The
first answer wins; later ones are counted and dropped.

A request of a masked class is sent as two copies, through two ingresses, along routes that share
no node: whichever single box dies, ingresses included, one copy is not touched by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from continuer.bundle import InputSpec
from continuer.errors import RequestError
from continuer.plan import Version
from continuer.wire import (
    Accepted,
    Hello,
    Message,
    Notice,
    Refuse,
    Rejected,
    Reply,
    Submit,
    TensorMeta,
    Welcome,
)

MS = 1_000_000
ACCEPT_MS = 100
# After so many attempts in a row a request is sent again only so often, until its budget ends.
MAX_SENDS = 6
SLOW_MS = 1000


class View(msgspec.Struct, frozen=True):
    """What an ingress tells clients of the model."""

    input: InputSpec
    classes: tuple[str, ...]


class Send(msgspec.Struct, frozen=True):
    """Send a message to an ingress; frames are raw tensors."""

    endpoint: str
    message: Message
    frames: Sequence[Any] = ()


class Connect(msgspec.Struct, frozen=True):
    """Open a link to an ingress that was not known before."""

    endpoint: str


class Complete(msgspec.Struct, frozen=True):
    """The outcome of a request: an answer with its tensors, or an error.

    ``copies``: how many were on their way, by different ingresses.
    """

    seq: int
    outcome: Reply | RequestError
    frames: Sequence[Any] = ()
    copies: int = 1


Command = Send | Connect | Complete


class Link(msgspec.Struct):
    """One ingress. ``node`` is known once it has welcomed us, ``ready`` once it has a plan."""

    endpoint: str
    node: str | None = None
    ready: bool = False
    welcomed: bool = False


class Pending(msgspec.Struct):
    """A request without an outcome, or one of its two copies."""

    seq: int
    deployment: str
    request_class: str
    metas: tuple[TensorMeta, ...]
    frames: Sequence[Any]
    deadline_ns: int
    budget_ns: int
    input_mark: bytes = b""
    endpoint: str | None = None
    sent_ns: int = 0
    sends: int = 0
    accepted: bool = False
    copy: int = 1


class ClientCore:
    """One per client. ``now`` is ns of a monotonic clock."""

    def __init__(self, cluster: str, client: bytes, endpoints: Sequence[str]) -> None:
        self._cluster = cluster
        self._client = client
        self._links = {endpoint: Link(endpoint) for endpoint in endpoints}
        self._pending: dict[int, list[Pending]] = {}  # the copies under way of each request
        self._doors: dict[str, tuple[str, ...]] = {}
        self._unavailable: frozenset[str] = frozenset()
        self._draining: frozenset[str] = frozenset()
        self._preferred: str | None = None
        self._version = Version()
        self.view: View | None = None
        self.input_mark = b""
        self._views: dict[bytes, View] = {}  # by bundle: answers of an older one may still come
        self.model = ""
        self.refusal = ""
        self.late = 0
        self.moved = 0

    # --- links ------------------------------------------------------------------------

    def on_connected(self, endpoint: str) -> list[Command]:
        """A link is up: introduce ourselves."""
        return [Send(endpoint, Hello(self._cluster, self._client))]

    def on_disconnected(self, endpoint: str, now: int) -> list[Command]:
        """A link is down: what it had is sent elsewhere."""
        link = self._links[endpoint]
        link.ready = link.welcomed = False
        return self._move({endpoint}, now)

    def on_message(
        self, endpoint: str, message: Message, frames: Sequence[Any], now: int
    ) -> list[Command]:
        """Something arrived from an ingress."""
        if isinstance(message, Accepted):
            pending = self._copy_at(message.seq, endpoint)
            if pending is not None:
                pending.accepted = True
            return []
        if isinstance(message, Reply):
            copies = self._pending.pop(message.seq, None)
            if copies is None:
                self.late += 1
                return []
            sent = sum(copy.endpoint is not None for copy in copies)
            return [Complete(message.seq, message, frames, max(1, sent))]
        if isinstance(message, Rejected):
            return self._rejected(endpoint, message, now)
        if isinstance(message, Welcome):
            return self._welcomed(endpoint, message, now)
        if isinstance(message, Notice):
            return self._noticed(endpoint, message, now)
        if isinstance(message, Refuse):
            self.refusal = f"{message.code}: {message.message}"
        return []

    def _rejected(self, endpoint: str, message: Rejected, now: int) -> list[Command]:
        pending = self._copy_at(message.seq, endpoint)
        if pending is None:
            return []  # an ingress that we have left has no say in it any more
        if message.code == "no_plan":
            self._links[endpoint].ready = False  # it will send a notice once it has one
            return self._send(pending, now)
        if self._give_up(pending):
            return []  # the other copy may still be answered
        del self._pending[message.seq]
        return [Complete(message.seq, RequestError(message.code, message.message))]

    def _copy_at(self, seq: int, endpoint: str) -> Pending | None:
        """The copy of a request that is at an ingress."""
        copies = self._pending.get(seq, ())
        return next((copy for copy in copies if copy.endpoint == endpoint), None)

    def _give_up(self, pending: Pending) -> bool:
        """Go on without this copy, if there is another one."""
        copies = self._pending[pending.seq]
        if len(copies) > 1:
            copies.remove(pending)
            return True
        return False

    def _accepted(self, pending: Pending) -> bool:
        """An ingress sees to it, or to its other copy: where all are slow, nothing is added."""
        return any(copy.accepted for copy in self._pending[pending.seq])

    def _copies(self) -> list[Pending]:
        return [copy for copies in self._pending.values() for copy in copies]

    def _welcomed(self, endpoint: str, message: Welcome, now: int) -> list[Command]:
        self.view = msgspec.json.decode(message.manifest, type=View)
        self._views = {**self._views, message.bundle: self.view}
        self.input_mark = self.view.input.mark
        self.model = message.model
        link = self._links[endpoint]
        link.node, link.welcomed = message.node, True
        return self._learn(link, message, now)

    def view_of(self, bundle: bytes) -> View | None:
        """What is known of a bundle by the beginning of its hash; of the latest one, if nothing."""
        known = (view for digest, view in self._views.items() if digest.startswith(bundle))
        return next(known, self.view) if bundle else self.view

    def _noticed(self, endpoint: str, message: Notice, now: int) -> list[Command]:
        return self._learn(self._links[endpoint], message, now)

    def _learn(self, link: Link, message: Welcome | Notice, now: int) -> list[Command]:
        """Take over what an ingress says, unless it is behind what another one has said.

        A restarted ingress welcomes us before it has a plan: it knows less than we do.
        """
        link.ready = link.welcomed and message.version > Version()
        if message.version >= self._version:
            self._version = message.version
            self._preferred = message.preferred
            self._unavailable = frozenset(message.unavailable)
            self._draining = frozenset(message.draining)
            self._doors = {each.name: each.doors for each in message.classes}
        commands: list[Command] = []
        for node, endpoint in message.ingresses:
            if endpoint not in self._links:
                self._links[endpoint] = Link(endpoint, node)
                commands.append(Connect(endpoint))
        left = {other.endpoint for other in self._links.values() if other.node in self._unavailable}
        commands += self._move(left, now)
        for pending in [copy for copy in self._copies() if copy.endpoint is None]:
            commands += self._send(pending, now)
        return commands

    def _move(self, endpoints: set[str], now: int) -> list[Command]:
        commands: list[Command] = []
        for pending in self._copies():
            if pending.endpoint in endpoints:
                commands += self._send(pending, now)
        return commands

    def _choose(self, pending: Pending) -> str | None:
        """The ingress of the first stage if it is there, else the first that is.

        One that is being drained only where there is no other; never where the request is.
        """
        taken = {copy.endpoint for copy in self._pending[pending.seq]} | {pending.endpoint}
        usable = [link for link in self._usable() if link.endpoint not in taken]
        doors = self._doors.get(pending.request_class, ())
        door = doors[min(pending.copy, len(doors)) - 1] if doors else self._preferred
        usable.sort(key=lambda link: (link.node in self._draining, link.node != door))
        return usable[0].endpoint if usable else None

    def _usable(self) -> list[Link]:
        """Ingresses that have a plan and are not held failed."""
        return [
            link
            for link in self._links.values()
            if link.ready and link.node not in self._unavailable
        ]

    # --- requests ---------------------------------------------------------------------

    def submit(self, pending: Pending, now: int) -> list[Command]:
        """A new request; ``pending.endpoint`` is None."""
        doors = self._doors.get(pending.request_class, ())
        usable = {link.node for link in self._usable()}
        copies = [pending]
        if len(doors) > 1:
            # One whose door is open comes first: the other one takes what ingress is left.
            numbers = sorted((1, 2), key=lambda number: doors[number - 1] not in usable)
            copies = [msgspec.structs.replace(pending, copy=n) for n in numbers[: len(usable) or 1]]
        self._pending[pending.seq] = copies
        return [command for copy in list(copies) for command in self._send(copy, now)]

    def _send(self, pending: Pending, now: int) -> list[Command]:
        if pending.sends >= MAX_SENDS and now - pending.sent_ns < SLOW_MS * MS:
            pending.accepted = False
            return []
        endpoint = self._choose(pending)
        if endpoint is None and self._give_up(pending):
            return []  # an ingress takes a request once, so the other copy goes on alone
        if endpoint is None:
            # Nowhere to go. Stay where we are if that still stands, else wait for a welcome.
            here = self._links.get(pending.endpoint or "")
            if here is None or not here.ready or here.node in self._unavailable:
                pending.endpoint = None
            pending.sent_ns = now
            return []
        if pending.sends:
            self.moved += 1
        pending.endpoint, pending.sent_ns, pending.accepted = endpoint, now, False
        pending.sends += 1
        submit = Submit(
            self._cluster,
            self._client,
            pending.seq,
            pending.deployment,
            pending.request_class,
            max(1, (pending.deadline_ns - now) // 1000),
            pending.sends,
            pending.metas,
            pending.copy,
            pending.input_mark,
        )
        return [Send(endpoint, submit, pending.frames)]

    def on_tick(self, now: int) -> list[Command]:
        """Time has passed: end what is out of budget, move what was not accepted in time."""
        commands: list[Command] = []
        for pending in self._copies():
            if pending.seq not in self._pending:
                continue  # its other copy has ended it just now
            if now >= pending.deadline_ns:
                del self._pending[pending.seq]
                problem = f"no answer within {pending.budget_ns / MS:g} ms"
                if pending.endpoint is None:
                    problem += "; no ingress is connected"
                elif not pending.accepted:
                    problem += f"; {pending.sends} times sent, and no ingress has accepted it"
                commands.append(Complete(pending.seq, RequestError("deadline", problem)))
            elif not self._accepted(pending) and now - pending.sent_ns >= ACCEPT_MS * MS:
                commands += self._send(pending, now)
        return commands

    @property
    def inflight(self) -> int:
        """Requests without an outcome."""
        return len(self._pending)
