"""The coordinator's next key: made known, then used, and the former one forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from continuer.security import access, keys, provision, ring, start
from continuer.security.identity import Identity
from continuer.wire import Ask
from tests.unit.test_security_admission import Office
from tests.unit.test_security_start import Silent, agent, coordinator

KEYS = "keys"


@pytest.fixture(autouse=True)
def nothing_installed() -> Iterator[None]:
    yield
    access.install(None)


def started(tmp_path: Path) -> access.Access:
    """The access of a coordinator that has started there."""
    start.arrange(coordinator(tmp_path), Silent())
    installed = access.installed()
    assert installed is not None
    return installed


def test_the_next_key_is_known_before_it_is_kept(tmp_path: Path) -> None:
    office = Office(tmp_path)
    present = office.access.pair
    told = office.admission.answer(Ask("node.rotate_coordinator", {}), office.boss)
    assert told is not None
    waiting = keys.load(tmp_path, keys.NEXT)
    assert told.data == {"public": waiting.public}
    assert office.access.ring.coordinators == (present.public, waiting.public)
    assert ring.load(tmp_path) == office.access.ring.identities
    assert office.out == [frozenset()]  # agents are told, and nobody is out
    assert office.access.pair == present


def test_only_one_key_waits(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.admission.answer(Ask("node.rotate_coordinator", {}), office.boss)
    waiting = keys.load(tmp_path, keys.NEXT)
    told = office.admission.answer(Ask("node.rotate_coordinator", {}), office.boss)
    assert told is not None
    assert "waiting already" in told.error
    assert keys.load(tmp_path, keys.NEXT) == waiting
    assert len(office.access.ring.coordinators) == 2


def test_the_next_start_uses_the_next_key_and_forgets_the_former(tmp_path: Path) -> None:
    operator = Identity("me", "operator", keys.make().public)
    former = provision.new_coordinator(tmp_path, operator)
    following = keys.make()
    both = [Identity("coordinator", "coordinator", p.public) for p in (former, following)]
    ring.save(tmp_path / KEYS, [both[0], operator, both[1]])
    keys.save(tmp_path / KEYS, following, keys.NEXT)
    for _ in range(2):  # and so does the start after it
        made = started(tmp_path)
        assert made.pair == following
        assert set(made.ring.identities) == {operator, both[1]}
        assert set(ring.load(tmp_path / KEYS)) == {operator, both[1]}
        assert not (tmp_path / KEYS / keys.NEXT).exists()


def test_a_key_that_was_made_known_and_then_lost_is_forgotten(tmp_path: Path) -> None:
    """The coordinator ended between making it known and keeping it."""
    operator = Identity("me", "operator", keys.make().public)
    present = provision.new_coordinator(tmp_path, operator)
    lost = Identity("coordinator", "coordinator", keys.make().public)
    ring.save(tmp_path / KEYS, [*ring.load(tmp_path / KEYS), lost])
    made = started(tmp_path)
    assert made.pair == present
    assert made.ring.coordinators == (present.public,)


def test_an_agent_tries_each_key_that_the_coordinator_may_have(tmp_path: Path) -> None:
    known = [keys.make().public for _ in range(2)]
    keys.save(tmp_path / KEYS, keys.make())
    ring.save(tmp_path / KEYS, [Identity("coordinator", "coordinator", key) for key in known])
    start.arrange(agent(tmp_path), Silent())
    first = start.coordinator_endpoint("tcp://h:1")
    second = start.next_endpoint(first)
    assert [first, second] == [f"tcp://h:1#{key}" for key in known]
    assert start.next_endpoint(second) == first
    assert start.next_endpoint(f"tcp://h:1#{'k' * 40}") == first  # named in a file, and old


def test_who_knows_one_key_tries_no_other(tmp_path: Path) -> None:
    assert start.next_endpoint("tcp://h:1") == "tcp://h:1"  # without keys
    key = keys.make().public
    keys.save(tmp_path / KEYS, keys.make())
    ring.save(tmp_path / KEYS, [Identity("coordinator", "coordinator", key)])
    start.arrange(agent(tmp_path), Silent())
    assert start.next_endpoint(f"tcp://h:1#{key}") == f"tcp://h:1#{key}"
