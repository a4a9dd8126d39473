"""When an agent that was told to stop may stop."""

from __future__ import annotations

from typing import Any

from agent.leaving import QUIET_NS, Leaving, Situation
from agent.plan_holder import InForce
from continuer.plan import ClassStep, Hop, Step, Version

S = 1_000_000_000


def step(*nodes: str) -> Step:
    route = tuple(Hop(node, 1, (0,)) for node in nodes)
    return Step("none", None, route, 0.8, 1.0, 0.0, 100.0)


def plan(*nodes: str, draining: tuple[str, ...] = (), **changes: Any) -> InForce:
    return InForce(Version(1, 1), "d", step(*nodes), frozenset(), frozenset(draining), **changes)


WITH = plan("n1", "n2")
WITHOUT = plan("n1", "n3", draining=("n2",))


def situation(in_force: InForce | None = WITHOUT, **changes: Any) -> Situation:
    values = {"joined": True, "refusal": "", "inflight": 0, "arrived": 7, **changes}
    return Situation(in_force=in_force, **values)


def leaving() -> Leaving:
    return Leaving("n2", 10 * S, now=0)


def test_it_stays_while_the_plan_counts_on_it() -> None:
    out = leaving()
    assert all(out.outcome(situation(WITH), now) is None for now in range(0, 10 * S, S))


def test_it_leaves_once_it_is_relieved_and_nothing_has_come_for_a_while() -> None:
    out = leaving()
    assert out.outcome(situation(WITH), 0) is None
    assert out.outcome(situation(), S) is None
    assert out.outcome(situation(), S + QUIET_NS - 1) is None
    assert out.outcome(situation(), S + QUIET_NS) == "handed over"


def test_what_still_arrives_makes_it_wait_anew() -> None:
    out = leaving()
    assert out.outcome(situation(arrived=7), S) is None
    assert out.outcome(situation(arrived=8), S + QUIET_NS) is None
    assert out.outcome(situation(arrived=8), S + 2 * QUIET_NS) == "handed over"


def test_requests_under_way_are_finished_first() -> None:
    out = leaving()
    assert out.outcome(situation(inflight=1), S) is None
    assert out.outcome(situation(inflight=1), S + 2 * QUIET_NS) is None
    assert out.outcome(situation(), S + 3 * QUIET_NS) is None
    assert out.outcome(situation(), S + 4 * QUIET_NS) == "handed over"


def test_a_node_without_blocks_is_still_an_entrance_until_clients_are_told() -> None:
    spare = plan("n1", "n3")
    out = leaving()
    assert out.outcome(situation(spare), S) is None
    assert out.outcome(situation(spare), S + QUIET_NS) is None


def test_a_route_of_a_request_class_counts_as_well() -> None:
    for own in (ClassStep("alarm", step("n2")), ClassStep("alarm", step("n1"), step("n2"))):
        busy = plan("n1", "n3", draining=("n2",), classes=(own,))
        out = leaving()
        assert out.outcome(situation(busy), S) is None
        assert out.outcome(situation(busy), S + QUIET_NS) is None


def test_it_does_not_wait_for_a_coordinator_that_is_not_there_or_says_no() -> None:
    assert leaving().outcome(situation(WITH, joined=False), 0) == "no coordinator to hand over to"
    assert leaving().outcome(situation(WITH, refusal="nobody can"), 0) == "nobody can"


def test_the_wait_is_bounded_and_says_what_was_left() -> None:
    out = leaving()
    assert out.outcome(situation(WITH, inflight=3), 10 * S - 1) is None
    outcome = out.outcome(situation(WITH, inflight=3), 10 * S)
    assert outcome == "not handed over in time, 3 requests under way"


def test_an_agent_that_never_had_a_plan_need_not_hand_anything_over() -> None:
    out = leaving()
    assert out.outcome(situation(None), 0) is None
    assert out.outcome(situation(None), QUIET_NS) == "handed over"
