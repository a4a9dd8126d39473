"""Failures told as stories. Each is run by ``tests/sim/test_scenarios.py`` in virtual time."""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.clock import MS
from tests.sim.judge import check_convergence
from tests.sim.watch import ViolationError
from tests.sim.world import World

Story = Callable[[World], None]
STORIES: dict[str, Story] = {}


def story(told: Story) -> Story:
    """Add a story to the list."""
    STORIES[told.__name__] = told
    return told


# --- what stories end with ----------------------------------------------------------------


def nothing_was_lost(world: World) -> None:
    """Every request has one outcome, which is an answer."""
    world.finish()
    bad = [(r.client, r.seq, r.outcomes[0][1]) for r in world.requests if r.good_ns is None]
    if bad:
        raise ViolationError("no_needless_error", f"{len(bad)} errors: {bad[:5]}")


def no_request_took_longer_than(world: World, ms: float) -> None:
    """From being sent to its answer."""
    worst_ms = max(((r.good_ns or 10**15) - r.sent_ns) / MS for r in world.requests)
    if worst_ms > ms:
        raise ViolationError("service_is_back_in_time", f"{worst_ms:.1f} ms; the bound is {ms:g}")


def all_is_as_before(world: World) -> None:
    """The full plan is in force everywhere."""
    check_convergence(world)


def repairs(world: World) -> int:
    """How often agents have acted by themselves."""
    return world.watch.events["local_repair"]


# --- deaths -------------------------------------------------------------------------------


@story
def the_first_node_dies_and_comes_back(world: World) -> None:
    world.begin(rate_per_s=300)
    world.kill("n1")
    world.run(200)
    world.ask(20)
    world.run(s=2)
    world.start("n1")
    world.run(s=3)
    all_is_as_before(world)
    nothing_was_lost(world)
    no_request_took_longer_than(world, 30)


@story
def the_last_node_dies_and_comes_back(world: World) -> None:
    world.begin()
    world.kill("n5")
    world.run(s=2)
    world.start("n5")
    world.run(s=3)
    all_is_as_before(world)
    nothing_was_lost(world)
    no_request_took_longer_than(world, 30)


@story
def two_neighbours_die_at_once(world: World) -> None:
    world.begin()
    world.kill("n3", "n4")
    world.run(s=2)
    nothing_was_lost(world)
    # What was sent anew to the second one waits 100 ms: it might be what kills them.
    no_request_took_longer_than(world, 150)


@story
def all_but_one_die_within_fifty_milliseconds(world: World) -> None:
    world.begin()
    for name in ("n1", "n2", "n4", "n5"):
        world.kill(name)
        world.run(12)
    world.run(s=3)
    nothing_was_lost(world)


@story
def everything_is_restarted_at_once(world: World) -> None:
    world.begin()
    world.ask(0)
    world.run(200)
    world.kill("coordinator", *world.names)
    world.run(500)
    world.start("coordinator", *world.names)
    world.run(s=3)
    all_is_as_before(world)
    if world.coordinator.core.version.term != 2:
        raise ViolationError("versions_only_rise", str(world.coordinator.core.version))
    world.ask(20)
    world.run(s=1)
    nothing_was_lost(world)


@story
def a_request_that_kills_takes_three_nodes_at_most(world: World) -> None:
    world.begin()
    world.clients["c1"].ask(poison=True)
    world.run(s=4)
    dead = [name for name, agent in world.agents.items() if not agent.alive]
    if len(dead) > 3:
        raise ViolationError("a_poison_is_quarantined", f"it killed {dead}")
    world.finish()
    bad = [r.outcomes[0][1] for r in world.requests if r.good_ns is None]
    if bad not in (["quarantined"], []):  # a bridge may go around what it poisons
        raise ViolationError("no_needless_error", str(bad))


@story
def a_coordinator_that_forgot_its_term_meets_agents_that_were_restarted(world: World) -> None:
    world.begin()
    for _ in range(3):
        world.kill("coordinator")
        world.start("coordinator")
        world.run(s=1)
    world.kill("coordinator", *world.names)
    world.coordinator.disk.clear()
    world.start("coordinator", *world.names)
    world.run(s=3)
    all_is_as_before(world)


@story
def a_node_flaps(world: World) -> None:
    world.begin()
    for _ in range(12):
        world.kill("n3")
        world.run(150)
        world.start("n3")
        world.run(150)
    world.run(s=4)
    all_is_as_before(world)
    nothing_was_lost(world)
    if world.watch.events["node_returned"] > 5:
        text = f"{world.watch.events['node_returned']} returns in four seconds of flapping"
        raise ViolationError("at_most_one_return_a_second", text)


@story
def a_stopped_node_goes_on_and_its_late_outputs_harm_nothing(world: World) -> None:
    world.begin()
    world.agents["n3"].pause()
    world.run(s=2)
    world.agents["n3"].resume()
    world.run(s=3)
    all_is_as_before(world)
    nothing_was_lost(world)


# --- the coordinator ----------------------------------------------------------------------


