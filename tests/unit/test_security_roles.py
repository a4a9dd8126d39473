"""The table of who may say what."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from continuer.plan import Member, Version
from continuer.security import roles
from continuer.security.identity import Identity, Role
from continuer.security.keys import mark
from continuer.wire import KINDS, Ask, Heartbeat, Hello, Join, Message
from tests.unit.wire_samples import SAMPLES

KEY = "k" * 40
OTHER = "o" * 40
NAME = "node"
ROLES = get_args(Role)


def who(role: Role, name: str = "n1") -> Identity:
    return Identity(name, role, KEY)


def test_every_message_has_senders_and_every_door_only_lets_those_in() -> None:
    assert roles.SENDERS.keys() == set(KINDS.values())
    assert roles.admitted("data") == {"agent"}
    assert roles.admitted("answers") == {"agent"}
    assert roles.admitted("store") == {"agent"}
    assert roles.admitted("agents") == {"agent"}
    assert roles.admitted("ingress") == {"client", "operator"}
    assert "coordinator" not in roles.admitted("control")
    assert roles.admitted("a door that nobody has thought of") == frozenset()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__)
def test_a_role_says_only_what_the_table_gives_it(message: Message, role: Role) -> None:
    problem = roles.problem(who(role), message)
    if role not in roles.SENDERS[type(message)]:
        assert problem is not None
        assert "may not send" in problem


@pytest.mark.parametrize(
    ("verb", "allowed"),
    [
        ("status", {"observer", "operator"}),
        ("plan.what_if", {"observer", "operator"}),
        ("drain", {"operator"}),
        ("objectives.set", {"operator"}),
        ("token.create", {"operator"}),
        ("node.revoke", {"operator"}),
        ("a verb of tomorrow", {"operator"}),
        ("node.rotate", {"agent", "client", "observer", "operator"}),
    ],
)
def test_a_verb_is_asked_by_whom_it_is_for_and_new_ones_by_operators(
    verb: str, allowed: set[str]
) -> None:
    assert {r for r in ROLES if roles.problem(who(r), Ask(verb, {})) is None} == allowed


@pytest.mark.parametrize(
    "message",
    [m for m in SAMPLES if hasattr(m, "node") and "agent" in roles.SENDERS[type(m)]],
    ids=lambda m: type(m).__name__,
)
def test_an_agent_speaks_for_itself_only(message: Message) -> None:
    own: str = getattr(message, NAME)
    assert roles.problem(who("agent", own), message) is None
    problem = roles.problem(who("agent", "n9"), message)
    assert problem is not None
    assert "speaks as" in problem


def test_an_agent_joins_under_its_own_name_with_its_own_key() -> None:
    def ends(key: str) -> tuple[str, str, str]:
        return (f"tcp://10.0.0.1:1#{key}", f"tcp://10.0.0.1:2#{key}", f"tcp://10.0.0.1:3#{key}")

    join = next(m for m in SAMPLES if isinstance(m, Join))
    good = msgspec.structs.replace(join, member=Member("n1", 7, *ends(KEY)), store="")
    assert roles.problem(who("agent"), good) is None
    for bad in (
        msgspec.structs.replace(good, member=Member("n2", 7, *ends(KEY))),
        msgspec.structs.replace(good, member=Member("n1", 7, *ends(OTHER))),
        msgspec.structs.replace(
            good, member=Member("n1", 7, ends(KEY)[0], ends(KEY)[1], "tcp://10.0.0.1:3")
        ),
        msgspec.structs.replace(good, store="tcp://10.0.0.1:4"),
    ):
        assert roles.problem(who("agent"), bad) is not None


def test_a_clients_id_follows_from_its_key() -> None:
    mine, others = mark(KEY) + bytes(8), mark(OTHER) + bytes(8)
    assert roles.problem(who("client"), Hello("c", mine)) is None
    assert roles.problem(who("client"), Hello("c", others)) is not None
    assert roles.problem(who("client"), Hello("c", b"")) is not None
    assert mark(KEY) != mark(OTHER)


def test_a_verb_of_the_table_exists() -> None:
    from coordinator.admission import Admission
    from coordinator.verbs import Verbs

    source = (Admission.__init__.__code__.co_consts, Verbs.__init__.__code__.co_consts)
    known = {c for consts in source for c in _flat(consts) if isinstance(c, str)}
    assert set(roles.VERBS) <= known


def _flat(value: object) -> list[object]:
    return [x for v in value for x in _flat(v)] if isinstance(value, tuple) else [value]


def test_a_heartbeat_in_anothers_name_is_refused_whatever_it_says() -> None:
    beat = Heartbeat("n2", 7, 1, Version(), 0, 0, 0, 0)
    assert roles.problem(who("agent"), beat) == "n1 (agent) speaks as 'n2'"
