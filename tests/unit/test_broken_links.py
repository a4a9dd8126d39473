"""Links that fail while both of their ends live: routes go around the link, not without a node."""

from __future__ import annotations

import itertools
import random

import pytest

from continuer.plan import link_name, links_of
from continuer.wire import Accuse
from coordinator.arrangements import arrangements, victims
from coordinator.membership import LEFT_OUT_MS
from coordinator.status import status
from tests.unit.harness import BUNDLE, World
from tests.unit.settings import FIVE, NAMES, decided, found, setting_of


def accuse(world: World, by: str, accused: str) -> None:
    """A stage could not send to the next one, and the coordinator knocks there."""
    agent, other = world.agents[by], world.agents[accused].member
    message = Accuse(by, agent.member.incarnation, accused, other.incarnation, "cannot send")
    world.perform(world.core.on_message(agent.link, message, world.now))
    world.refuse_probes()


@pytest.fixture
def world() -> World:
    world = World()
    world.form()
    world.run(100)
    return world


# --- orders of nodes ----------------------------------------------------------------------


def test_without_broken_links_the_nodes_stay_in_their_order() -> None:
    assert arrangements(NAMES, frozenset()) == [NAMES]
    assert victims(NAMES, frozenset()) == []


def test_around_one_broken_link_all_nodes_are_used_in_another_order() -> None:
    for source, target in itertools.permutations(NAMES, 2):
        broken = frozenset({link_name(source, target)})
        order = arrangements(NAMES, broken)[0]
        assert sorted(order) == list(NAMES)
        assert not broken & set(links_of(order))


def test_no_order_ever_needs_a_broken_link() -> None:
    chance = random.Random(7)
    for _ in range(200):
        names = [f"n{i}" for i in range(chance.randint(1, 7))]
        pairs = list(itertools.permutations(names, 2))
        broken = frozenset(
            link_name(*pair) for pair in chance.sample(pairs, min(len(pairs), chance.randint(0, 9)))
        )
        for order in arrangements(names, broken):
            assert not broken & set(links_of(order)), (names, broken)
            assert set(order) <= set(names)


def test_the_earliest_order_is_found_wherever_there_is_one() -> None:
    chance = random.Random(8)
    names = ("n1", "n2", "n3", "n4")
    pairs = list(itertools.permutations(names, 2))
    for _ in range(200):
        broken = frozenset(link_name(*p) for p in chance.sample(pairs, chance.randint(1, 6)))
        possible = [o for o in itertools.permutations(names) if not broken & set(links_of(o))]
        whole = [o for o in arrangements(names, broken) if len(o) == len(names)]
        assert whole == possible[:1]


def test_a_broken_link_of_a_thousand_nodes_is_gone_around() -> None:
    names = [f"n{i:04}" for i in range(1000)]
    order = arrangements(names, frozenset({link_name("n0500", "n0501")}))[0]
    assert sorted(order) == names
    assert order[500:503] == ("n0500", "n0502", "n0501")


def test_two_nodes_with_a_broken_link_go_on_alone() -> None:
    assert arrangements(("n1", "n2"), frozenset({"n1>n2"})) == [("n2",), ("n1",)]


def test_one_node_without_the_link_or_the_other_may_be_skipped() -> None:
    assert victims(NAMES, frozenset({"n2>n3"})) == [frozenset({"n3"}), frozenset({"n2"})]
    assert victims(NAMES, frozenset({"n3>n2"})) == []


# --- candidates ---------------------------------------------------------------------------


@pytest.mark.parametrize("link", links_of(NAMES))
def test_no_candidate_uses_the_broken_link_and_every_block_can_run(link: str) -> None:
    options = found(setting_of(), link)
    assert options
    assert not any(link in option.step.links for option in options)
    assert {option.step.technique for option in options} >= {"repartition", "early_exit"}
    assert decided(setting_of(), link).chosen[-1].step.nodes == set(FIVE)


