"""Two bundles in one agent: which is run, what becomes of requests, and when memory is freed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from agent.control_core import Adopt, ControlCore, Say
from agent.engine import Engine
from agent.ingress_core import ToClient
from agent.models import LINGER_NS, Model, Models
from agent.plan_holder import InForce, PlanHolder
from continuer import bundle as bundles
from continuer import wire
from continuer.catalog import find_bundle
from continuer.client_core import ClientCore
from continuer.events import Event
from continuer.plan import Hop, Member, Step, Version
from continuer.wire import (
    Heartbeat,
    Hello,
    Join,
    Offer,
    Refuse,
    Rejected,
    Reply,
    Seek,
    Staged,
    Welcome,
)
from tests.unit.entrance import CLIENT, LINK, Entrance, result_of, told, work_of
from tests.unit.harness import BUNDLE, MS

OTHER = bundles.load(find_bundle("mobilenetv2-cifar10"))
THIRD = b"3" * 32
MARK = BUNDLE.manifest.input.mark


# --- which bundles are held ----------------------------------------------------------------


class Loader:
    """Keeps what it was told; the real one is a thread."""

    def __init__(self) -> None:
        self.posted: list[Any] = []

    def post(self, order: Any) -> None:
        self.posted.append(order)


def model_of(bundle: bundles.Bundle) -> Model:
    loader: Any = Loader()
    return Model(bundle, Engine(bundle, math.inf), loader)


@pytest.fixture
def held() -> tuple[Models, list[list[bytes]]]:
    """Models that began with one bundle, and what was told of the set each time it changed."""
    changes: list[list[bytes]] = []
    models = Models(
        model_of(BUNDLE), lambda models: changes.append([m.bundle.hash for m in models])
    )
    models.in_force(BUNDLE.hash, 1, 0)
    return models, changes


Held = tuple[Models, list[list[bytes]]]


def test_a_bundle_is_found_by_what_messages_carry_of_its_hash(held: Held) -> None:
    models, _ = held
    models.add(model_of(OTHER))
    for digest, bundle in ((b"", BUNDLE), (BUNDLE.hash[:16], BUNDLE), (OTHER.hash, OTHER)):
        found = models.find(digest)
        assert found is not None
        assert found.bundle is bundle
    assert models.find(THIRD) is None


def test_the_next_plans_bundle_is_the_one_that_is_run(held: Held) -> None:
    models, changes = held
    models.add(model_of(OTHER))
    assert changes == [[BUNDLE.hash, OTHER.hash]]
    assert not models.in_force(BUNDLE.hash, 1, 0)
    assert models.in_force(OTHER.hash, 2, 0)
    assert models.current.bundle is OTHER
    assert [m.bundle for m in models.all()] == [OTHER, BUNDLE]
    assert not models.in_force(OTHER.hash, 2, 0)


def test_memory_of_the_former_bundle_is_freed_when_requests_have_had_their_time(
    held: Held,
) -> None:
    models, _ = held
    former = models.current
    assert former.engine.prepare([0, 1]) == []
    models.add(model_of(OTHER))
    models.in_force(OTHER.hash, 2, 1000)
    models.release(1000 + LINGER_NS - 1)
    assert len(former.engine.timings()) == 2
    models.release(1000 + LINGER_NS)
    assert former.engine.timings() == ()
    assert former.engine.prepare([0]) == []  # what is asked for all the same can be loaded


def test_memory_of_a_bundle_that_is_still_to_come_is_not_freed(held: Held) -> None:
    models, _ = held
    following = model_of(OTHER)
    models.add(following)
    assert following.engine.prepare([0]) == []
    models.in_force(BUNDLE.hash, 1, 0)
    models.release(10 * LINGER_NS)
    assert len(following.engine.timings()) == 1
    models.in_force(BUNDLE.hash, 2, 0)  # the coordinator has another life: nobody waits for it
    models.release(LINGER_NS)
    assert following.engine.timings() == ()


def test_a_bundle_that_is_given_up_goes_and_the_one_in_force_never(held: Held) -> None:
    models, changes = held
    following = model_of(OTHER)
    models.add(following)
    models.drop(BUNDLE.hash)
    models.drop(OTHER.hash)
    assert changes[-1] == [BUNDLE.hash]
    loader: Any = following.loader
    assert loader.posted == [None]


# --- what the coordinator says --------------------------------------------------------------


def control_core() -> ControlCore:
    member = Member("n1", 1, "tcp://h:1", "tcp://h:2", "tcp://h:3")
    join = Join("continuer", member, "m", BUNDLE.hash, Version(), 0, "none", ())
    beat = Heartbeat("n1", 1, 1, Version(), 0, 0, 0, 0)
    core = ControlCore(member, "c", lambda: join, lambda _: beat, PlanHolder(BUNDLE.hash))
    core.on_connected(0)
    return core


def test_who_is_turned_away_for_its_bundle_asks_what_is_served_and_comes_back_with_it() -> None:
    core = control_core()
    commands = core.on_message(Refuse("bundle", "another one"), MS)
    assert commands == [Say(Seek("continuer", "n1"))]
    offer = Offer(OTHER.hash, "tcp://*:1")
    assert core.on_message(offer, MS) == [offer]
    assert core.on_staged(Staged("n1", 1, OTHER.hash)) == [Adopt(OTHER.hash)]
    (again,) = core.on_adopted(2 * MS)
    assert isinstance(again, Say)
    assert isinstance(again.message, Join)


def test_a_bundle_that_cannot_be_run_is_not_adopted() -> None:
    core = control_core()
    core.on_message(Refuse("bundle", "another one"), MS)
    assert core.on_staged(Staged("n1", 1, OTHER.hash, "not signed")) == []
    said, again = core.on_message(Refuse("bundle", "another one"), MS)
    assert isinstance(said, Event)
    assert said.name == "join_refused"
    assert again == Say(Seek("continuer", "n1"))  # another one may be served by now


def test_who_is_at_work_tells_the_coordinator_and_changes_nothing() -> None:
    core = control_core()
    core.on_message(wire.Members(()), MS)
    staged = Staged("n1", 1, OTHER.hash)
    assert core.on_staged(staged) == [Say(staged)]


# --- requests across the change --------------------------------------------------------------


def change(entrance: Entrance) -> list[Any]:
    """The other bundle comes into force, on the same nodes."""
    path = tuple(range(len(OTHER.block_names)))
    ids = [OTHER.part_ids[OTHER.block_names[i]] for i in path]
    step = Step("none", None, (Hop("n1", 1, tuple(ids)),), 0.8, 3.0, 5.0, 500.0)
    order = InForce(Version(2, 1), "default", step, frozenset(), bundle=OTHER.hash)
    entrance.core.know([BUNDLE, OTHER])
    return entrance.hear(entrance.core.on_step(order, entrance.now))


def test_an_answer_of_the_former_bundle_is_taken_after_the_change() -> None:
    entrance = Entrance()
    work = work_of(entrance.submit())
    assert change(entrance) == []  # nothing is sent anew: what is under way goes on
    (reply,) = told(entrance.answer(work))
    assert isinstance(reply, Reply)
    assert reply.bundle == BUNDLE.hash[:16]
    assert reply.version == Version(1, 1)


def test_what_is_sent_after_the_change_is_for_the_new_bundle() -> None:
    entrance = Entrance()
    first = work_of(entrance.submit())
    change(entrance)
    again = work_of(entrance.complain(first))
    assert (first.bundle, again.bundle) == (BUNDLE.hash[:16], OTHER.hash[:16])
    outputs = wire.metas(OTHER.parts[OTHER.block_names[-1]].outputs)
    result = result_of(again)
    assert result.route == again.route
    (reply,) = told(entrance.answer(again, tensors=outputs))
    assert isinstance(reply, Reply)
    assert reply.bundle == OTHER.hash[:16]


def test_clients_are_told_what_is_served_now() -> None:
    entrance = Entrance()
    entrance.core.on_hello(LINK, Hello("continuer", CLIENT))
    (command,) = change(entrance)
    assert isinstance(command, ToClient)
    assert isinstance(command.message, Welcome)
    assert (command.message.bundle, command.message.model) == (OTHER.hash, OTHER.name)


def test_input_that_was_prepared_for_another_network_is_refused() -> None:
    entrance = Entrance()
    assert work_of(entrance.submit(1, input_mark=MARK)).seq == 1
    (refusal,) = told(entrance.submit(2, input_mark=b"12345678"))
    assert isinstance(refusal, Rejected)
    assert refusal.code == "bad_input"
    assert "prepared for another network" in refusal.message


def test_answers_of_each_bundle_are_read_by_that_bundle() -> None:
    core = ClientCore("c", b"c", ["tcp://n1:1"])
    core.on_connected("tcp://n1:1")
    view = '{"input": {"tensors": []}, "classes": ["%s"]}'
    for digest, label in ((BUNDLE.hash, "cat"), (OTHER.hash, "dog")):
        welcome = Welcome(
            *("c", "n1", 1, "default", "m", digest, (view % label).encode(), Version(1, 1)),
            *((), None, ()),
        )
        core.on_message("tcp://n1:1", welcome, (), 0)
    for said, label in ((BUNDLE.hash[:16], "cat"), (OTHER.hash[:16], "dog"), (b"", "dog")):
        found = core.view_of(said)
        assert found is not None
        assert found.classes == (label,)
