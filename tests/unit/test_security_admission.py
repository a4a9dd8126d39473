"""The coordinator's rules of who gets which name, and what a rotated key replaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from continuer import config
from continuer.config import CoordinatorConfig
from continuer.journal import Journal
from continuer.security import keys, ring
from continuer.security.access import Access
from continuer.security.identity import Identity, Role
from continuer.wire import Ask, Enrol, Enrolled, Refuse
from coordinator import admission
from coordinator.admission import Admission


class Office:
    """An admission with a ring of a coordinator and an operator, and what came of it."""

    def __init__(self, directory: Path) -> None:
        self.emitted: list[tuple[str, dict[str, Any]]] = []
        self.out: list[frozenset[str]] = []
        self.boss = Identity("boss", "operator", keys.make().public)
        pair = keys.make()
        own = Identity("coordinator", "coordinator", pair.public)
        self.access = Access(pair, [own, self.boss], directory, self)
        raw = {"bundle": "b", "nodes": ["n1", "n2"]}
        settings = config.parse(raw, CoordinatorConfig)
        journal = cast("Journal", self)
        self.admission = Admission(settings, self.access, journal, self.out.append)

    def emit(self, name: str, /, **fields: Any) -> None:
        self.emitted.append((name, fields))

    def token(self, role: Role = "agent", name: str | None = None, ttl_s: float = 60) -> str:
        asked = Ask("token.create", {"role": role, "name": name, "ttl_s": ttl_s})
        told = self.admission.answer(asked, self.boss)
        assert told is not None
        assert not told.error, told.error
        return str(told.data["token"])

    def enrol(self, token: str, name: str = "") -> Enrolled | Refuse:
        return self.admission.enrol(Enrol(token, name), keys.make().public, ())

    def names(self) -> list[tuple[str, str]]:
        return [(i.name, i.role) for i in self.access.ring.identities]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def test_a_token_takes_one_box_in_and_it_is_known_after_a_restart(
    office: Office, tmp_path: Path
) -> None:
    token = office.token(name="n1")
    assert office.access.strangers_welcome()
    taken = office.enrol(token)
    assert isinstance(taken, Enrolled)
    assert (taken.name, taken.role, taken.cluster) == ("n1", "agent", "continuer")
    assert isinstance(office.enrol(token), Refuse)
    assert not office.access.strangers_welcome(), "the door is open without a token"
    assert ("n1", "agent") in [(i.name, i.role) for i in ring.load(tmp_path)]


def test_no_token_looks_like_an_option(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an argument of the line that a box is joined with."""
    monkeypatch.setattr("secrets.token_urlsafe", lambda count: "-" * count)
    token = office.token(name="n1")
    assert token[0].isalnum()
    assert isinstance(office.enrol(token), Enrolled)


@pytest.mark.parametrize("name", ["", "n9", "coordinator", "N1", "../n1", "n1\n"])
def test_an_agent_gets_a_name_of_the_configuration_or_none(office: Office, name: str) -> None:
    refused = office.enrol(office.token(), name)
    assert isinstance(refused, Refuse)
    assert "name" in refused.message


def test_a_refused_name_leaves_the_token_good(office: Office) -> None:
    token = office.token()
    assert isinstance(office.enrol(token, "n9"), Refuse)
    assert isinstance(office.enrol(token, "n2"), Enrolled)


def test_a_taken_name_is_given_again_only_by_a_token_for_that_name(office: Office) -> None:
    assert isinstance(office.enrol(office.token(name="n1")), Enrolled)
    assert isinstance(office.enrol(office.token(), "n1"), Refuse)
    before = office.access.ring.named("n1")
    assert isinstance(office.enrol(office.token(name="n1")), Enrolled)
    after = office.access.ring.named("n1")
    assert len(after) == 1
    assert after != before
    assert office.out[-1] == {"n1"}, "the box that had the name is still in the plan"


def test_no_token_makes_a_coordinator(office: Office) -> None:
    asked = Ask("token.create", {"role": "coordinator", "name": None, "ttl_s": 60})
    told = office.admission.answer(asked, office.boss)
    assert told is not None
    assert "--role" in told.error


@pytest.mark.parametrize("name", ["coordinator", "boss", "nobody"])
def test_who_cannot_be_revoked(office: Office, name: str) -> None:
    told = office.admission.answer(Ask("node.revoke", {"name": name}), office.boss)
    assert told is not None
    assert told.error
    assert len(office.names()) == 2


def test_a_new_key_replaces_the_old_one_when_it_is_used_and_not_before(office: Office) -> None:
    office.enrol(office.token(name="n1"))
    (old,) = office.access.ring.named("n1")
    public = keys.make().public
    assert office.admission.answer(Ask("node.rotate", {"public": public}), old)
    assert len(office.access.ring.named("n1")) == 2
    office.admission.used(old)
    assert len(office.access.ring.named("n1")) == 2, "the old key has thrown out the new one"
    office.admission.used(Identity("n1", "agent", public))
    assert office.access.ring.named("n1") == (Identity("n1", "agent", public),)


def test_a_rotation_gives_nobody_another_name_role_or_key(office: Office) -> None:
    office.enrol(office.token(name="n1"))
    (old,) = office.access.ring.named("n1")
    for public in ("short", office.boss.public, old.public):
        told = office.admission.answer(Ask("node.rotate", {"public": public}), old)
        assert told is not None
        assert told.error
    office.admission.answer(Ask("node.rotate", {"public": keys.make().public}), old)
    assert {(i.name, i.role) for i in office.access.ring.named("n1")} == {("n1", "agent")}
    again = office.admission.answer(Ask("node.rotate", {"public": keys.make().public}), old)
    assert again is not None
    assert "waiting" in again.error


def test_the_ring_is_bounded(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_IDENTITIES", 2)
    refused = office.enrol(office.token(name="n1"))
    assert isinstance(refused, Refuse)
    assert "revoke some" in refused.message


def test_wrong_tokens_are_said_now_and_then(office: Office) -> None:
    office.token()
    for _ in range(9):
        assert isinstance(office.enrol("guess", "n1"), Refuse)
    assert [name for name, _ in office.emitted].count("enrol_refused") == 4


def test_verbs_of_others_are_left_to_them(office: Office) -> None:
    assert office.admission.answer(Ask("status", {}), office.boss) is None
