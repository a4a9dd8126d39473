"""The coordinator's core in scenarios: what it tells the agents, and when."""

from __future__ import annotations

import random

import pytest

from continuer.plan import Version
from continuer.wire import Accuse, Activate, Foresee, Heartbeat, Leave, NewPlan, Prepare
from tests.unit.harness import BUNDLE, MS, FakeAgent, World


def test_a_plan_is_formed_when_everybody_has_joined() -> None:
    world = World()
    world.join("n1", "n2", "n3", "n4")
    world.run(100)
    assert world.core.plan is None
    world.join("n5")
    world.run(50)
    assert world.technique() == "none"
    assert [hop.node for hop in world.step.route] == ["n1", "n2", "n3", "n4", "n5"]
    assert world.path == BUNDLE.path()
    assert all(agent.in_force is not None for agent in world.agents.values())


def test_a_plan_is_formed_without_the_missing_after_a_while() -> None:
    world = World(form_timeout_ms=500)
    world.join("n1", "n2", "n4")
    world.run(450)
    assert world.core.plan is None
    world.run(100)
    assert {hop.node for hop in world.step.route} == {"n1", "n2", "n4"}
    assert world.technique() == "repartition"
    assert world.path == BUNDLE.path()


def test_nodes_hold_what_the_plan_and_its_bridges_need_before_it_is_in_force() -> None:
    world = World()
    world.form()
    for hop in world.step.route:
        assert set(hop.parts) <= world.agents[hop.node].loaded
    for node in world.config.nodes:
        bridge = world.core.decisions[frozenset({node})].chosen[0]
        assert not bridge.missing, node


def test_a_closed_link_is_answered_in_the_same_call_by_the_prepared_contingency() -> None:
    world = World()
    world.form()
    base = world.core.version
    world.kill("n3")
    for name in ("n1", "n2", "n4", "n5"):
        order = world.agents[name].received[-1]
        assert order == Activate(Version(base.term, base.number + 1), base, ("n3",), 0)
    assert "n3" not in world.step.nodes
    assert world.technique() in ("skip", "early_exit")
    assert world.said("node_suspect")[0].fields["reason"] == "link closed"


def test_the_bridge_is_followed_by_healing_and_a_fresh_plan() -> None:
    world = World()
    world.form()
    world.kill("n3")
    world.run(10)
    assert world.technique() in ("skip", "early_exit")
    world.run(20)
    assert world.technique() == "repartition"
    assert world.path == BUNDLE.path()
    assert len(world.said("healed")) == 1
    world.run(200)
    last = [m for m in world.agents["n1"].received if isinstance(m, NewPlan | Foresee)][-2:]
    assert isinstance(last[0], NewPlan)
    assert isinstance(last[1], Foresee)  # links and pairs follow
    foreseen = {c.failed for c in last[0].plan.contingencies}
    assert foreseen == {("n1",), ("n2",), ("n4",), ("n5",)}
    assert ("n2>n4",) in {c.failed for c in last[1].contingencies}


def test_healing_waits_until_the_parts_are_loaded() -> None:
    world = World()
    world.form()
    for agent in world.agents.values():
        agent.slow_to_load = True
    world.kill("n3")
    world.run(300)
    assert world.technique() in ("skip", "early_exit")
    assert not world.said("healed")


def test_with_everything_in_memory_there_is_one_step() -> None:
    world = World(standby="all")
    world.form()
    world.kill("n4")
    assert world.technique() == "repartition"
    world.run(80)
    assert len(world.core.failovers[-1].steps) == 1


@pytest.mark.parametrize("node", ["n1", "n2", "n3", "n4", "n5"])
def test_any_position_may_fail(node: str) -> None:
    world = World()
    world.form()
    world.kill(node)
    assert node not in world.step.nodes
    world.run(300)
    assert node not in world.step.nodes
    assert world.path == BUNDLE.path()


def test_a_refused_connection_means_death_and_an_accepted_one_does_not() -> None:
    world = World()
    world.form()
    world.kill("n2")
    world.refuse_probes()
    assert world.state("n2") == "dead"
    world.agents["n4"].silent = True  # its port stays open
    world.run(100)
    assert world.state("n4") == "suspect"


