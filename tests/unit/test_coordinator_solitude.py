"""A coordinator that hears nobody: it is not the world that has died."""

from __future__ import annotations

from coordinator.status import health
from tests.unit.harness import MS, World


def stagger(world: World) -> None:
    """The agents' heartbeats are spread over the interval, as those of real agents are."""
    for name, agent in world.agents.items():
        world.now += 2 * MS
        world.perform(world.core.on_message(agent.link, agent.beat(), world.now))
        assert world.state(name) == "active"


def fall_silent(world: World) -> None:
    """Nobody is heard any more; the last heartbeats came 2 ms after each other."""
    for agent in world.agents.values():
        agent.silent = True
    stagger(world)


def test_nobody_is_failed_while_nobody_is_heard() -> None:
    world = World()
    world.form()
    version = world.core.version
    fall_silent(world)
    world.run(20_000)
    assert [world.state(name) for name in world.agents] == ["active"] * 5
    assert world.core.version == version


def test_links_that_agents_gave_up_meanwhile_are_no_failures() -> None:
    world = World()
    world.form()
    version = world.core.version
    fall_silent(world)
    world.run(3_000)
    for name, agent in world.agents.items():
        world.perform(world.core.on_link_closed(agent.link, world.now))
        assert world.state(name) == "active"
    world.refuse_probes()  # they all live
    for agent in world.agents.values():
        agent.silent = False
        agent.link = b"new " + agent.link
        world.perform(world.core.on_message(agent.link, agent.join(), world.now))
    world.run(5_000)
    assert [world.state(name) for name in world.agents] == ["active"] * 5
    assert world.core.version == version


def test_a_link_closed_by_a_node_that_is_dead_is_found_out_by_knocking() -> None:
    world = World()
    world.form()
    fall_silent(world)
    world.run(3_000)
    world.agents["n3"].alive = False
    world.perform(world.core.on_link_closed(world.agents["n3"].link, world.now))
    world.refuse_probes()
    assert world.state("n3") == "dead"


def test_while_nobody_is_heard_the_status_says_so() -> None:
    world = World()
    world.form()
    assert health(world.core) == "full"
    fall_silent(world)
    world.run(500)
    assert health(world.core) == "isolated"
    for agent in world.agents.values():
        agent.silent = False
    world.run(100)
    assert health(world.core) == "full"
