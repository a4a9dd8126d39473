"""What an agent says to the coordinator and does at its word, or without it. Sans-IO.

Joining, beating, obeying plans in rising versions, accusing peers, and repairs. The thread
around it (``agent/control.py``) performs the commands.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from agent.plan_holder import InForce, PlanHolder, Refused
from agent.repairs import MS, Answer, Knock, Load, Repairs
from continuer.events import Event
from continuer.plan import Member, Plan, Version
from continuer.wire import (
    Accuse,
    Ack,
    Activate,
    Foresee,
    Heartbeat,
    Join,
    Leave,
    Members,
    Message,
    NewPlan,
    Offer,
    Pace,
    Prepare,
    Prepared,
    Refuse,
    Retire,
    Seek,
    Staged,
    Stale,
    Unstage,
)

REJOIN_MS = 1000
ACCUSE_EVERY_MS = 100
# A beat that comes a little early is better than one that comes an interval late.
EARLY_MS = 1
# Beacons go on for so long where the link is down: it may only have to be made anew.
SHINE_ON_MS = 5000


class Say(msgspec.Struct, frozen=True):
    """Send a message to the coordinator."""

    message: Message


class Shine(msgspec.Struct, frozen=True):
    """Send a beacon to where the link goes."""

    session: int
    key: bytes
    sequence: int


class Meet(msgspec.Struct, frozen=True):
    """Connect to these members, and to no others."""

    members: tuple[Member, ...]


class Adopt(msgspec.Struct, frozen=True):
    """Take this bundle, which is held ready, for the one that is run here; then ``on_adopted``."""

    bundle: bytes


# InForce: hand it to the ingress, which reports ``on_applied``. Offer: have the bundle here beside
# the running one, and report ``on_staged``; Unstage: do without it.
Command = Say | Shine | Meet | Load | InForce | Knock | Event | Offer | Unstage | Adopt


class ControlCore:
    """One per agent. ``now`` is ns of a monotonic clock; ``coordinator`` is named in events."""

    def __init__(
        self,
        member: Member,
        coordinator: str,
        make_join: Callable[[], Join],
        make_heartbeat: Callable[[int], Heartbeat],
        holder: PlanHolder,
    ) -> None:
        self.joined = False
        self.retire_refusal = ""
        self.repairs = Repairs(member.node, holder)
        self._member = member
        self._coordinator = coordinator
        self._make_join = make_join
        self._make_heartbeat = make_heartbeat
        self._holder = holder
        self._connected = False
        self._join_ns = 0
        self._sequence = 0
        self._beacons = 0
        self._pace = Pace(0)
        self._said_ns = 0
        self._joined_ns = 0
        self._accused: dict[tuple[str, int], int] = {}
        self._planned: tuple[Member, ...] = ()
        self._sought = False  # the bundle that the coordinator serves, which is not ours

    # --- the link to the coordinator --------------------------------------------------

    def on_connected(self, now: int) -> list[Command]:
        """A link is up: ask to be taken in."""
        self._connected = True
        return self._join(now)

    def on_disconnected(self) -> list[Command]:
        """The link is down; work goes on."""
        if not self._connected:
            return []
        self._connected = self.joined = False
        # The next link brings its own; until then beacons say that we live.
        self._pace = msgspec.structs.replace(self._pace, every_us=0)
        self.repairs.on_link(up=False)
        return [Event("coordinator_lost", {"coordinator": self._coordinator})]

    def on_beat(self, now: int) -> list[Command]:
        """Time for a heartbeat, or to ask again."""
        commands: list[Command] = [*self.repairs.on_tick(now)]
        if self.joined:
            self._joined_ns = now
        if now - self._joined_ns < SHINE_ON_MS * MS:
            commands = [*self._shine(), *commands]
        if not self._connected:
            return commands
        if self.joined:
            every_ns = self._pace.every_us * 1000 - EARLY_MS * MS
            return [*commands, *(self._beat(now) if now - self._said_ns >= every_ns else [])]
        if now - self._join_ns >= REJOIN_MS * MS:
            commands += self._join(now)
        return commands

    def _shine(self) -> list[Command]:
        if not self._pace.session:
            return []
        self._beacons += 1
        return [Shine(self._pace.session, self._pace.key, self._beacons)]

    def _beat(self, now: int) -> list[Command]:
        self._said_ns = now
        self._sequence += 1
        return [Say(self._make_heartbeat(self._sequence))]

    def _join(self, now: int) -> list[Command]:
        self._join_ns = now
        return [Say(self._make_join())]

    def on_message(self, message: Message, now: int) -> list[Command]:
        """The coordinator has spoken."""
        if isinstance(message, Activate):
            return self._obey(partial(self._holder.on_activate, message), message.version, now)
        if isinstance(message, NewPlan):
            return self._new_plan(message.plan, now)
        if isinstance(message, Foresee):
            self._holder.on_foresee(message)
        elif isinstance(message, Members):
            return [*self._taken_in(), *self._meet(self._with_planned(message.members))]
        elif isinstance(message, Prepare):
            return [Load(message)]
        elif isinstance(message, Offer | Unstage):
            return [message]
        elif isinstance(message, Pace):
            return self._set_pace(message, now)
        elif isinstance(message, Refuse):
            return self._refused(message, now)
        return []

    def _set_pace(self, pace: Pace, now: int) -> list[Command]:
        asked = pace.every_us <= self._pace.every_us
        if pace.session != self._pace.session:
            self._beacons = 0
        self._pace = pace
        return self._beat(now) if asked and self.joined else []

    def _new_plan(self, plan: Plan, now: int) -> list[Command]:
        obeyed = self._obey(partial(self._holder.on_plan, plan), plan.version, now)
        if not any(isinstance(command, InForce) for command in obeyed):
            return obeyed  # what is not put in force says nothing of who is here either
        self._planned = plan.members
        return [*self._meet(plan.members), *obeyed]

    def _taken_in(self) -> list[Command]:
        if self.joined:
            return []
        self.joined = True
        self.repairs.on_link(up=True)
        return [Event("joined", {"coordinator": self._coordinator})]

    def _with_planned(self, members: tuple[Member, ...]) -> tuple[Member, ...]:
        """A coordinator that has just started knows few, but the plan in force needs its nodes."""
        known = {member.node for member in members}
        return (*members, *(member for member in self._planned if member.node not in known))

    def _meet(self, members: tuple[Member, ...]) -> list[Command]:
        self.repairs.on_members(members)
        return [Meet(members)]

    def _refused(self, message: Refuse, now: int) -> list[Command]:
        if message.code == "retire":  # the agent leaves all the same
            self.retire_refusal = message.message
            return []
        was_joined, self.joined = self.joined, False
        if message.code == "unknown":  # the coordinator has restarted
            return self._join(now) if was_joined else []
        refused = Event("join_refused", {"code": message.code, "problem": message.message})
        if message.code != "bundle":
            return [refused]
        # The one that we run was replaced while we were away: what is served now? Worth a word
        # only where that did not help.
        said = [refused] if self._sought else []
        self._sought = True
        return [*said, Say(Seek(self._make_join().cluster, self._member.node))]

    def _obey(
        self, accept: Callable[[], InForce | Refused], version: Version, now: int
    ) -> list[Command]:
        before = self._holder.version
        outcome = accept()
        held = self._holder.version
        if isinstance(outcome, Refused):
            fields = {"version": str(version), "held": str(held), "problem": outcome.problem}
            member = self._member
            stale = [Say(Stale(member.node, member.incarnation, held))] if outcome.stale else []
            return [*stale, Event("plan_refused", fields)]
        if held > before:
            return [outcome, *self.repairs.on_order(outcome, now)]
        return [outcome, *self.repairs.on_order_again()]

    # --- what other threads report ----------------------------------------------------

    def on_applied(self, order: InForce, replayed: int) -> list[Command]:
        """The ingress has put a step in force and sent so many requests anew for it."""
        fields = {
            "version": str(order.version),
            "technique": order.step.technique,
            "failed": sorted(order.failed),
            "replayed": replayed,
        }
        if order.repaired:
            return [Event("local_repair", fields)]
        member = self._member
        ack = Ack(member.node, member.incarnation, order.version, replayed)
        return [Say(ack), Event("plan_accepted", fields)]

    def on_prepared(self, prepared: Prepared) -> list[Command]:
        """Parts are in memory, or could not be loaded."""
        return [Say(prepared)]

    def on_staged(self, staged: Staged) -> list[Command]:
        """An offered bundle is here, or cannot be run here."""
        if self.joined:
            return [Say(staged)]
        return [Adopt(staged.bundle)] if self._sought and not staged.problem else []

    def on_adopted(self, now: int) -> list[Command]:
        """We run what the coordinator serves: ask again to be taken in."""
        self._sought = False
        return self._join(now) if self._connected and not self.joined else []

    def on_unwritable(self, node: str, now: int) -> list[Command]:
        """Nothing can be sent to a node of the route."""
        return [*self.repairs.on_unwritable(node, now)]

    def on_slow(self, nodes: frozenset[str], waited_ms: float, now: int) -> list[Command]:
        """A request over these nodes has been waiting for so long."""
        return [*self.repairs.on_slow(nodes, waited_ms, now)]

    def on_accused(self, node: str, by: str, now: int) -> list[Command]:
        """A stage, ``by``, has told our ingress that it cannot reach the next one."""
        return [*self.repairs.on_accused(node, by, now)]

    def on_knocked(self, knock: Knock, answer: Answer, now: int) -> list[Command]:
        """The outcome of a Knock. What is left out now, the coordinator is to judge."""
        before = self.repairs.failed
        commands: list[Command] = [*self.repairs.on_knocked(knock, answer, now)]
        if knock.node in self.repairs.failed - before:
            own = self._member
            accused = (knock.node, knock.incarnation)
            commands.append(Say(Accuse(own.node, own.incarnation, *accused, f"knocked: {answer}")))
        return commands

    def on_unreachable(self, peer: tuple[str, int], dropped: int, now: int) -> list[Command]:
        """Work for a peer was dropped: accuse it, and think of it ourselves."""
        if now - self._accused.get(peer, -ACCUSE_EVERY_MS * MS) < ACCUSE_EVERY_MS * MS:
            return []
        self._accused[peer] = now
        name, incarnation = peer
        reason = f"{dropped} messages could not be sent"
        own = self._member
        return [
            Say(Accuse(own.node, own.incarnation, name, incarnation, reason)),
            Event("peer_unreachable", {"peer": name, "dropped": dropped}),
            *self.repairs.on_unwritable(name, now),
        ]

    def retire(self) -> list[Command]:
        """The agent was told to stop: others are to take its work over before it leaves."""
        return [Say(Retire(self._member.node, self._member.incarnation))]

    def leave(self) -> list[Command]:
        """The agent stops on purpose."""
        return [Say(Leave(self._member.node, self._member.incarnation))]