def test_a_dying_process_that_still_holds_its_port_is_knocked_at_again() -> None:
    world = World()
    world.form()
    world.kill("n2")
    probe = world.probes.pop()
    world.perform(world.core.on_probe(probe.node, probe.incarnation, False, world.now))
    assert world.state("n2") == "suspect"
    world.run(60)
    assert world.state("n2") == "dead"


def test_silence_is_noticed_after_the_timeout_and_not_before() -> None:
    world = World(heartbeat_timeout_ms=30)
    world.form()
    world.silence("n3")
    world.run(25)
    assert not world.core.failed
    world.run(15)
    assert "n3" not in world.step.nodes
    assert world.said("node_suspect")[0].fields["reason"] == "silence"
    world.run(1100)
    assert world.state("n3") == "dead"


def test_a_suspect_that_is_heard_again_returns_without_the_long_wait() -> None:
    world = World(return_stable_ms=60_000, dead_after_ms=10_000)
    world.form()
    world.silence("n3")
    world.run(150)
    assert "n3" not in world.step.nodes
    world.wake("n3")
    world.run(100)
    assert not world.said("node_trusted")
    world.run(1500)
    assert world.said("node_trusted")
    assert world.technique() == "none"
    assert "n3" in world.step.nodes


def test_a_dead_node_comes_back_after_the_stable_period() -> None:
    world = World(return_stable_ms=1000)
    world.form()
    world.kill("n3")
    world.run(300)
    world.join("n3")
    assert "n3" in world.knows_of("n1")  # connected to before it gets work
    world.run(900)
    assert "n3" not in world.step.nodes
    world.run(1200)
    assert world.technique() == "none"
    assert "n3" in world.step.nodes
    assert world.said("node_returned")[0].fields == {"node": "n3"}


def test_flapping_changes_the_plan_at_most_once_a_second() -> None:
    world = World(return_stable_ms=0)
    world.form()
    for _ in range(10):
        world.kill("n3")
        world.run(100)
        world.join("n3")
        world.run(100)
    assert len(world.said("node_returned")) <= 3


def test_two_nodes_in_the_same_millisecond() -> None:
    world = World()
    world.form()
    world.kill("n2", "n4")
    assert not world.step.nodes & {"n2", "n4"}
    assert len(world.core.failovers) == 1
    assert {f.node for f in world.core.failovers[0].failures} == {"n2", "n4"}
    world.run(300)
    assert world.path == BUNDLE.path()
    assert not world.step.nodes & {"n2", "n4"}


def test_three_nodes_were_not_foreseen_and_are_planned_for_on_the_spot() -> None:
    world = World()
    world.form()
    world.kill("n1", "n3", "n4")
    assert isinstance(world.agents["n2"].received[-1], NewPlan)
    assert world.step.nodes <= {"n2", "n5"}
    world.run(300)
    assert world.path == BUNDLE.path()
    assert world.agents["n5"].in_force is not None
    assert world.agents["n5"].in_force.step == world.step


def test_the_last_node_runs_everything() -> None:
    world = World()
    world.form()
    world.kill("n1", "n2", "n3", "n5")
    world.run(400)
    assert [hop.node for hop in world.step.route] == ["n4"]
    assert world.path == BUNDLE.path()


def test_when_nobody_is_left_it_says_so_and_recovers_with_the_first_that_returns() -> None:
    world = World(2, return_stable_ms=0)
    world.form()
    world.kill("n1", "n2")
    assert world.said("no_plan")
    world.join("n2")
    world.run(1500)
    assert [hop.node for hop in world.step.route] == ["n2"]
    assert world.path == BUNDLE.path()


def test_a_failure_while_a_returned_node_is_prepared_does_not_get_stuck() -> None:
    world = World(return_stable_ms=0)
    world.form()
    world.kill("n3")
    world.run(1500)
    world.join("n3")
    world.agents["n3"].slow_to_load = True
    world.run(30)
    world.kill("n3")
    world.run(50)
    world.kill("n5")
    world.run(400)
    assert not world.step.nodes & {"n3", "n5"}
    assert world.path == BUNDLE.path()


