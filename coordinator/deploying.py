"""Another bundle beside the one in force: offered, staged, loaded, then put in its place. Sans-IO.

A core of its own (``coordinator/core.py``) forms the first plan for the new bundle while the core
in force goes on as ever. Both hear all that nodes say; of what the new one orders, only that parts
be loaded goes out. Its first plan is the change: a new term, which outranks every plan for the
bundle before. Until then whatever goes wrong on a node ends the attempt, and nothing has changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import msgspec

from continuer.bundle import Bundle
from continuer.errors import UsageError
from continuer.events import Event
from continuer.plan import Version
from continuer.wire import (
    BUNDLE_ID_BYTES,
    Join,
    Message,
    Offer,
    Prepare,
    Prepared,
    Staged,
    Unstage,
)
from coordinator.commands import MS, Command, Probe, Send, SetPace
from coordinator.core import Coordinator
from coordinator.orders import Orders

# A manifest is small; whoever does not say Staged for so long is of an older release, or stuck.
STAGE_TIMEOUT_MS = 60_000

State = Literal["staging", "loading", "in_force", "failed"]


class Attempt(msgspec.Struct):
    """One deployment, from the order to its end.

    ``staged``: what nodes have said that hold the bundle ready. ``nodes``: where it failed.
    """

    bundle: Bundle
    signature: bytes
    begun_ns: int
    rollback: bool
    state: State = "staging"
    staged: dict[str, Staged] = {}
    nodes: list[str] = []
    problem: str = ""
    ended_ns: int | None = None

    @property
    def running(self) -> bool:
        """It is neither in force nor given up."""
        return self.state in ("staging", "loading")

    @property
    def fields(self) -> dict[str, Any]:
        """What every event of it says."""
        return {"bundle": self.bundle.name, "digest": self.bundle.hash.hex()[:16]}


class Deployments:
    """What the daemon feeds, in the core's stead; ``core`` is the one in force.

    ``make_core`` makes the core for another bundle, given the one in force. ``remember`` is called
    before a bundle comes into force, and may raise OSError: then it does not.
    """

    def __init__(
        self,
        core: Coordinator,
        make_core: Callable[[Bundle, Orders, Coordinator], Coordinator],
        remember: Callable[[Bundle, bytes], None],
    ) -> None:
        self.core = core
        self.attempt: Attempt | None = None
        self._next: Coordinator | None = None
        self._paces: dict[str, SetPace] = {}  # what the core for the new bundle counts on
        self._make_core = make_core
        self._remember = remember

    # --- orders -----------------------------------------------------------------------

    @property
    def running(self) -> Attempt | None:
        """The deployment that is under way."""
        attempt = self.attempt
        return attempt if attempt is not None and attempt.running else None

    def start(
        self,
        bundle: Bundle,
        signature: bytes,
        now: int,
        *,
        rollback: bool = False,
        new_input: bool = False,
    ) -> list[Command]:
        """Have every node hold a bundle ready, then change to it. Raises UsageError.

        ``new_input``: clients that have not heard of the change may be refused.
        """
        self._check(bundle, new_input)
        self.attempt = attempt = Attempt(bundle, signature, now, rollback)
        names = [node.name for node in self.core.membership.live()]
        offers = [self._offer(name) for name in names]
        return [*_all(offers), Event("deploy_begun", {**attempt.fields, "nodes": names})]

    def _check(self, bundle: Bundle, new_input: bool) -> None:
        core = self.core
        if self.running is not None:
            raise UsageError(
                f"deploy: {self.running.bundle.name} is being deployed; wait for it, or "
                "'continuer deploy --cancel'"
            )
        if bundle.hash == core.bundle.hash:
            raise UsageError(f"deploy: {bundle.name} {bundle.hash.hex()[:16]} is in force already")
        if core.plan is None or not core.membership.live():
            raise UsageError("deploy: no plan is in force, so nobody could try it; see 'status'")
        if bundle.manifest.input.mark != core.bundle.manifest.input.mark and not new_input:
            raise UsageError(
                "deploy: it takes its input in another form than the bundle in force, so clients "
                "would be refused until they prepare it anew; if that is meant, say --new-input"
            )

    def cancel(self, now: int) -> list[Command]:
        """Give the deployment up that is under way. Raises UsageError where none is."""
        if self.running is None:
            raise UsageError("deploy: none is under way")
        return self._give_up([], "called off by order", now)

    def orders_changed(self, now: int) -> list[Command]:
        """The operator's orders are others: the plan that is being formed begins anew."""
        attempt = self.running
        if attempt is None or self._next is None:
            return []
        for name, record in self._next.membership.nodes.items():
            if name in attempt.staged and record.member is not None:
                loaded = tuple(record.loaded.values())
                stored = None if record.stored is None else tuple(record.stored)
                said = msgspec.structs.replace(attempt.staged[name], loaded=loaded, stored=stored)
                attempt.staged[name] = said
        attempt.state = "staging"
        self._next = None
        return self._proceed(now)

    # --- what the daemon feeds --------------------------------------------------------

    def on_message(self, link: bytes, message: Message, now: int) -> list[Command]:
        """A message from an agent's control link."""
        if isinstance(message, Staged):
            return self._staged(link, message, now)
        if isinstance(message, Prepared) and message.bundle:
            wanted = message.bundle
            if self._next is not None and self._next.bundle.hash.startswith(wanted):
                return self._prepared(link, message, now)
            if wanted != self.core.bundle.hash[:BUNDLE_ID_BYTES]:
                return []  # of a bundle that was given up
        commands = self.core.on_message(link, message, now)
        if not isinstance(message, Join):
            return [*commands, *self._also(lambda core: core.on_message(link, message, now), now)]
        node = self.core.membership.by_link(link)
        if self.running is not None and node is not None:
            self.running.staged.pop(node.name, None)  # it may be another life
            commands += self._offer(node.name)
        return commands

    def on_link_closed(self, link: bytes, now: int) -> list[Command]:
        """A control link was closed by the other side."""
        commands = self.core.on_link_closed(link, now)
        return [*commands, *self._also(lambda core: core.on_link_closed(link, now), now)]

    def on_probe(self, node: str, incarnation: int, refused: bool, now: int) -> list[Command]:
        """The outcome of a Probe."""
        outcome = (node, incarnation, refused, now)
        commands = self.core.on_probe(*outcome)
        return [*commands, *self._also(lambda core: core.on_probe(*outcome), now)]

    def on_beacon(
        self, node: str, incarnation: int, sequence: int, interval_ns: int, at: int
    ) -> Sequence[Command]:
        """A beacon of a node came at that time."""
        said = (node, incarnation, sequence, interval_ns, at)
        commands = self.core.membership.beacon(*said)
        if self._next is None:
            return commands  # as nearly always, thousands of times a second
        return [*commands, *self._also(lambda core: [*core.membership.beacon(*said)], at)]

    def on_tick(self, now: int) -> list[Command]:
        """Time has passed."""
        commands = self.core.on_tick(now)
        commands += self._also(lambda core: core.on_tick(now), now)
        return [*commands, *self._proceed(now)]

    def due(self, now: int) -> int:
        """When ``on_tick`` is to be called next, in ns."""
        return min(core.due(now) for core in self._cores())

    @property
    def busy(self) -> bool:
        """There is something to work out in the next idle moment."""
        return any(core.busy for core in self._cores())

    def on_idle(self, now: int) -> list[Command]:
        """Nothing else waits: what is in force comes first."""
        if self.core.busy:
            return self.core.on_idle(now)
        return self._also(lambda core: core.on_idle(now), now)

    def decided(self, version: Version, now: int) -> None:
        """The shell's clock when the decision for a version had been made."""
        self.core.decided(version, now)

    def _cores(self) -> list[Coordinator]:
        return [self.core] if self._next is None else [self.core, self._next]

    # --- from the offer to the change -------------------------------------------------

    def _offer(self, name: str) -> list[Command]:
        """Tell a node of the bundle that is to come."""
        link = self.core.membership.nodes[name].link
        attempt = self.attempt
        if link is None or attempt is None:
            return []
        offer = Offer(attempt.bundle.hash, self.core.shelf_endpoint, attempt.signature)
        return [Send(link, offer)]

    def _staged(self, link: bytes, message: Staged, now: int) -> list[Command]:
        """A node holds the bundle ready, or cannot."""
        node, attempt = self.core.membership.by_link(link), self.running
        if node is None or attempt is None or message.bundle != attempt.bundle.hash:
            return []
        if message.problem:
            return self._give_up([node.name], message.problem, now)
        attempt.staged[node.name] = message
        return self._proceed(now) if self._next is None else self._join(node.name, now)

    def _proceed(self, now: int) -> list[Command]:
        """Have a plan formed once every node that lives holds the bundle ready."""
        attempt = self.running
        if attempt is None or attempt.state != "staging":
            return []
        names = [node.name for node in self.core.membership.live()]
        waiting = [name for name in names if name not in attempt.staged]
        if waiting and now - attempt.begun_ns > STAGE_TIMEOUT_MS * MS:
            problem = (
                f"nothing was heard of it for {STAGE_TIMEOUT_MS // 1000} s; see their journals, "
                "and that they are of this release"
            )
            return self._give_up(waiting, problem, now)
        if waiting or not names:
            return []
        attempt.state = "loading"
        core = self.core
        drained = tuple(n.name for n in core.membership.nodes.values() if n.drained)
        objectives = core.planning.objectives
        orders = Orders(objectives, drained, dict(core.planning.class_orders))
        self._next, self._paces = self._make_core(attempt.bundle, orders, core), {}
        commands = _all(self._join(name, now) for name in names)
        return [*commands, *self._also(lambda core: core.on_tick(now), now)]

    def _join(self, name: str, now: int) -> list[Command]:
        """Let the core for the new bundle know of a node that holds it ready."""
        attempt, node = self.attempt, self.core.membership.nodes[name]
        following, link = self._next, node.link
        if attempt is None or following is None or link is None or node.member is None:
            return []
        said = attempt.staged[name]
        memory = 0 if math.isinf(node.memory_bytes) else int(node.memory_bytes)
        join = Join(
            self.core.config.cluster,
            node.member,
            attempt.bundle.name,
            attempt.bundle.hash,
            self.core.version,
            memory,
            node.standby,
            said.loaded,
            said.stored,
            node.store,
        )
        commands = self._also(lambda core: core.on_message(link, join, now), now)
        following.membership.nodes[name].retiring = node.retiring
        return commands

    def _prepared(self, link: bytes, message: Prepared, now: int) -> list[Command]:
        """A node has loaded parts of the new bundle; where it could not, the bundle is no good."""
        node = self.core.membership.by_link(link)
        if message.problem and node is not None:
            return self._give_up([node.name], message.problem, now)
        return self._also(lambda core: core.on_message(link, message, now), now)

    def _also(self, feed: Callable[[Coordinator], list[Command]], now: int) -> list[Command]:
        """Feed the core for the new bundle, if there is one; what of its commands goes out."""
        following, attempt = self._next, self.running
        if following is None or attempt is None:
            return []
        commands = feed(following)
        if following.plan is not None:
            return self._change(attempt, following, commands, now)
        for command in commands:
            if isinstance(command, Event) and command.name == "no_plan":
                return self._give_up(command.fields["nodes"], command.fields["problem"], now)
        self._paces |= {c.node: c for c in commands if isinstance(c, SetPace)}
        return [c for c in commands if isinstance(c, Probe) or _is_order_to_load(c)]

    def _change(
        self, attempt: Attempt, following: Coordinator, commands: list[Command], now: int
    ) -> list[Command]:
        """The first plan for the new bundle goes out: it is in force."""
        try:
            self._remember(attempt.bundle, attempt.signature)
        except OSError as error:
            problem = f"state_dir of the coordinator cannot be written: {error.strerror or error}"
            return self._give_up([], problem, now)
        self.core, self._next = following, None
        attempt.state, attempt.ended_ns = "in_force", now
        deploy_ms = round((now - attempt.begun_ns) / MS, 1)
        version = str(following.version)
        event = Event("deployed", {**attempt.fields, "version": version, "deploy_ms": deploy_ms})
        # Sessions go on as they are; how often reports come is for the new core to say from now.
        paces = [msgspec.structs.replace(pace, fresh=False) for pace in self._paces.values()]
        return [*commands, *paces, event]

    def _give_up(self, nodes: list[str], problem: str, now: int) -> list[Command]:
        """What is in force stays; nodes free the memory of what was to come."""
        attempt = self.attempt
        assert attempt is not None
        self._next = None
        attempt.state, attempt.ended_ns = "failed", now
        attempt.nodes, attempt.problem = nodes, problem
        linked = [n.link for n in self.core.membership.nodes.values() if n.link is not None]
        return [
            *(Send(link, Unstage(attempt.bundle.hash)) for link in linked),
            Event("deploy_failed", {**attempt.fields, "nodes": nodes, "problem": problem}),
        ]

    # --- for the status ---------------------------------------------------------------

    def report(self, now: int) -> dict[str, Any] | None:
        """The latest deployment as plain data; None where there was none in this life."""
        attempt = self.attempt
        if attempt is None:
            return None
        live = [node.name for node in self.core.membership.live()]
        waiting = [n for n in live if n not in attempt.staged] if attempt.running else []
        took_ns = (now if attempt.ended_ns is None else attempt.ended_ns) - attempt.begun_ns
        return {
            "model": attempt.bundle.name,
            "model_version": attempt.bundle.manifest.version,
            "bundle": attempt.bundle.hash.hex(),
            "state": attempt.state,
            "rollback": attempt.rollback,
            "staged": [name for name in live if name in attempt.staged],
            "waiting_for": waiting,
            "nodes": attempt.nodes,
            "problem": attempt.problem,
            "took_ms": round(took_ns / MS, 1),
        }


def _is_order_to_load(command: Command) -> bool:
    return isinstance(command, Send) and isinstance(command.message, Prepare)


def _all(groups: Iterable[list[Command]]) -> list[Command]:
    return [command for group in groups for command in group]
