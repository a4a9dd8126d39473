"""A request in whose run the engine died: tried once more, then named and given up."""

from __future__ import annotations

import pytest

from agent.ingress_core import VERDICT_MS
from agent.repairs import ENGINE_DIED
from continuer.events import Event
from continuer.wire import Rejected
from tests.unit.entrance import (
    CLIENT,
    Entrance,
    forwards,
    rejection_of,
    reply_of,
    told,
    work_of,
)
from tests.unit.harness import MS

HOW = "the runtime crashed with SIGSEGV while running block05"


def test_after_one_death_the_request_is_tried_again_and_answered() -> None:
    entrance = Entrance()
    first = work_of(entrance.submit())
    again = work_of(entrance.complain(first, code=ENGINE_DIED, message=HOW))
    assert again.attempt == 2
    assert reply_of(entrance.answer(again)).attempt == 2


def test_after_a_second_death_it_is_named_and_given_up() -> None:
    entrance = Entrance()
    again = work_of(entrance.complain(work_of(entrance.submit()), code=ENGINE_DIED, message=HOW))
    commands = entrance.complain(again, code=ENGINE_DIED, message=HOW, node="n3")
    rejected = rejection_of(commands)
    assert rejected.code == "quarantined"
    name = f"request {CLIENT.hex()}/1"
    assert rejected.message == f"{name} killed the engine twice, at last on n3: {HOW}"
    (event,) = [command for command in commands if isinstance(command, Event)]
    assert (event.name, event.fields["code"]) == ("request_failed", "quarantined")
    assert name in event.fields["problem"]
    assert entrance.core.inflight == 0
    assert entrance.inflight_bytes == 0


def test_a_death_of_an_older_attempt_counts_and_leaves_the_present_one_alone() -> None:
    entrance = Entrance()
    first = work_of(entrance.submit(budget_us=60_000_000))
    second = work_of(entrance.wait(510))  # it has hung for so long that it went out once more
    assert second.attempt == 2
    assert entrance.complain(first, code=ENGINE_DIED, message=HOW) == []
    assert rejection_of(entrance.complain(second, code=ENGINE_DIED, message=HOW)).code == (
        "quarantined"
    )


@pytest.mark.parametrize("engine_first", [True, False])
def test_the_death_of_a_node_and_that_of_an_engine_count_alike(engine_first: bool) -> None:
    entrance = Entrance()
    work = work_of(entrance.submit())
    if engine_first:
        entrance.complain(work, code=ENGINE_DIED, message=HOW)
        entrance.now += 200 * MS
        assert not forwards(entrance.plan("n1", "n3", failed=["n2"]))
        commands = entrance.wait(VERDICT_MS)
    else:
        entrance.now += 200 * MS
        work = work_of(entrance.plan("n1", "n3", failed=["n2"]))
        commands = entrance.complain(work, code=ENGINE_DIED, message=HOW)
    assert not forwards(commands)
    *_, rejected = told(commands)
    assert isinstance(rejected, Rejected)
    assert rejected.code == "quarantined"


def test_another_complaint_is_no_death() -> None:
    entrance = Entrance()
    work = work_of(entrance.submit())
    work = work_of(entrance.complain(work, code=ENGINE_DIED, message=HOW))
    work = work_of(entrance.complain(work))
    assert reply_of(entrance.answer(work)).attempt == 3
