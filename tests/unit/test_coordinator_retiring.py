"""Agents that were told to stop: others do their work first, and their next life works again."""

from __future__ import annotations

from pathlib import Path

import pytest

from continuer.objectives import DeploymentObjectives
from continuer.wire import Leave, Retire
from coordinator.orders import load
from tests.unit.harness import World
from tests.unit.test_coordinator_orders import Operator


@pytest.fixture
def world() -> World:
    world = World()
    world.form()
    return world


def retire(world: World, name: str) -> None:
    agent = world.agents[name]
    message = Retire(name, agent.member.incarnation)
    world.perform(world.core.on_message(agent.link, message, world.now))
    world.run(50)


def leave(world: World, name: str) -> None:
    agent = world.agents[name]
    agent.alive = False
    message = Leave(name, agent.member.incarnation)
    world.perform(world.core.on_message(agent.link, message, world.now))


def test_others_take_over_while_it_still_works(world: World) -> None:
    retire(world, "n2")
    in_force = world.agents["n2"].in_force
    assert in_force is not None
    assert "n2" not in in_force.step.nodes
    assert in_force.draining == {"n2"}
    assert world.step.technique in ("none", "repartition")
    assert not world.said("failover")
    leave(world, "n2")
    world.run(300)
    assert not world.said("failover")
    assert world.state("n2") == "left"


def test_its_next_life_works_again(world: World) -> None:
    retire(world, "n2")
    leave(world, "n2")
    world.run(300)
    world.join("n2")
    world.run(3000)
    assert world.state("n2") == "active"
    assert "n2" in world.step.nodes


def test_what_an_operator_has_drained_stays_drained(world: World) -> None:
    Operator(world).ask("drain", node="n2")
    retire(world, "n2")
    leave(world, "n2")
    world.run(300)
    world.join("n2")
    world.run(3000)
    assert "n2" not in world.step.nodes


def test_retiring_is_not_stored_among_the_operators_orders(world: World, tmp_path: Path) -> None:
    operator = Operator(world, tmp_path)
    retire(world, "n2")
    operator.ask("drain", node="n3")
    assert load(tmp_path).drained == ("n3",)


def test_an_order_to_drain_outlasts_the_life_that_was_retiring(
    world: World, tmp_path: Path
) -> None:
    operator = Operator(world, tmp_path)
    retire(world, "n2")
    operator.ask("drain", node="n2")
    assert load(tmp_path).drained == ("n2",)
    leave(world, "n2")
    world.run(300)
    world.join("n2")
    world.run(3000)
    assert "n2" not in world.step.nodes


def test_who_cannot_be_spared_is_told_so() -> None:
    world = World(1)
    world.form()
    retire(world, "n1")
    assert [refusal.code for refusal in world.refusals] == ["retire"]
    assert "cannot run the model" in world.refusals[0].message
    assert world.step.nodes == {"n1"}
    leave(world, "n1")
    world.join("n1")
    world.run(3000)
    assert world.step.nodes == {"n1"}


def test_objectives_read_anew_hold_at_once_and_are_what_a_reset_goes_back_to(world: World) -> None:
    operator = Operator(world)
    verbs = operator._verbs
    world.perform(verbs.configured(DeploymentObjectives(min_accuracy=0.7), world.now))
    assert world.core.planning.objectives.min_accuracy == 0.7
    operator.ask("objectives.set", min_accuracy=0.8)
    world.perform(verbs.configured(DeploymentObjectives(min_accuracy=0.6), world.now))
    assert world.core.planning.objectives.min_accuracy == 0.8
    operator.ask("objectives.reset")
    assert world.core.planning.objectives.min_accuracy == 0.6
    version = world.core.version
    assert verbs.configured(DeploymentObjectives(min_accuracy=0.6), world.now) == []
    assert world.core.version == version


def test_requests_that_had_entered_by_a_failed_node_are_counted(world: World) -> None:
    world.core.membership.nodes["n3"].queued = 4
    world.kill("n3")
    world.run(300)
    assert {event.fields["lost"] for event in world.said("failover_told")} == {4}
