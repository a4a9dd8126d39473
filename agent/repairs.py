"""Acting on held contingencies before the coordinator has spoken, or without it. Sans-IO.

An agent that doubts a node of the route in force knocks at its data port:

- *refused*: that life is over. The contingency held for it is put in force at once; the coordinator
  comes to the same conclusion from the same plan.
- *silent*: it may be dead, stopped or cut off. The coordinator, where there is one, knows more than
  one neighbour does and has time to act first; where there is none, nobody else will.
- *answered*: it lives.

What was left out stays so until the coordinator speaks: a knock cannot tell a life from the next
one, which knows nobody to send to. A node that answers is used again only where no other way is
known, or where the coordinator, although there, has not left it out either for a while.

A repair keeps the version of the plan that it repairs, so whatever the coordinator says later
outranks it. Only the agent where a request enters changes that request's route: agents with
different views cannot send a request in circles.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from agent.plan_holder import InForce, PlanHolder
from continuer.events import Event
from continuer.plan import Member, link_ends, link_name
from continuer.wire import Prepare

MS = 1_000_000
KNOCK_EVERY_MS = 20
# How long the coordinator has, while its link stands, to act on a silence itself.
PATIENCE_MS = 400
# A request that is unanswered for so long makes its route doubtful where nobody else watches.
SLOW_MS = 100
# The bridge answers meanwhile; with every agent's parts in memory nobody waits for the best step.
HEAL_AFTER_MS = 1000
# How often nodes that were left out are asked whether they live, where no way around them is known.
FORGIVE_EVERY_MS = 200
# A coordinator that is there and has not acted for so long holds what was left out alive.
OVERRULED_AFTER_MS = 2000
NO_TICKET = 0  # of no order of the coordinator
# The code of a Problem whose message is the name of the node that could not be reached.
UNREACHABLE = "unreachable"
# The code of a Problem whose request was in the engine when the engine's process died.
ENGINE_DIED = "engine_died"

Answer = Literal["refused", "silent", "answered"]


class Knock(msgspec.Struct, frozen=True):
    """Find out whether a peer's data port greets; report it to ``on_knocked``."""

    node: str
    incarnation: int
    endpoint: str


class Unwritable(msgspec.Struct, frozen=True):
    """Reported to the control thread: nothing can be sent to a node of the route."""

    node: str


class Slow(msgspec.Struct, frozen=True):
    """Reported likewise: a request over these nodes is unanswered for so long."""

    nodes: frozenset[str]
    waited_ms: float


class Accused(msgspec.Struct, frozen=True):
    """Reported likewise: a stage, ``by``, could not reach the next one, ``node``."""

    node: str
    by: str


class Load(msgspec.Struct, frozen=True):
    """Bring parts into memory."""

    order: Prepare


Command = Knock | Load | InForce | Event


class Doubt(msgspec.Struct):
    """A node that may have failed: since when it has been doubted, and when we last knocked."""

    since_ns: int
    knocked_ns: int


