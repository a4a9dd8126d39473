"""What an agent does on its own account when a node of the route fails."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agent.plan_holder import InForce, PlanHolder
from agent.repairs import (
    FORGIVE_EVERY_MS,
    HEAL_AFTER_MS,
    OVERRULED_AFTER_MS,
    PATIENCE_MS,
    SLOW_MS,
    Knock,
    Repairs,
)
from continuer.events import Event
from continuer.plan import Contingency, Hop, Member, Plan, Step, Version

BUNDLE_HASH = b"b" * 32
MS = 1_000_000
NAMES = ("n1", "n2", "n3")


def step(*nodes: str, accuracy: float = 0.8) -> Step:
    route = tuple(Hop(node, 1, (index,)) for index, node in enumerate(nodes))
    return Step("none", None, route, accuracy, 3.0, 5.0, 500.0)


def plan(version: Version) -> Plan:
    members = tuple(Member(n, 1, f"{n}:data", f"{n}:answers", f"{n}:ingress") for n in NAMES)
    contingencies = (
        Contingency(("n2",), (step("n1"), step("n1", "n3"))),
        Contingency(("n3",), (step("n1", "n2"),)),
    )
    return Plan(version, "default", BUNDLE_HASH, members, (), step("n1", "n2", "n3"), contingencies)


class Agent:
    """n1, which obeys plan 2.5 and has a coordinator unless it is said to be alone."""

    def __init__(self, *, alone: bool = False) -> None:
        self.holder = PlanHolder(BUNDLE_HASH)
        self.repairs = Repairs("n1", self.holder)
        self.now = 1_000 * MS
        self.obey(Version(2, 5))
        self.repairs.on_members(plan(Version(2, 5)).members)
        self.repairs.on_link(up=not alone)

    def obey(self, version: Version) -> list[object]:
        order = self.holder.on_plan(plan(version))
        assert isinstance(order, InForce)
        return [*self.repairs.on_order(order, self.now)]

    def knock_at(self, node: str) -> Knock:
        (knock,) = self.repairs.on_unwritable(node, self.now)
        assert isinstance(knock, Knock)
        assert (knock.node, knock.endpoint) == (node, f"{node}:data")
        return knock

    def orders(self, commands: Sequence[object]) -> list[InForce]:
        return [c for c in commands if isinstance(c, InForce)]

    def refuse(self, node: str) -> list[object]:
        return [*self.repairs.on_knocked(self.knock_at(node), "refused", self.now)]


def test_a_refused_knock_puts_the_bridge_in_force_at_once() -> None:
    agent = Agent()
    (order,) = agent.orders(agent.refuse("n2"))
    assert order.step == step("n1")
    assert order.version == Version(2, 5)
    assert order.failed == order.repaired == {"n2"}
    assert agent.repairs.count == 1


def test_the_best_step_follows_the_bridge() -> None:
    agent = Agent()
    agent.refuse("n2")
    assert not agent.orders([*agent.repairs.on_tick(agent.now + (HEAL_AFTER_MS - 1) * MS)])
    (order,) = agent.orders([*agent.repairs.on_tick(agent.now + HEAL_AFTER_MS * MS)])
    assert order.step == step("n1", "n3")


def test_an_answer_is_no_failure() -> None:
    agent = Agent(alone=True)
    assert agent.repairs.on_knocked(agent.knock_at("n2"), "answered", agent.now) == []
    assert agent.repairs.failed == frozenset()


@pytest.mark.parametrize(("alone", "at_once"), [(True, True), (False, False)])
def test_silence_is_left_to_the_coordinator_where_there_is_one(alone: bool, at_once: bool) -> None:
    agent = Agent(alone=alone)
    knock = agent.knock_at("n2")
    found = agent.repairs.on_knocked(knock, "silent", agent.now + 100 * MS)
    assert bool(agent.orders([*found])) == at_once
    if not at_once:
        agent.repairs.on_tick(agent.now + 300 * MS)
        late = agent.now + PATIENCE_MS * MS
        assert agent.orders([*agent.repairs.on_knocked(knock, "silent", late)])


def test_a_slow_request_makes_its_route_doubtful_sooner_without_a_coordinator() -> None:
    nodes = frozenset(NAMES)
    assert Agent().repairs.on_slow(nodes, SLOW_MS, 0) == []
    assert len(Agent().repairs.on_slow(nodes, PATIENCE_MS, 10**9)) == 2
    assert len(Agent(alone=True).repairs.on_slow(nodes, SLOW_MS, 10**9)) == 2


def test_a_later_plan_undoes_repairs_and_asks_again_after_the_dead() -> None:
    agent = Agent()
    agent.refuse("n2")
    commands = agent.obey(Version(2, 6))
    assert agent.repairs.failed == frozenset()
    assert [c.node for c in commands if isinstance(c, Knock)] == ["n2"]


def test_the_same_plan_again_does_not_undo_a_repair() -> None:
    agent = Agent()
    agent.refuse("n2")
    agent.holder.on_plan(plan(Version(2, 5)))
    (order,) = agent.orders([*agent.repairs.on_order_again()])
    assert order.repaired == {"n2"}


def test_a_life_that_is_not_a_members_any_more_is_not_judged() -> None:
    agent = Agent()
    knock = agent.knock_at("n2")
    agent.repairs.on_members((Member("n2", 2, "a", "b", "c"),))
    assert agent.repairs.on_knocked(knock, "refused", agent.now) == []


def test_where_nothing_goes_around_it_a_node_that_answers_is_used_again() -> None:
    agent = Agent(alone=True)
    agent.repairs.on_knocked(agent.knock_at("n2"), "silent", agent.now)
    (event,) = agent.repairs.on_knocked(agent.knock_at("n3"), "silent", agent.now)
    assert isinstance(event, Event)
    assert event.name == "repair_impossible"
    knocks = [k for k in agent.repairs.on_tick(agent.now) if isinstance(k, Knock)]
    assert {k.node for k in knocks} == {"n2", "n3"}
    assert not [k for k in agent.repairs.on_tick(agent.now) if isinstance(k, Knock)]
    assert FORGIVE_EVERY_MS > 0
    answered = [*agent.repairs.on_knocked(knocks[0], "answered", agent.now)]
    (order,) = agent.orders(answered)
    assert order.repaired == {"n3"}
    assert order.step == step("n1", "n2")


def test_a_coordinator_that_does_not_act_for_long_holds_for_alive_what_answers_again() -> None:
    """Cut off from us for a while, and from nobody else: no order of the coordinator's comes."""
    agent = Agent()
    knock = agent.knock_at("n3")
    agent.now += PATIENCE_MS * MS
    assert agent.orders([*agent.repairs.on_knocked(knock, "silent", agent.now)])
    assert not [c for c in agent.repairs.on_tick(agent.now + MS) if isinstance(c, Knock)]
    agent.now += OVERRULED_AFTER_MS * MS
    (again,) = [c for c in agent.repairs.on_tick(agent.now) if isinstance(c, Knock)]
    (order,) = agent.orders([*agent.repairs.on_knocked(again, "answered", agent.now)])
    assert (order.step, order.repaired) == (step("n1", "n2", "n3"), frozenset())