@story
def the_coordinator_is_gone_for_ten_minutes_and_then_a_node_dies(world: World) -> None:
    world.begin(rate_per_s=0.5)
    world.kill("coordinator")
    world.run(minutes=10)
    world.ask(30)
    world.run(500)
    world.kill("n3")
    world.run(s=3)
    if not repairs(world):
        raise ViolationError("static_stability", "nobody acted on the contingency held")
    world.start("coordinator", "n3")
    world.run(s=4)
    all_is_as_before(world)
    nothing_was_lost(world)
    no_request_took_longer_than(world, 50)


@story
def without_a_coordinator_two_nodes_die_one_after_the_other(world: World) -> None:
    world.begin()
    world.kill("coordinator")
    world.run(s=5)
    world.kill("n2")
    world.run(s=2)
    world.kill("n4")
    world.run(s=2)
    nothing_was_lost(world)
    no_request_took_longer_than(world, 50)


@story
def without_a_coordinator_a_node_loses_its_power(world: World) -> None:
    world.begin()
    world.kill("coordinator")
    world.run(s=5)
    world.unplug("n3")
    world.run(s=3)
    nothing_was_lost(world)
    no_request_took_longer_than(world, 400)


@story
def without_a_coordinator_the_entrance_loses_its_power(world: World) -> None:
    world.begin()
    world.kill("coordinator")
    world.run(s=5)
    world.unplug("n1")
    world.run(s=3)
    nothing_was_lost(world)
    no_request_took_longer_than(world, 700)


@story
def the_coordinator_hangs_and_then_a_node_dies(world: World) -> None:
    world.begin()
    world.coordinator.pause()
    world.run(s=5)
    world.kill("n3")
    world.run(s=2)
    world.coordinator.resume()
    world.run(s=2)
    nothing_was_lost(world)
    no_request_took_longer_than(world, 50)


@story
def without_a_coordinator_a_node_is_restarted_and_nobody_sends_to_its_new_life(
    world: World,
) -> None:
    """The new life knows no peers before a coordinator has named them."""
    world.begin()
    world.kill("coordinator")
    world.run(s=1)
    world.kill("n4")
    world.run(200)
    world.start("n4")
    world.run(s=4)
    world.start("coordinator")
    world.run(s=4)
    all_is_as_before(world)
    nothing_was_lost(world)


@story
def a_restarted_coordinator_costs_no_request_any_time(world: World) -> None:
    """The first agents to join it are told of few members, and need all of the plan in force."""
    world.begin(rate_per_s=200)
    world.kill("coordinator")
    world.run(300)
    world.start("coordinator")
    world.run(s=2)
    all_is_as_before(world)
    nothing_was_lost(world)
    no_request_took_longer_than(world, 30)


@story
def a_node_dies_unheard_while_the_coordinator_restarts(world: World) -> None:
    """Found by seed 67: the node was in no list of members any more, so nobody doubted it."""
    world.begin()
    world.unplug("n5")
    world.run(5)
    world.kill("coordinator")
    world.run(200)
    world.start("coordinator")
    world.run(s=3)
    nothing_was_lost(world)


@story
def a_node_is_back_before_anyone_noticed_its_death(world: World) -> None:
    """Found by seed 115: what its former life had was sent to nobody."""
    world.begin()
    deaf = [pair for n in (*world.names, *world.clients)
            for pair in ((n, "coordinator"), ("coordinator", n))]  # fmt: skip
    world.unplug("n2")
    world.cut(*deaf)
    world.run(200)
    world.plug_in("n2")
    world.mend(*deaf)
    world.run(s=4)
    all_is_as_before(world)
    nothing_was_lost(world)


@story
def what_one_agent_goes_around_the_coordinator_judges_for_all(world: World) -> None:
    """The entrance does not hear the last node, and nobody else has reason to complain."""
    world.begin()
    before = world.coordinator.core.version
    world.cut(("n5", "n1"), ("n1", "n5"))
    world.run(1200)
    if not repairs(world) or world.coordinator.core.version == before:
        raise ViolationError("a_repair_is_judged", f"the coordinator is still at {before}")
    world.mend(("n5", "n1"), ("n1", "n5"))
    world.run(s=4)
    all_is_as_before(world)
    nothing_was_lost(world)


@story
def an_agent_that_was_cut_off_catches_up(world: World) -> None:
    world.begin()
    away = [pair for n in (*world.names, "coordinator", *world.clients) if n != "n5"
            for pair in ((n, "n5"), ("n5", n))]  # fmt: skip
    world.cut(*away)
    world.run(s=2)
    world.kill("n2")
    world.run(s=2)
    world.mend(*away)
    world.run(s=4)
    held = world.agents["n5"].holder.version
    if held != world.coordinator.core.version:
        raise ViolationError("all_converge", f"n5 holds {held}")
    nothing_was_lost(world)


@story
def a_link_between_two_nodes_breaks_in_one_direction(world: World) -> None:
    world.begin()
    world.cut(("n2", "n3"))
    world.run(s=3)
    world.mend(("n2", "n3"))
    world.run(s=5)
    all_is_as_before(world)
    nothing_was_lost(world)
