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
    Prepare,
    Prepared,
    Refuse,
    Retire,
    Stale,
)

REJOIN_MS = 1000
ACCUSE_EVERY_MS = 100


class Say(msgspec.Struct, frozen=True):
    """Send a message to the coordinator."""

    message: Message


class Meet(msgspec.Struct, frozen=True):
    """Connect to these members, and to no others."""

    members: tuple[Member, ...]


# InForce: hand it to the ingress, which reports ``on_applied``.
Command = Say | Meet | Load | InForce | Knock | Event


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
        self._accused: dict[tuple[str, int], int] = {}
        self._planned: tuple[Member, ...] = ()

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
        self.repairs.on_link(up=False)
        return [Event("coordinator_lost", {"coordinator": self._coordinator})]

    def on_beat(self, now: int) -> list[Command]:
        """Time for a heartbeat, or to ask again."""
        commands: list[Command] = [*self.repairs.on_tick(now)]
        if not self._connected:
            return commands
        if self.joined:
            self._sequence += 1
            return [Say(self._make_heartbeat(self._sequence)), *commands]
        if now - self._join_ns >= REJOIN_MS * MS:
            commands += self._join(now)
        return commands

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
        elif isinstance(message, Refuse):
            return self._refused(message, now)
        return []

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
        return [Event("join_refused", {"code": message.code, "problem": message.message})]

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