def test_a_later_life_that_answers_is_not_used_before_a_plan_counts_on_it() -> None:
    """The coordinator has just restarted: it is there, and has no plan for the new life yet."""
    agent = Agent(alone=True)
    agent.refuse("n3")
    agent.now += OVERRULED_AFTER_MS * MS
    others = plan(Version(2, 5)).members[:2]
    agent.repairs.on_members((*others, Member("n3", 2, "n3:data", "n3:answers", "n3:ingress")))
    agent.repairs.on_link(up=True)
    knocks = [c for c in agent.repairs.on_tick(agent.now) if isinstance(c, Knock)]
    for knock in knocks:
        assert agent.repairs.on_knocked(knock, "answered", agent.now) == []
    assert agent.repairs.failed == {"n3"}


def test_a_life_that_refused_is_not_used_again_however_long_the_coordinator_says_nothing() -> None:
    agent = Agent()
    agent.refuse("n3")
    found = [*agent.repairs.on_tick(agent.now + 2 * OVERRULED_AFTER_MS * MS)]
    assert not [command for command in found if isinstance(command, Knock)]


def test_a_broken_link_reported_by_a_stage_matters_only_without_a_coordinator() -> None:
    assert Agent().repairs.on_accused("n3", "n2", 0) == []
    agent = Agent(alone=True)
    (order,) = agent.orders([*agent.repairs.on_accused("n3", "n2", agent.now)])
    assert order.repaired == {"n2>n3"}
    assert not order.step.uses(frozenset({"n2>n3"}))


def test_a_node_that_is_left_out_takes_its_links_with_it() -> None:
    agent = Agent(alone=True)
    agent.repairs.on_accused("n3", "n2", agent.now)
    agent.refuse("n3")
    assert agent.repairs.failed == {"n3"}
    assert agent.repairs.on_accused("n3", "n2", agent.now) == []


def test_a_stranger_is_never_doubted() -> None:
    agent = Agent(alone=True)
    assert agent.repairs.on_unwritable("n9", agent.now) == []
    assert agent.repairs.on_unwritable("n1", agent.now) == []
    assert agent.repairs.on_accused("n9", "n2", agent.now) == []


def test_parts_of_the_bridge_and_of_the_best_step_are_loaded() -> None:
    agent = Agent()
    loads = [c for c in agent.refuse("n2") if hasattr(c, "order")]
    assert [load.order.parts for load in loads] == [(0,)]