def test_a_node_that_leaves_on_purpose_is_replaced_at_once() -> None:
    world = World()
    world.form()
    agent = world.agents["n4"]
    leave = Leave("n4", agent.member.incarnation)
    world.perform(world.core.on_message(agent.link, leave, world.now))
    assert "n4" not in world.step.nodes
    assert world.state("n4") == "left"


def test_an_accusation_is_checked_by_knocking() -> None:
    world = World()
    world.form()
    accused = world.agents["n3"]
    accuse = Accuse("n2", 2, "n3", accused.member.incarnation, "cannot send")
    world.perform(world.core.on_message(world.agents["n2"].link, accuse, world.now))
    assert [probe.node for probe in world.probes] == ["n3"]
    accused.alive = False
    world.refuse_probes()
    assert "n3" not in world.step.nodes
    assert world.state("n3") == "dead"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"cluster": "other"}, "cluster"),
        ({"bundle": b"x" * 32}, "bundle"),
        ({"member": FakeAgent("n9", 1, "all").member}, "node"),
    ],
)
def test_who_does_not_belong_is_refused_with_a_reason(
    changes: dict[str, object], code: str
) -> None:
    world = World()
    world.join("n1", **changes)
    assert [refusal.code for refusal in world.refusals] == [code]
    assert world.state("n1") == "absent"
    assert world.said("node_refused")


def test_a_second_agent_of_the_same_name_is_refused_while_the_first_lives() -> None:
    world = World()
    world.form()
    impostor = FakeAgent("n2", 99, "all")
    world.perform(world.core.on_message(impostor.link, impostor.join(), world.now))
    assert world.refusals[-1].code == "node"
    assert world.technique() == "none"


def test_a_heartbeat_from_an_unknown_link_is_asked_to_join() -> None:
    world = World()
    beat = Heartbeat("n1", 5, 1, Version(), 0, 0, 0, 0)
    world.perform(world.core.on_message(b"?", beat, world.now))
    assert world.refusals[-1].code == "unknown"


def test_an_agent_without_the_base_gets_the_whole_plan() -> None:
    world = World()
    world.form()
    forgetful = world.agents["n5"]
    forgetful.holder.__init__(BUNDLE.hash)  # type: ignore[misc]  # it restarted within its life
    world.kill("n2")
    assert isinstance(forgetful.received[-1], NewPlan)
    assert forgetful.in_force is not None
    assert forgetful.in_force.step == world.step


def test_a_new_coordinator_outranks_the_plans_that_agents_hold() -> None:
    world = World()
    for name in world.config.nodes:
        world.join(name, held=Version(7, 3))
    world.run(50)
    assert world.core.version > Version(7, 3)


@pytest.mark.parametrize("technique", ["repartition", "early_exit", "skip"])
def test_a_forced_technique_is_obeyed_before_and_after_settling(technique: str) -> None:
    world = World(technique=technique)
    world.form()
    world.kill("n4")
    world.run(400)
    assert world.technique() == technique


def test_an_impossible_forced_technique_falls_back_loudly() -> None:
    world = World(technique="early_exit")
    world.form()
    world.kill("n1")
    assert world.said("technique_fell_back")
    world.run(400)
    assert "n1" not in world.step.nodes


def test_an_observer_that_stalled_suspects_nobody() -> None:
    world = World()
    world.form()
    world.now += 200 * MS  # it did not run; everybody's heartbeats wait unread
    world.perform(world.core.on_tick(world.now))
    assert world.said("observer_late")
    world.run(100)
    assert not world.core.failed


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_versions_rise_and_routes_avoid_the_failed(seed: int) -> None:
    chance = random.Random(seed)
    world = World(standby=chance.choice(["all", "none"]), return_stable_ms=50)
    world.form()
    names = list(world.config.nodes)
    for _ in range(40):
        name = chance.choice(names)
        agent = world.agents[name]
        act = chance.random()
        if act < 0.3 and agent.alive and sum(a.alive for a in world.agents.values()) > 1:
            world.kill(name)
        elif act < 0.5 and not agent.alive:
            world.join(name)
        elif act < 0.6:
            world.silence(name)
        elif act < 0.8:
            world.wake(name)
        world.run(chance.choice([1, 5, 30, 200]))
        check_invariants(world)
    for name in names:
        world.wake(name)
        if not world.agents[name].alive:
            world.join(name)
    world.run(5000)
    assert world.technique() == "none", "all converge once faults stop"
    assert all(a.in_force and a.in_force.step == world.step for a in world.agents.values())


