"""Request classes and broken links at the ingress: routes, refusals, doors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.ingress_core import Command
from continuer.plan import ClassStep
from continuer.wire import ClassDoors, Hello, Notice, Welcome
from tests.unit.entrance import (
    EXIT,
    Entrance,
    forwards,
    rejection_of,
    reply_of,
    step_over,
    told,
    work_of,
)
from tests.unit.harness import MS

ALARM = ClassStep("alarm", step_over(("n1", "n2")), step_over(("n3", "n4")))
COUNTER = ClassStep("counter", step_over(("n2",), EXIT, "early_exit"))
CLASSES = (ALARM, COUNTER, ClassStep("same"))


def notices(commands: Sequence[Command]) -> list[Notice]:
    return [message for message in told(commands) if isinstance(message, Notice)]


def planned() -> Entrance:
    entrance = Entrance(planned=False)
    entrance.plan("n1", "n2", "n3", classes=CLASSES)
    return entrance


def nodes_of(entrance: Entrance, seq: int, **changes: Any) -> list[str]:
    return [hop.node for hop in work_of(entrance.submit(seq, **changes)).route]


def test_each_class_goes_by_its_own_route_and_the_others_by_the_plans() -> None:
    entrance = planned()
    assert nodes_of(entrance, 1) == ["n1", "n2", "n3"]
    assert nodes_of(entrance, 2, request_class="same") == ["n1", "n2", "n3"]
    assert nodes_of(entrance, 3, request_class="counter") == ["n2"]
    assert nodes_of(entrance, 4, request_class="alarm") == ["n1", "n2"]
    assert nodes_of(entrance, 5, request_class="alarm", copy=2) == ["n3", "n4"]


def test_the_second_copy_is_not_counted_as_another_request() -> None:
    entrance = planned()
    entrance.submit(1, request_class="alarm")
    entrance.submit(2, request_class="alarm", copy=2)
    assert entrance.core.counters.accepted == 1
    assert entrance.core.inflight == 2


def test_an_answer_says_its_class_and_how_many_routes_the_class_had() -> None:
    entrance = planned()
    for seq, name, redundancy in ((1, "alarm", 2), (2, "counter", 1), (3, "", 1)):
        reply = reply_of(entrance.answer(work_of(entrance.submit(seq, request_class=name))))
        assert (reply.request_class, reply.redundancy) == (name, redundancy)


def test_an_unknown_class_is_refused_with_the_names_there_are() -> None:
    rejected = rejection_of(planned().submit(request_class="alram"))
    assert rejected.code == "unknown_class"
    for word in ("'alram'", "alarm, counter, same"):
        assert word in rejected.message
    without = rejection_of(Entrance().submit(request_class="alarm"))
    assert "none" in without.message


def test_a_copy_that_is_neither_the_first_nor_the_second_is_refused() -> None:
    for copy in (0, 3, -1):
        rejected = rejection_of(planned().submit(request_class="alarm", copy=copy))
        assert (rejected.code, f"copy = {copy}" in rejected.message) == ("bad_input", True)


def test_clients_are_told_the_doors_of_each_class() -> None:
    entrance = planned()
    doors = (
        ClassDoors("alarm", ("n1", "n3")),
        ClassDoors("counter", ("n2",)),
        ClassDoors("same", ("n1",)),
    )
    (welcome,) = told(entrance.core.on_hello(b"link", Hello("continuer", b"client")))
    assert isinstance(welcome, Welcome)
    assert welcome.classes == doors
    (notice,) = notices(entrance.plan("n1", "n2", "n3", classes=CLASSES))
    assert notice.classes == doors


def test_only_requests_whose_own_route_is_hit_are_sent_anew() -> None:
    entrance = planned()
    for seq, name in ((1, ""), (2, "counter"), (3, "alarm")):
        entrance.submit(seq, request_class=name)
    entrance.submit(4, request_class="alarm", copy=2)
    left = (ClassStep("alarm", ALARM.step), COUNTER, ClassStep("same"))
    again = forwards(entrance.plan("n1", "n2", failed=["n3"], classes=left))
    assert [(forward.work.seq, forward.node) for forward in again] == [(1, "n1"), (4, "n1")]


# --- links --------------------------------------------------------------------------------


def test_a_request_on_a_route_whose_link_broke_is_sent_anew_and_no_death_is_counted() -> None:
    entrance = Entrance()
    entrance.submit(1)
    for broken, around in (("n1>n2", ("n1", "n3")), ("n1>n3", ("n1", "n2"))):
        entrance.now += 300 * MS
        (forward,) = forwards(entrance.plan(*around, failed=[broken]))
        assert tuple(hop.node for hop in forward.work.route) == around
    assert entrance.core.inflight == 1, "two deaths would have been the end of it"


def test_who_cannot_reach_the_route_is_no_ingress_any_more() -> None:
    entrance = Entrance()
    entrance.core.on_hello(b"link", Hello("continuer", b"client"))
    (notice,) = notices(entrance.plan("n2", "n3", failed=["n1>n2", "n3>n4", "n5"]))
    assert notice.unavailable == ("n1", "n4", "n5")


def test_a_request_that_has_nowhere_else_to_go_is_not_sent_in_vain() -> None:
    entrance = Entrance()
    entrance.plan("n2", "n3")
    entrance.submit(1)
    assert forwards(entrance.plan("n2", "n3", failed=["n1>n2"])) == []
