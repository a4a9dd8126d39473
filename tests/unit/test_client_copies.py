"""Requests of a masked class: two copies, two ingresses, one outcome."""

from __future__ import annotations

from typing import Any

from continuer.client_core import ACCEPT_MS, MS, ClientCore, Command, Complete, Pending, Send
from continuer.errors import RequestError
from continuer.plan import Version
from continuer.wire import Accepted, ClassDoors, Notice, Rejected, Submit, Welcome
from tests.unit.test_client_core import (
    CLIENT,
    FRAMES,
    INGRESSES,
    MANIFEST,
    METAS,
    endpoint,
    reply,
)

MASKED = (ClassDoors("alarm", ("n1", "n3")), ClassDoors("counter", ("n2",)))
BUDGET_MS = 1000


def welcome(node: str) -> Welcome:
    served = ("default", "m", b"h", MANIFEST, Version(1, 1))
    return Welcome("c", node, 1, *served, INGRESSES, "n1", (), (), MASKED)


class Session:
    """A client of three ingresses that knows the classes."""

    def __init__(self) -> None:
        self.core = ClientCore("c", CLIENT, [endpoint(node) for node in ("n1", "n2", "n3")])
        self.now = 7_000 * MS
        self.sent: list[tuple[str, Submit]] = []
        self.done: list[Complete] = []
        for node in ("n1", "n2", "n3"):
            self.hear(node, welcome(node))

    def perform(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Complete):
                self.done.append(command)
            elif isinstance(command, Send) and isinstance(command.message, Submit):
                self.sent.append((command.endpoint, command.message))

    def hear(self, node: str, message: Any) -> None:
        self.perform(self.core.on_message(endpoint(node), message, (), self.now))

    def lose(self, node: str) -> None:
        self.perform(self.core.on_disconnected(endpoint(node), self.now))

    def submit(self, request_class: str = "alarm", seq: int = 1) -> list[tuple[str, int]]:
        """Ask; returns where copies went: node and number of the copy."""
        self.sent.clear()
        budget_ns = BUDGET_MS * MS
        pending = Pending(seq, "", request_class, METAS, FRAMES, self.now + budget_ns, budget_ns)
        self.perform(self.core.submit(pending, self.now))
        return self.places()

    def places(self) -> list[tuple[str, int]]:
        nodes = {endpoint(node): node for node, _ in INGRESSES}
        return sorted((nodes[place], submit.copy) for place, submit in self.sent)

    def wait(self, ms: int) -> None:
        self.now += ms * MS
        self.perform(self.core.on_tick(self.now))


def test_a_masked_request_enters_twice_by_the_first_nodes_of_both_routes() -> None:
    assert Session().submit() == [("n1", 1), ("n3", 2)]


def test_a_class_with_one_route_enters_once_by_the_first_node_of_its_route() -> None:
    assert Session().submit("counter") == [("n2", 1)]


def test_the_first_answer_wins_and_the_other_one_is_absorbed() -> None:
    session = Session()
    session.submit()
    session.hear("n3", reply(1))
    session.hear("n1", reply(1))
    assert [(done.seq, done.copies) for done in session.done] == [(1, 2)]
    assert session.core.late == 1
    assert session.core.inflight == 0


def test_an_ingress_that_dies_before_the_answer_costs_nothing() -> None:
    session = Session()
    session.submit()
    session.lose("n1")
    session.hear("n3", reply(1))
    assert [done.seq for done in session.done] == [1]


def test_the_copy_of_an_ingress_that_died_never_joins_the_other_copy() -> None:
    session = Session()
    session.submit()
    session.sent.clear()
    session.lose("n1")
    assert session.places() == [("n2", 1)]  # not n3, which has the request already
    session.sent.clear()
    session.lose("n2")
    assert session.places() == []
    session.hear("n3", reply(1))
    assert [(done.seq, done.copies) for done in session.done] == [(1, 1)]


def test_a_refusal_of_one_copy_is_not_the_outcome_while_the_other_is_under_way() -> None:
    session = Session()
    session.submit()
    session.hear("n1", Rejected(1, "busy", "full"))
    assert session.done == []
    session.hear("n3", reply(1))
    assert [done.copies for done in session.done] == [1]


def test_a_refusal_of_both_copies_is_the_one_outcome() -> None:
    session = Session()
    session.submit()
    session.hear("n1", Rejected(1, "busy", "full"))
    session.hear("n3", Rejected(1, "failed", "no answer"))
    (done,) = session.done
    assert isinstance(done.outcome, RequestError)
    assert done.outcome.code == "failed"


def test_both_copies_out_of_budget_are_one_error() -> None:
    session = Session()
    session.submit()
    session.wait(BUDGET_MS)
    (done,) = session.done
    assert isinstance(done.outcome, RequestError)
    assert done.outcome.code == "deadline"
    assert session.core.inflight == 0


def test_a_copy_that_is_not_accepted_moves_on_unless_the_other_one_is() -> None:
    session = Session()
    session.submit(seq=1)
    session.submit(seq=2)
    session.sent.clear()
    session.hear("n3", Accepted(1))
    session.wait(ACCEPT_MS)
    moved = {submit.seq for _, submit in session.sent}
    assert moved == {2}, "of the first, one copy is seen to: slow boxes get no more work"


def test_with_one_door_closed_the_open_one_gets_the_copy_of_its_own_route() -> None:
    session = Session()
    session.lose("n1")
    assert session.submit() == [("n2", 1), ("n3", 2)]
    session.lose("n2")
    assert session.submit(seq=2) == [("n3", 2)]


def test_a_plan_without_a_second_route_ends_the_copies() -> None:
    session = Session()
    single = (ClassDoors("alarm", ("n3",)),)
    session.hear("n3", Notice(Version(1, 2), "n3", ("n1",), INGRESSES, (), single))
    assert session.submit() == [("n3", 1)]