class Repairs:
    """What this agent holds failed on top of what the coordinator says. ``now`` in ns."""

    def __init__(self, own: str, holder: PlanHolder) -> None:
        self.count = 0
        self._own = own
        self._holder = holder
        self._members: dict[str, Member] = {}
        self._doubts: dict[str, Doubt] = {}
        self._knocking: set[tuple[str, int]] = set()
        self._left_out: set[str] = set()
        self._over: set[tuple[str, int]] = set()  # lives that refused: known to be over
        self._heal_ns: int | None = None
        self._forgive_ns: int | None = None  # while what was left out may be used again
        self._repaired_ns = 0
        self._alone = True

    @property
    def failed(self) -> frozenset[str]:
        """Nodes and links that the repair in force goes around."""
        return frozenset(self._left_out)

    # --- what is heard ----------------------------------------------------------------

    def on_link(self, *, up: bool) -> None:
        """The link to the coordinator has come up, or gone down."""
        self._alone = not up

    def on_members(self, members: tuple[Member, ...]) -> None:
        """Who may be knocked at, and where."""
        self._members = {member.node: member for member in members}
        lives = {(member.node, member.incarnation) for member in members}
        self._over &= lives

    def on_order(self, order: InForce, now: int) -> list[Command]:
        """The coordinator has put a newer version in force: it knows best, and we begin anew."""
        self._left_out.clear()
        self._doubts.clear()
        self._heal_ns = self._forgive_ns = None
        # It may not have heard yet of those that refused a connection: ask them once more.
        route = {(hop.node, hop.incarnation) for hop in order.step.route}
        return [knock for node, _ in sorted(route & self._over) for knock in self._doubt(node, now)]

    def on_order_again(self) -> list[Command]:
        """The coordinator has sent what is held already: that tells nothing new of failures."""
        return self._put_in_force(best=False) if self._left_out else []

    def on_unwritable(self, node: str, now: int) -> list[Command]:
        """Nothing can be sent to a node of the route."""
        return self._doubt(node, now)

    def on_slow(self, nodes: frozenset[str], waited_ms: float, now: int) -> list[Command]:
        """A request over these nodes is unanswered for so long."""
        if waited_ms < (SLOW_MS if self._alone else PATIENCE_MS):
            return []
        return [knock for node in sorted(nodes) for knock in self._doubt(node, now)]

    def on_accused(self, node: str, by: str, now: int) -> list[Command]:
        """A stage could not reach the next one. The coordinator, if there, hears it from itself."""
        known = self._members.keys() >= {node, by}
        link = link_name(by, node)
        if not (self._alone and known) or not self._left_out.isdisjoint({link, node, by}):
            return []
        return self._leave_out(link, now)

    def on_knocked(self, knock: Knock, answer: Answer, now: int) -> list[Command]:
        """The outcome of a knock."""
        self._knocking.discard((knock.node, knock.incarnation))
        member = self._members.get(knock.node)
        if member is None or member.incarnation != knock.incarnation:
            return []
        doubt = self._doubts.get(knock.node)
        if answer == "answered":
            self._doubts.pop(knock.node, None)
            return self._forgive(knock.node, knock.incarnation)
        if answer == "refused":
            self._over.add((knock.node, knock.incarnation))
        if doubt is None:
            return []
        patience_ms = 0 if answer == "refused" or self._alone else PATIENCE_MS
        if now - doubt.since_ns < patience_ms * MS:
            return []  # the next tick knocks again
        del self._doubts[knock.node]
        return self._leave_out(knock.node, now)

    def on_tick(self, now: int) -> list[Command]:
        """Time has passed: knock again where that is due, heal where the bridge has held."""
        commands: list[Command] = []
        for node, doubt in list(self._doubts.items()):
            if now - doubt.knocked_ns >= KNOCK_EVERY_MS * MS:
                commands += self._knock(node, now)
        overruled = not self._alone and now - self._repaired_ns >= OVERRULED_AFTER_MS * MS
        if self._doubtful() and self._forgive_ns is None and overruled:
            self._forgive_ns = now
        if self._forgive_ns is not None and now >= self._forgive_ns:
            self._forgive_ns = now + FORGIVE_EVERY_MS * MS
            for name in sorted(self._left_out):
                ends = link_ends(name)
                commands += self._knock(ends[1] if ends else name, now)
        if self._heal_ns is not None and now >= self._heal_ns:
            self._heal_ns = None
            commands += self._put_in_force(best=True)
        return commands

    # --- what comes of it -------------------------------------------------------------

    def _doubt(self, node: str, now: int) -> list[Command]:
        if node == self._own or node not in self._members or node in self._left_out:
            return []
        doubt = self._doubts.get(node)
        if doubt is not None and now - doubt.knocked_ns < KNOCK_EVERY_MS * MS:
            return []
        if doubt is None:
            self._doubts[node] = Doubt(now, now)
        return self._knock(node, now)

    def _knock(self, node: str, now: int) -> list[Command]:
        member = self._members.get(node)
        if member is None:
            self._doubts.pop(node, None)
            return []
        if node in self._doubts:
            self._doubts[node].knocked_ns = now
        life = (node, member.incarnation)
        if life in self._knocking:
            return []
        self._knocking.add(life)
        return [Knock(node, member.incarnation, member.data)]

    def _leave_out(self, name: str, now: int) -> list[Command]:
        # A node that is left out takes its links with it.
        links = {n for n in self._left_out if name in (link_ends(n) or ())}
        self._left_out = (self._left_out - links) | {name}
        self._repaired_ns = now
        commands = self._put_in_force(best=False)
        if not commands:
            self._forgive_ns = now
            problem = "no contingency is held that goes around it; waiting for the coordinator"
            return [Event("repair_impossible", {"failed": sorted(self.failed), "problem": problem})]
        self.count += 1
        self._heal_ns = now + HEAL_AFTER_MS * MS
        return [*commands, *self._load()]

    def _doubtful(self) -> set[str]:
        """What is left out and not known to be over."""
        over = {node for node, life in self._over if self._members[node].incarnation == life}
        return self._left_out - over

    def _load(self) -> list[Command]:
        """Have in memory what the bridge and the best step want of this agent."""
        orders = [self._holder.repaired(self.failed, best=best) for best in (False, True)]
        hops = [hop for order in orders if order for hop in order.step.route]
        parts = {part for hop in hops if hop.node == self._own for part in hop.parts}
        return [Load(Prepare(NO_TICKET, tuple(sorted(parts)), urgent=False))] if parts else []

    def _forgive(self, node: str, incarnation: int) -> list[Command]:
        """It answered, and nothing goes around it: use it again, and the links to it.

        A later life than the plan's knows nobody to send to before there is a new plan.
        """
        if self._forgive_ns is None or not self._holder.means(node, incarnation):
            return []
        links = {n for n in self._left_out if (link_ends(n) or ("", ""))[1] == node}
        self._left_out -= {node, *links}
        commands = self._put_in_force(best=True)
        if commands:
            self._forgive_ns = None
        return commands

    def _put_in_force(self, *, best: bool) -> list[Command]:
        order = self._holder.repaired(self.failed, best=best)
        return [order] if order is not None else []
