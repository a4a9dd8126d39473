"""What each role may say, and where: one table, from which everything else follows.

A message that is not listed may be sent by nobody, and a verb that is not listed may be asked
by operators only. A socket (a *door*) lets in the roles that may send what is said there.
"""

from __future__ import annotations

from typing import get_args

from continuer import wire
from continuer.security.identity import Identity, Role, split
from continuer.security.keys import MARK_BYTES, mark
from continuer.wire import Message

_ALL: frozenset[Role] = frozenset(get_args(Role))
_AGENT: frozenset[Role] = frozenset({"agent"})
_COORDINATOR: frozenset[Role] = frozenset({"coordinator"})
_CLIENTS: frozenset[Role] = frozenset({"client", "operator"})
_SERVERS: frozenset[Role] = frozenset({"agent", "coordinator"})
_ASKERS: frozenset[Role] = frozenset({"agent", "client", "observer", "operator"})

SENDERS: dict[type[Message], frozenset[Role]] = {
    wire.Refuse: _SERVERS,
    # requests
    wire.Hello: _CLIENTS,
    wire.Submit: _CLIENTS,
    wire.Welcome: _AGENT,
    wire.Accepted: _AGENT,
    wire.Rejected: _AGENT,
    wire.Reply: _AGENT,
    wire.Notice: _AGENT,
    wire.Work: _AGENT,
    wire.Result: _AGENT,
    wire.Problem: _AGENT,
    # the coordinator and its agents
    wire.Join: _AGENT,
    wire.Heartbeat: _AGENT,
    wire.Prepared: _AGENT,
    wire.Ack: _AGENT,
    wire.Stale: _AGENT,
    wire.Accuse: _AGENT,
    wire.Leave: _AGENT,
    wire.Retire: _AGENT,
    wire.Seek: _AGENT,
    wire.Staged: _AGENT,
    wire.Offer: _COORDINATOR,
    wire.Members: _COORDINATOR,
    wire.Prepare: _COORDINATOR,
    wire.NewPlan: _COORDINATOR,
    wire.Foresee: _COORDINATOR,
    wire.Activate: _COORDINATOR,
    wire.Drill: _COORDINATOR,
    wire.Unstage: _COORDINATOR,
    wire.Pace: _COORDINATOR,
    wire.Keyring: _COORDINATOR,
    # files
    wire.AskOutline: _AGENT,
    wire.AskChunk: _AGENT,
    wire.Outline: _SERVERS,
    wire.Chunk: _SERVERS,
    wire.Lacking: _SERVERS,
    # commands
    wire.Ask: _ASKERS,
    wire.Tell: _COORDINATOR,
    wire.Enrol: _ALL,  # and strangers, while a token is open: the token says who may
    wire.Enrolled: _COORDINATOR,
}

_WATCH: frozenset[Role] = frozenset({"observer", "operator"})
OPERATORS: frozenset[Role] = frozenset({"operator"})
VERBS: dict[str, frozenset[Role]] = {
    "status": _WATCH,
    "events": _WATCH,
    "objectives.get": _WATCH,
    "plan.what_if": _WATCH,
    "node.list": _WATCH,
    "node.rotate": _ASKERS,  # everyone changes its own key, and no other
    "node.confirm": _ASKERS,
}

# What is said to each listening socket, by the name of its port's configuration key.
DOORS: dict[str, tuple[type[Message], ...]] = {
    "ingress": (wire.Hello, wire.Submit),
    "data": (wire.Work,),
    "answers": (wire.Result, wire.Problem),
    "store": (wire.AskOutline, wire.AskChunk),
    "agents": (
        wire.Join, wire.Heartbeat, wire.Prepared, wire.Ack, wire.Stale, wire.Accuse, wire.Leave,
        wire.Retire, wire.Seek, wire.Staged,
    ),
    "control": (wire.Ask,),
    "join": (wire.Enrol,),
}  # fmt: skip


def admitted(door: str) -> frozenset[Role]:
    """Roles that a socket lets in; none for a door that is not listed."""
    return frozenset().union(*(SENDERS[message] for message in DOORS.get(door, ())))


def problem(sender: Identity, message: Message) -> str | None:
    """Why this sender may not say this; None where it may.

    Who a message is from follows from the sender's key: a name that it gives must be its own.
    """
    if sender.role not in SENDERS.get(type(message), frozenset()):
        return f"{sender} may not send {type(message).__name__}"
    if isinstance(message, wire.Ask):
        if sender.role not in VERBS.get(message.verb, OPERATORS):
            return f"{sender} may not ask for {message.verb[:60]!r}"
        return None
    if isinstance(message, wire.Hello | wire.Submit):
        if message.client[:MARK_BYTES] != mark(sender.public):
            return f"{sender} uses a client id that belongs to another key"
        return None
    if isinstance(message, wire.Join):
        return _join_problem(sender, message)
    claimed = getattr(message, "node", sender.name)
    if claimed != sender.name:
        return f"{sender} speaks as {claimed[:64]!r}"
    return None


def _join_problem(sender: Identity, join: wire.Join) -> str | None:
    if join.member.node != sender.name:
        return f"{sender} speaks as {join.member.node[:64]!r}"
    endpoints = (join.member.data, join.member.answers, join.member.ingress, join.store)
    for endpoint in endpoints:
        if endpoint and split(endpoint)[1] != sender.public:
            return f"{sender} announces {endpoint[:100]!r}, which does not name its own key"
    return None