def check_invariants(world: World) -> None:
    """Versions rise; what is in force is a path of the bundle and avoids those held failed."""
    assert world.versions == sorted(world.versions)
    live = {node.name for node in world.core.membership.live()}
    if world.step.nodes <= live:
        exit_name, skipped = BUNDLE.variant_of(world.path)
        assert world.path == BUNDLE.path(skipped, exit_name)
    else:
        # Only while nothing else could be put in force yet: nobody left, or loading.
        preparing = world.core._preparing is not None
        assert preparing or not live or world.said("no_plan")


def test_loading_that_takes_too_long_is_tried_again_while_nothing_can_serve() -> None:
    world = World(technique="repartition")
    world.form()
    world.unload_spares()
    for agent in world.agents.values():
        agent.slow_to_load = True
    world.kill("n3")
    world.run(6000)
    assert "n3" in world.step.nodes, "nobody could load what is needed"
    for agent in world.agents.values():
        agent.slow_to_load = False
    world.run(6000)
    assert "n3" not in world.step.nodes
    assert world.path == BUNDLE.path()


def test_a_node_that_cannot_load_a_part_is_not_asked_for_it_again() -> None:
    world = World()
    world.form()
    spoilt = BUNDLE.part_ids["block09"]
    heir = next(
        hop.node
        for hop in world.core.decisions[frozenset({"n3"})].chosen[-1].step.route
        if spoilt in hop.parts
    )
    world.agents[heir].cannot_load = {spoilt}
    world.unload_spares()
    world.kill("n3")
    world.run(1000)
    assert world.core.membership.nodes[heir].refused == {spoilt}
    assert spoilt not in world.core.layout.get(heir, ())
    assert world.path == BUNDLE.path(), "others run it"


def test_nodes_beyond_the_number_of_blocks_stand_by_without_new_plans() -> None:
    world = World(19)
    world.form()
    world.run(300)
    before = world.core.version
    world.run(3500)
    assert world.core.version == before
    assert len(world.step.nodes) == 17
    assert world.agents["n19"].in_force is not None, "a spare is an ingress too"
    world.kill("n2")
    world.run(300)
    assert world.path == BUNDLE.path()
    assert "n18" in world.step.nodes


def test_a_new_life_of_a_node_at_work_ends_the_old_one_where_its_link_has_not() -> None:
    """Nobody is heard for long, so neither silence nor a closed link says anything of a node."""
    world = World()
    world.form()
    world.run(1500)
    world.silence(*world.config.nodes)
    world.run(1500)
    for agent in world.agents.values():
        world.perform(world.core.on_link_closed(agent.link, world.now))
    assert world.technique() == "none"
    world.join("n4")
    assert not world.refusals
    assert "n4" not in world.step.nodes
    suspected = [e.fields for e in world.events if e.name == "node_suspect"]
    assert [(f["node"], f["reason"]) for f in suspected] == [("n4", "restarted")]


def test_who_has_to_load_is_told_again_when_its_link_is_a_new_one() -> None:
    world = World()
    world.form()
    world.run(1500)
    for agent in world.agents.values():
        agent.slow_to_load = True
    world.kill("n3")
    world.run(40)  # the order to load has gone out, and is lost with the links
    ordered = [a for a in world.agents.values() if isinstance(a.received[-1], Prepare)]
    assert ordered
    assert "healed" not in [event.name for event in world.events]
    for agent in ordered:
        agent.slow_to_load = False
        agent.link += b"/again"
        world.perform(world.core.on_message(agent.link, agent.join(), world.now))
    world.run(40)
    assert "healed" in [event.name for event in world.events]