def test_what_is_decided_for_a_node_and_a_link_avoids_both() -> None:
    decision = decided(setting_of(), "n4", "n2>n3")
    for candidate in decision.candidates:
        assert not candidate.step.uses(frozenset({"n4", "n2>n3"}))


# --- the coordinator ----------------------------------------------------------------------


def test_a_link_that_fails_alone_costs_no_node(world: World) -> None:
    accuse(world, "n2", "n3")
    assert world.state("n3") == "active"
    assert "n2>n3" not in world.step.links
    world.run(300)
    assert world.path == BUNDLE.path()
    assert len(world.step.nodes) >= 4
    assert {world.state(node) for node in world.config.nodes} == {"active"}
    assert world.said("link_failed")[0].fields == {"link": "n2>n3", "avoided_ms": LEFT_OUT_MS}
    assert not world.said("node_suspect")


def test_links_of_the_route_are_foreseen(world: World) -> None:
    accuse(world, "n3", "n4")
    order = [m for m in world.agents["n1"].received if type(m).__name__ == "Activate"][-1]
    assert order.failed == ("n3>n4",)  # type: ignore[attr-defined]  # an Activate


def test_the_other_direction_is_not_touched(world: World) -> None:
    before = world.core.version
    accuse(world, "n3", "n2")
    assert world.step.nodes == set(world.config.nodes)
    assert world.technique() == "none", "the route does not need that link"
    assert world.core.version > before, "agents are told, for clients that enter by n3"
    in_force = world.agents["n3"].in_force
    assert in_force is not None
    assert "n3>n2" in in_force.failed


def test_a_link_is_tried_again_and_avoided_for_longer_each_time(world: World) -> None:
    for avoided_ms in (LEFT_OUT_MS, 2 * LEFT_OUT_MS, 4 * LEFT_OUT_MS):
        accuse(world, "n2", "n3")
        assert world.said("link_failed")[-1].fields["avoided_ms"] == avoided_ms
        world.run(avoided_ms - 100)
        assert "n2>n3" not in world.step.links
        world.run(300)
        assert world.technique() == "none"
        assert "n2>n3" in world.step.links


def test_accusing_again_of_what_is_avoided_already_changes_nothing(world: World) -> None:
    accuse(world, "n2", "n3")
    world.run(300)
    version = world.core.version
    accuse(world, "n2", "n3")
    assert world.core.version == version
    assert len(world.said("link_failed")) == 1


def test_a_node_that_dies_while_a_link_is_broken_leaves_a_route_without_both(world: World) -> None:
    accuse(world, "n2", "n3")
    world.run(300)
    world.kill("n5")
    assert not world.step.uses(frozenset({"n5", "n2>n3"}))
    world.run(300)
    assert not world.step.uses(frozenset({"n5", "n2>n3"}))
    assert world.path == BUNDLE.path()


def test_two_nodes_that_cannot_reach_each_other_leave_one_to_answer() -> None:
    world = World(2)
    world.form()
    accuse(world, "n1", "n2")
    assert len(world.step.nodes) == 1
    world.run(300)
    assert len(world.step.nodes) == 1


def test_status_warns_of_a_broken_link(world: World) -> None:
    accuse(world, "n2", "n3")
    world.run(300)
    told = status(world.core, world.now, brief=True)["warnings"]
    assert "n2 cannot reach n3; routes avoid it" in told


@pytest.mark.parametrize("seed", range(8))
def test_whatever_breaks_no_route_in_force_uses_it(seed: int) -> None:
    chance = random.Random(seed)
    world = World(standby=chance.choice(["all", "none"]))
    world.form()
    for _ in range(6):
        a, b = chance.sample(world.config.nodes, 2)
        if world.state(a) == world.state(b) == "active":
            accuse(world, a, b)
            assert link_name(a, b) not in world.step.links or world.state(b) != "active"
        if chance.random() < 0.3:
            live = [n for n in world.config.nodes if world.state(n) == "active"]
            if len(live) > 2:
                world.kill(chance.choice(live))
        world.run(chance.choice([5, 50, 400]))
        assert not world.step.uses(world.core.planning.broken)
