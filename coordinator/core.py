"""The coordinator's deciding core: keeps a plan in force, whatever the nodes do. Sans-IO.

Events come in with ``now`` (ns of a monotonic clock), commands go out. A plan's life:

1. *Forming*: the layout is chosen, nodes are told what to hold (Prepare), a contingency is
   decided for every single failure, then the plan goes out (NewPlan); pairs follow (Foresee).
2. *Failover*: nodes fail; the prepared contingency is looked up and named to everyone
   (Activate). If it has two steps, the first bridges while the second one's parts load.
3. *Settling*: some time after the last change a new plan is formed around what is in force,
   or around everybody once a returned node has been stable.

The operator's orders (objectives, nodes to drain) form a new plan at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from continuer.bundle import Bundle
from continuer.config import CoordinatorConfig
from continuer.errors import UsageError
from continuer.events import Event
from continuer.objectives import ClassObjectives, DeploymentObjectives, Objectives
from continuer.plan import Plan, Step, Version, link_ends, link_name
from continuer.wire import (
    BUNDLE_ID_BYTES,
    Accuse,
    Ack,
    Activate,
    Heartbeat,
    Join,
    Leave,
    Message,
    NewPlan,
    Prepare,
    Prepared,
    Refuse,
    Retire,
    Stale,
)
from coordinator.accounts import Accounts
from coordinator.broken_links import BrokenLinks
from coordinator.classes import hold_routes, settled_routes
from coordinator.commands import (
    MS,
    Command,
    Decided,
    Failover,
    Failure,
    NodeRecord,
    Send,
    failover_event,
    formed_event,
    told_event,
)
from coordinator.contingencies import Contingencies
from coordinator.explain import plan_events
from coordinator.holdings import wanted_parts
from coordinator.layouts import Layout
from coordinator.membership import Membership, links
from coordinator.orders import Orders, changed_objectives
from coordinator.planner import Candidate, ClassRoutes, Decision, load_alone_ms, make_step
from coordinator.planning import Planning, facts
from coordinator.preparing import (
    Forming,
    Preparing,
    also_missing,
    longest_fetch_ms,
    sources_for,
)
from coordinator.telling import Telling, foresee_messages

SETTLE_MS = 100
# Loading takes the CPU and the GIL from the requests that are being replayed over the bridge.
HEAL_AFTER_MS = 15
RETURN_EVERY_MS = 1000
# Preparing for pairs ends after so long, however many there are: likely ones come first.
FORESEE_MS = 5000
# What agents use unless configured otherwise; only estimates depend on it.
HEARTBEAT_MS = 10.0


class Coordinator:
    """Feeds on messages, closed links, probe results, ticks and idle moments."""

    def __init__(
        self,
        config: CoordinatorConfig,
        bundle: Bundle,
        stored_term: int = 0,
        orders: Orders | None = None,
        former: Coordinator | None = None,
    ) -> None:
        orders = orders or Orders()
        self.config = config
        self.bundle = bundle
        self.version = Version(stored_term, 0)
        self.plan: Plan | None = None
        self.layout: Layout = {}
        self.step: Step | None = None
        self.target: Step | None = None  # where the running failover is to end
        self.decisions: dict[frozenset[str], Decision] = {}
        self.failed: frozenset[str] = frozenset()
        self.membership = Membership(
            config, bundle, self._failure, orders.drained, self._link_failure
        )
        self.planning = Planning(config, bundle, self.membership, orders)
        self.shelf_endpoint = ""  # where parts can be fetched from us; set by the shell
        self._telling = Telling()
        self.accounts: Accounts = former.accounts if former else Accounts()
        self._ticket = 0
        self._preparing: Preparing | None = None
        self._forming: Forming | None = None
        self._foreseeing: Contingencies | None = None
        self._foresee_until_ns = 0
        self.broken_links: BrokenLinks = former.broken_links if former else BrokenLinks()
        self._reconsider = False
        self._settle_ns: int | None = None
        self._heal_ns: int | None = None
        self._first_join_ns: int | None = None
        self._returned_ns = 0
        self._held_term = stored_term

    # --- events -----------------------------------------------------------------------

    def on_message(self, link: bytes, message: Message, now: int) -> list[Command]:
        """A message from an agent's control link."""
        if isinstance(message, Heartbeat):
            return self.membership.heartbeat(link, message, now)
        if isinstance(message, Join):
            return self._join(link, message, now)
        node = self.membership.by_link(link)
        if node is None:
            return []
        self.membership.heard(node, now)
        if isinstance(message, Ack):
            return self._acked(node, message, now)
        if isinstance(message, Prepared):
            return self._prepared(node, message, now)
        if isinstance(message, Stale):
            return [Send(link, NewPlan(self._whole_plan()))] if self.plan else []
        if isinstance(message, Accuse):
            accused = (message.accused, message.accused_incarnation)
            return self.membership.accused(node, *accused, now)
        if isinstance(message, Retire):
            return self._retire(link, node, now)
        if isinstance(message, Leave):
            return self.membership.leave(link, now)
        return []

    def on_link_closed(self, link: bytes, now: int) -> list[Command]:
        """A control link was closed by the other side."""
        return self.membership.link_closed(link, now)

    def on_probe(self, node: str, incarnation: int, refused: bool, now: int) -> list[Command]:
        """The outcome of a Probe."""
        return self.membership.probed(node, incarnation, refused, now)

    def on_tick(self, now: int) -> list[Command]:
        """Time has passed; call when ``due`` after reading everything that has arrived."""
        commands = self.membership.tick(now)
        preparing = self._preparing
        if preparing and now - preparing.begun_ns > preparing.patience_ms * MS:
            self._begin_anew()
        self.planning.rate.measure(self.membership.nodes.values(), now)
        if self._heal_ns is not None and now >= self._heal_ns:
            self._heal_ns = None
            commands += self._heal(self.decisions[self.failed], 1, now)
        avoided = self.broken_links.avoided(now)
        if avoided != self.planning.broken:
            self.planning.broken = avoided  # one is to be tried again
            self._begin_anew()
        return commands + self._settle(now)

    def due(self, now: int) -> int:
        """When ``on_tick`` is to be called next, in ns."""
        due = self.membership.due(now)
        return due if self._heal_ns is None else min(due, self._heal_ns)

    @property
    def busy(self) -> bool:
        """There is something to work out in the next idle moment."""
        return self._forming is not None or self._foreseeing is not None

    def on_idle(self, now: int) -> list[Command]:
        """Nothing else waits: prepare for one more failure. Takes about a millisecond."""
        if self._forming is not None:
            forming = self._forming
            if not forming.contingencies.singles_done:
                forming.contingencies.prepare_next()
            return self._install(forming, now) if forming.contingencies.singles_done else []
        if self._foreseeing is not None:
            if not self._foreseeing.done:
                self._foreseeing.prepare_next()
            if self._foreseeing.done or now >= self._foresee_until_ns:
                return self._foresee(self._foreseeing)
        return []

    def decided(self, version: Version, now: int) -> None:
        """The shell's clock when the decision for a version had been made."""
        decide_ms = self.accounts.decided(version, now)
        if decide_ms is not None:
            self.planning.timings = self.planning.timings.with_decision(decide_ms)

    def foreseen(self, failed: frozenset[str]) -> Decision | None:
        """What to do without these nodes and links: looked up, or planned on the spot."""
        return self.decisions.get(failed) or self.planning.decide_without(failed)

    @property
    def failovers(self) -> list[Failover]:
        """The accounts of the latest failovers, oldest first."""
        return self.accounts.failovers

    # --- the operator's orders --------------------------------------------------------

    def set_objectives(
        self, objectives: Objectives, classes: Mapping[str, ClassObjectives], now: int
    ) -> list[Command]:
        """New objectives: everything is decided anew, now and for every failure.

        ``classes`` are those that the operator has set, over the configuration's.
        """
        planning = self.planning
        before = planning.objectives, planning.classes
        planning.objectives, planning.class_orders = objectives, dict(classes)
        changed = changed_objectives(before, (planning.objectives, planning.classes))
        self._begin_anew()
        return [Event("objectives_changed", {"changed": changed}), *self._settle(now)]

    def configure(self, objectives: DeploymentObjectives) -> None:
        """The file's objectives have changed; ``set_objectives`` says which then hold."""
        self.config = msgspec.structs.replace(self.config, objectives=objectives)
        self.planning.configure(self.config)

    def drain(self, name: str, now: int) -> list[Command]:
        """Move a node's work elsewhere while it still does it; it gets none until resumed.

        Raises UsageError where the others cannot do its work.
        """
        node = self.membership.nodes[name]
        before, node.drained, node.retiring = node.drained, True, False
        if self.plan is not None and self.planning.reconsidered_candidate() is None:
            node.drained = before
            raise UsageError(
                f"drain {name}: the nodes that would be left ({self._usable_names()}) cannot run "
                "the model; bring another node up first"
            )
        self._begin_anew()
        return [Event("node_draining", {"node": name}), *self._settle(now)]

    def _retire(self, link: bytes, node: NodeRecord, now: int) -> list[Command]:
        """A node is about to stop: as if drained, but only until its next life."""
        if node.drained:
            return []  # by order, which holds beyond this life
        try:
            commands = self.drain(node.name, now)
        except UsageError as error:
            return [Send(link, Refuse("retire", str(error)))]
        node.retiring = True
        return commands

    def resume(self, name: str, now: int) -> list[Command]:
        """Let a drained node work again."""
        node = self.membership.nodes[name]
        node.drained = node.retiring = False
        return [Event("node_resumed", {"node": name}), *self._settle(now)]

    def _begin_anew(self) -> None:
        """What is being formed no longer fits what is known or ordered: decide anew."""
        self._reconsider = self.plan is not None
        self._forming = self._preparing = None

    def _usable_names(self) -> str:
        return ", ".join(node.name for node in self.planning.usable()) or "none"

    # --- joining and settling ---------------------------------------------------------

    def _join(self, link: bytes, join: Join, now: int) -> list[Command]:
        commands = self.membership.join(link, join, now)
        node = self.membership.by_link(link)
        if node is None:
            return commands
        self._held_term = max(self._held_term, join.held.term)
        self._first_join_ns = self._first_join_ns or now
        if self.plan is not None and node.obeys:
            commands.append(Send(link, NewPlan(self._whole_plan())))
        return [*commands, *self._order(node.name)]

    def _settle(self, now: int) -> list[Command]:
        """Form a plan when there is reason to, and nothing more urgent is under way."""
        if self._preparing is not None or self._heal_ns is not None or self._forming is not None:
            return []
        if self.plan is None:
            return self._first_plan(now)
        if self._settle_ns is not None:
            if now < self._settle_ns:
                return []
            self._settle_ns = None
            if not self._reconsider:
                assert self.target is not None
                return self._form(now, self.planning.settled_candidate(self.target))
        if self._reconsider:
            candidate = self.planning.reconsidered_candidate()
            self._reconsider = candidate is not None  # until the plan is in force
            return self._form(now, candidate)
        ready = self.planning.returning(now)
        if ready and now - self._returned_ns >= RETURN_EVERY_MS * MS:
            self._returned_ns = now
            return self._form(now, self.planning.full_candidate(ready), ready)
        if self.planning.rate_matters():
            assert self.target is not None
            return self._form(now, self.planning.settled_candidate(self.target))
        return []

    def _first_plan(self, now: int) -> list[Command]:
        live = [node for node in self.membership.live() if not node.drained]
        if not live or self._first_join_ns is None:
            return []
        expected = [n for n in self.membership.nodes.values() if not n.drained]
        waited = now - self._first_join_ns >= self.config.form_timeout_ms * MS
        if len(live) < len(expected) and not waited:
            return []
        # A new term outranks every plan that an earlier coordinator has given out.
        self.version = Version(self._held_term + 1, 0)
        return self._form(now, self.planning.full_candidate(live), live)

    def _form(
        self, now: int, candidate: Candidate | None, joining: Sequence[NodeRecord] = ()
    ) -> list[Command]:
        """Have the nodes hold what the candidate and its contingencies need."""
        planning = self.planning
        planning.planned_rate = planning.rate.per_s
        if candidate is None:
            if self.plan is not None:
                return []
            nodes = [n.name for n in self.membership.live()]
            self._first_join_ns = now  # say it again after the next form timeout
            problem = "the model does not fit the memory budgets of these nodes"
            return [Event("no_plan", {"nodes": nodes, "problem": problem})]
        for node in joining:
            if node.name not in candidate.step.nodes:
                node.state = "active"  # more nodes than blocks: an ingress, and a spare
        setting = planning.setting(planning.nodes_for(candidate))
        wanted = wanted_parts(setting, candidate.layout, planning.measure(candidate.step))
        routes = planning.routes_beside(candidate)
        wanted = hold_routes(setting, candidate, routes, wanted)
        return self._prepare(now, candidate, wanted, heal=None, routes=routes)

    def _prepare(
        self,
        now: int,
        candidate: Candidate,
        wanted: dict[str, tuple[int, ...]],
        heal: int | None,
        routes: tuple[ClassRoutes, ...] = (),
    ) -> list[Command]:
        self._ticket += 1
        nodes = self.membership.nodes
        lacking = {
            name: tuple(p for p in parts if p not in nodes[name].loaded)
            for name, parts in wanted.items()
            if not set(parts) <= nodes[name].loaded.keys()
        }
        alone_ms = {n: load_alone_ms(self.bundle, facts(nodes[n]), p) for n, p in lacking.items()}
        fetch_ms = longest_fetch_ms(self.bundle, nodes, lacking, self.planning.timings)
        self._preparing = Preparing(
            self._ticket, candidate, set(lacking), now, wanted, alone_ms, fetch_ms, heal, routes
        )
        commands = [order for name in lacking for order in self._order(name)]
        return commands + self._when_prepared(now)

    def _order(self, name: str) -> list[Command]:
        """Have a node load what it is waited for; again, where its link is a new one."""
        preparing, node = self._preparing, self.membership.nodes[name]
        if preparing is None or name not in preparing.waiting or node.link is None:
            return []
        wanted = preparing.wanted[name]
        lacking = tuple(part for part in wanted if part not in node.loaded)
        peers = (self.membership.live(), self.planning.shelf, self.shelf_endpoint)
        sources = sources_for(node, lacking, *peers)
        order = (preparing.ticket, wanted, preparing.heal == 0, sources)
        return [Send(node.link, Prepare(*order, self.bundle.hash[:BUNDLE_ID_BYTES]))]

    def _prepared(self, node: NodeRecord, message: Prepared, now: int) -> list[Command]:
        node.loaded = {timing.part: timing for timing in message.loaded}
        node.stored = None if message.stored is None else frozenset(message.stored)
        timings = self.planning.timings
        fetch_ms = message.fetch_us / 1e3
        self.planning.timings = timings.with_fetching(node.name, message.fetched_bytes, fetch_ms)
        preparing = self._preparing
        if preparing is None or preparing.ticket != message.ticket:
            return []
        if message.problem:
            # The agent has said in its journal what is wrong: do without those parts there.
            lacking = set(preparing.wanted.get(node.name, ())) - node.loaded.keys()
            node.refused |= lacking
            self._begin_anew()
            return self._settle(now)
        if preparing.heal is not None and node.name in preparing.waiting:
            took_ms = (now - preparing.begun_ns) / MS - fetch_ms
            alone_ms = preparing.alone_ms[node.name]
            timings = self.planning.timings
            self.planning.timings = timings.with_loading(node.name, took_ms, alone_ms)
        preparing.waiting.discard(node.name)
        return self._when_prepared(now)

    def _when_prepared(self, now: int) -> list[Command]:
        preparing = self._preparing
        if preparing is None or preparing.waiting:
            return []
        self._preparing = None
        if preparing.heal is not None:
            return self._activate(preparing.heal, now)
        candidate = preparing.candidate
        planning = self.planning
        setting = planning.setting(planning.nodes_for(candidate))
        again = make_step(setting, candidate.layout, candidate.step.technique)
        assert again is not None  # its accuracy was known a moment ago
        self._foreseeing = None
        routes = settled_routes(setting, preparing.routes, planning.routes_beside(again))
        contingencies = planning.foresight(again, routes, self.accounts.failures_of)
        self._forming = Forming(again, contingencies, routes)
        return []

    def _install(self, forming: Forming, now: int) -> list[Command]:
        """Put a whole plan in force; every single failure is prepared."""
        self._forming, self._foreseeing = None, forming.contingencies
        self._foresee_until_ns = now + FORESEE_MS * MS
        self._reconsider = False
        step = forming.candidate.step
        nodes = self.planning.nodes_for(forming.candidate)
        names = [node.name for node in nodes]
        returned = [n.name for n in nodes if n.state == "joined" and self.plan is not None]
        for node in self.membership.live():
            if node in nodes:
                node.state, node.was_dead = "active", False
            elif node.drained and node.state == "active":
                node.state = "joined"
        self.step = self.target = step
        self.layout = forming.candidate.layout
        self.planning.remember_full(step)
        self.planning.routes = forming.routes
        self.decisions = dict(forming.contingencies.decisions)
        tightest = forming.contingencies.tightest_per_s
        self.planning.tightest_per_s = self.config.max_utilisation * tightest
        self.failed = frozenset()
        self._raise_version()
        self.plan = self.planning.make_plan(self.version, step, self.decisions.values())
        return [
            *self._send_all(NewPlan(self.plan), now),
            *(Event("node_returned", {"node": name}) for name in returned),
            formed_event(self.version, step),
            *plan_events(forming.candidate, self.decisions, forming.routes, names),
        ]

    def _foresee(self, contingencies: Contingencies) -> list[Command]:
        """Links and pairs are prepared too: agents may have them."""
        self._foreseeing = None
        if self.plan is None or self.failed:
            return []
        self.decisions = dict(contingencies.decisions)
        more = contingencies.beyond_singles()
        version = self.plan.version
        self.plan = msgspec.structs.replace(
            self.plan, contingencies=(*self.plan.contingencies, *more)
        )
        messages = foresee_messages(version, more)
        return [Send(link, m) for link in links(self._obeying()) for m in messages]

    # --- failover ---------------------------------------------------------------------

    def _failure(self, failure: Failure, now: int) -> list[Command]:
        """A node has failed: look the contingency up and put its first step in force."""
        self._drop_preparation(failure.node, now)
        if self.plan is None or not failure.was_active:
            if self.plan is not None:
                self._settle_ns = now + SETTLE_MS * MS  # members and ingresses have changed
            return []
        decision = self.foreseen(self.failed | {failure.node})
        silence_ms = (now - failure.last_heard_ns) / MS
        timings = self.planning.timings
        self.planning.timings = timings.with_failure(failure.node, silence_ms, HEARTBEAT_MS)
        return self._fail_over(failure, decision, now)

    def _link_failure(self, source: str, target: str, now: int) -> list[Command] | None:
        """One node cannot reach another one, and both live: avoid the link, if that can be done.

        None where it cannot, or no plan is in force: then a node must be left out.
        """
        link = link_name(source, target)
        if link in self.planning.broken:
            return []  # what was on its way when it failed
        if self.plan is None or self.step is None or link_ends(link) is None:
            return None
        own = (c.step for routes in self.planning.routes for c in routes.own)
        in_force = [self.step, self.target or self.step, *own]
        decision = None
        if any(step.uses(frozenset({link})) for step in in_force):
            decision = self.foreseen(self.failed | {link})
            if decision is None:
                return None
        self.broken_links.broke(link, now)
        self.planning.broken = self.broken_links.avoided(now)
        self._drop_preparation(link, now)
        avoided_ms = self.broken_links.avoided_ms(link)
        event = Event("link_failed", {"link": link, "avoided_ms": avoided_ms})
        if decision is not None:
            failure = Failure(link, f"unreachable from {source}", now, now, was_active=True)
            return [*self._fail_over(failure, decision, now), event]
        # Only those who enter by one of its ends need it: they are to enter elsewhere. What is
        # prepared may need it: until that is done anew, failures are planned for on the spot.
        self._settle_ns, self._foreseeing = now + SETTLE_MS * MS, None
        self.decisions = {f: d for f, d in self.decisions.items() if f == self.failed}
        self._raise_version()
        self.plan = self._whole_plan()
        return [*self._send_all(NewPlan(self.plan), now), event]

    def _fail_over(self, failure: Failure, decision: Decision | None, now: int) -> list[Command]:
        """Go on without what has failed."""
        self._preparing = self._heal_ns = self._forming = self._foreseeing = None
        self.failed |= {failure.node}
        self._settle_ns = now + SETTLE_MS * MS
        if decision is None:
            problem = "no node is left that can run the model"
            return [Event("no_plan", {"nodes": sorted(self.failed), "problem": problem})]
        self.decisions[self.failed] = decision
        self.accounts.failed(failure, decision, now)
        commands: list[Command] = []
        if decision.chosen[0].missing:
            return self._heal(decision, 0, now)
        commands += self._activate(0, now)
        if len(decision.chosen) > 1:
            self._heal_ns = now + HEAL_AFTER_MS * MS
        if decision.fell_back:
            forced, technique = self.config.technique, decision.chosen[-1].step.technique
            fields = {"nodes": sorted(self.failed), "forced": forced, "technique": technique}
            commands.append(Event("technique_fell_back", fields))
        return commands

    def _drop_preparation(self, name: str, now: int) -> None:
        """A node or link failed that the plan being formed counts on: form it anew."""
        under_way = self._preparing or self._forming
        if under_way is not None and under_way.uses(frozenset({name})):
            self._preparing = self._forming = None
            if self.plan is not None:
                self._settle_ns = now + SETTLE_MS * MS

    def _heal(self, decision: Decision, index: int, now: int) -> list[Command]:
        """Have loaded what a step needs, then put it in force."""
        wanted = also_missing(self.membership.nodes, decision.missing(index))
        return self._prepare(now, decision.chosen[index], wanted, heal=index)

    def _activate(self, index: int, now: int) -> list[Command]:
        """Put a step of the current failure set's contingency in force everywhere."""
        assert self.plan is not None
        decision = self.decisions[self.failed]
        step = decision.chosen[index].step
        self._raise_version()
        self.step, self.target = step, decision.chosen[-1].step
        self.planning.routes = decision.classes_at(index)
        self.accounts.stepped(self.version, step, now, healed=index > 0)
        if self.plan.contingency(self.failed) is not None:
            failed = tuple(sorted(self.failed))
            message: Message = Activate(self.version, self.plan.version, failed, index)
        else:
            message = NewPlan(self._whole_plan())
        commands: list[Command] = [Decided(self.version), *self._send_all(message, now)]
        final = index == len(decision.chosen) - 1
        commands.append(failover_event(self.version, self.failed, decision, index))
        if final:
            self._settle_ns = now + SETTLE_MS * MS
        return commands

    # --- telling ----------------------------------------------------------------------

    def _obeying(self) -> list[NodeRecord]:
        return [node for node in self.membership.live() if node.obeys]

    def _send_all(self, message: Message, now: int) -> list[Command]:
        recipients = self._obeying()
        self._telling.told(self.version, (node.name for node in recipients), now)
        return [Send(link, message) for link in links(recipients)]

    def _acked(self, node: NodeRecord, ack: Ack, now: int) -> list[Command]:
        tell_ms = self._telling.acknowledged(ack.version, node.name, now)
        step = self.accounts.acknowledged(ack.version, ack.replayed, now)
        if tell_ms is not None:
            technique = step[1].step.technique if step is not None else None
            self.planning.timings = self.planning.timings.with_telling(tell_ms, technique)
        return [told_event(*step)] if step is not None and tell_ms is not None else []

    def _raise_version(self) -> None:
        self.version = Version(self.version.term, self.version.number + 1)

    def _whole_plan(self) -> Plan:
        """What is in force now, for an agent that does not hold its base."""
        assert self.step is not None
        return self.planning.make_plan(self.version, self.step, ())
