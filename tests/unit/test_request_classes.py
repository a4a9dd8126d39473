"""Request classes: each by its own objectives, before and after failures."""

from __future__ import annotations

from typing import Any

import pytest

from continuer.config import CoordinatorConfig, parse
from continuer.errors import EXIT_USAGE, ConfigError
from continuer.objectives import ClassObjectives
from continuer.plan import ClassStep
from continuer.wire import Ask, NewPlan, Tell
from coordinator.core import Coordinator
from coordinator.event_ring import EventRing
from coordinator.orders import Orders, load
from coordinator.status import status
from coordinator.verbs import Verbs
from tests.unit.harness import BUNDLE, World

ALARM = {"redundancy": 2}
COUNTER = {"max_latency_ms": 2.5}


def world_with(count: int = 5, *, standby: str = "none", **classes: dict[str, Any]) -> World:
    """A cluster whose deployment has these request classes, with its first plan."""
    names = [f"n{i}" for i in range(1, count + 1)]
    raw = {"bundle": "-", "nodes": names, "objectives": {"class": classes}}
    world = World(count, standby=standby, objectives=parse(raw, CoordinatorConfig).objectives)
    world.form()
    world.run(100)
    return world


def at(world: World, name: str, agent: str) -> ClassStep:
    """What an agent does for a class."""
    in_force = world.agents[agent].in_force
    assert in_force is not None
    (found,) = [each for each in in_force.classes if each.name == name]
    return found


# --- routes of their own ------------------------------------------------------------------


def test_a_class_that_wants_what_the_deployment_wants_goes_by_the_plan() -> None:
    world = world_with(same={})
    assert at(world, "same", "n1") == ClassStep("same")
    assert world.core.plan is not None
    assert all(not each.classes for each in world.core.plan.contingencies)


def test_a_class_with_a_tight_latency_leaves_at_an_exit_while_the_others_do_not() -> None:
    world = world_with(counter=COUNTER)
    assert world.technique() == "none"
    own = at(world, "counter", "n4").step
    assert own is not None
    assert own.technique == "early_exit"
    assert own.latency_ms <= 2.5
    for hop in own.route:
        assert set(hop.parts) <= world.agents[hop.node].loaded, "its exit is in memory"


@pytest.mark.parametrize("node", ["n1", "n3", "n5"])
def test_after_a_failure_each_class_goes_by_its_own_objectives(node: str) -> None:
    world = world_with(counter=COUNTER, careful={"min_accuracy": 0.869})
    world.kill(node)
    world.run(300)
    survivor = next(name for name in world.config.nodes if name != node)
    careful, counter = (at(world, name, survivor) for name in ("careful", "counter"))
    step = careful.step or world.step
    assert step.accuracy is not None
    assert step.accuracy >= 0.869
    assert counter.step is not None
    assert counter.step.latency_ms <= 2.5
    assert node not in step.nodes | counter.step.nodes


def test_agents_find_the_classes_in_the_contingency_that_is_named_to_them() -> None:
    world = world_with(alarm=ALARM, counter=COUNTER)
    before = at(world, "counter", "n5")
    world.kill("n1")  # told by an Activate, a few bytes
    assert not isinstance(world.agents["n5"].received[-1], NewPlan)
    assert at(world, "counter", "n5") != before
    assert [each.name for each in world.agents["n5"].in_force.classes] == ["alarm", "counter"]  # type: ignore[union-attr]


# --- two disjoint routes ------------------------------------------------------------------


def lanes(world: World, agent: str) -> list[frozenset[str]]:
    """The nodes of each route that an agent has for the class; of the plan's, if it has none."""
    own = at(world, "alarm", agent)
    in_force = world.agents[agent].in_force
    assert in_force is not None
    first = own.step or in_force.step
    return [step.nodes for step in (first, own.second) if step is not None]


@pytest.mark.parametrize("count", [2, 3, 5, 6, 9])
def test_a_masked_class_has_two_routes_that_share_no_node(count: int) -> None:
    world = world_with(count, alarm=ALARM)
    first, second = lanes(world, "n1")
    assert not first & second
    assert first | second == set(world.config.nodes)
    own = at(world, "alarm", "n1")
    for step in (own.step, own.second):
        assert step is not None
        assert step.technique == "none"
        for hop in step.route:
            assert set(hop.parts) <= world.agents[hop.node].loaded


@pytest.mark.parametrize("node", ["n1", "n2", "n3", "n4", "n5"])
def test_whichever_node_dies_one_route_is_untouched_and_a_second_one_comes_back(node: str) -> None:
    world = world_with(alarm=ALARM)
    (kept,) = [nodes for nodes in lanes(world, "n1" if node != "n1" else "n2") if node not in nodes]
    world.kill(node)
    survivor = next(name for name in world.config.nodes if name != node)
    assert kept in lanes(world, survivor), "the untouched route goes on"
    assert all(node not in nodes for nodes in lanes(world, survivor))
    world.run(300)
    first, second = lanes(world, survivor)
    assert not first & second
    assert node not in first | second


def test_while_the_second_route_is_loaded_the_class_has_one_and_says_why() -> None:
    world = world_with(alarm=ALARM)
    for agent in world.agents.values():
        agent.slow_to_load = True
    world.kill("n4")
    world.run(50)
    assert len(lanes(world, "n1")) == 1
    (told,) = status(world.core, world.now, brief=True)["classes"]
    assert not told["masked"]
    assert "being prepared" in told["problem"]


def test_when_both_routes_are_hit_the_class_goes_on_by_what_is_left() -> None:
    world = world_with(alarm=ALARM)
    world.kill("n1", "n5")
    own = at(world, "alarm", "n3")
    step = own.step or world.step
    assert not step.nodes & {"n1", "n5"}
    world.run(500)
    first, second = lanes(world, "n3")
    assert first | second <= {"n2", "n3", "n4"}


def test_all_but_one_leaves_one_route_and_the_reason_in_status_and_journal() -> None:
    world = world_with(3, alarm=ALARM)
    world.kill("n1", "n2")
    world.run(500)
    assert lanes(world, "n3") == [frozenset({"n3"})]
    told = status(world.core, world.now, brief=True)
    (own,) = told["classes"]
    assert "two routes need two" in own["problem"]
    assert any("class alarm has no second route" in warning for warning in told["warnings"])
    assert world.said("redundancy_refused")[-1].fields == {
        "request_class": "alarm",
        "problem": own["problem"],
    }


def test_a_returning_node_takes_its_part_in_the_routes_again() -> None:
    world = world_with(alarm=ALARM)
    world.kill("n2")
    world.run(500)
    world.join("n2")
    world.run(3000)
    first, second = lanes(world, "n2")
    assert first | second == set(world.config.nodes)


def test_more_requests_than_half_of_the_nodes_can_take_leave_one_route() -> None:
    names = ["n1", "n2"]
    raw = {"bundle": "-", "nodes": names, "objectives": {"class": {"alarm": ALARM}}}
    objectives = parse(raw, CoordinatorConfig).objectives
    world = World(2, objectives=objectives, expected_rate_per_s=500.0)
    world.form()
    assert at(world, "alarm", "n1") == ClassStep("alarm")
    (event,) = world.said("redundancy_refused")
    assert "500 requests/s arrive; two routes can take up to" in event.fields["problem"]


def test_nodes_too_small_for_a_second_route_leave_one_and_name_the_memory() -> None:
    names = [f"n{i}" for i in range(1, 6)]
    raw = {"bundle": "-", "nodes": names, "objectives": {"class": {"alarm": ALARM}}}
    world = World(5, objectives=parse(raw, CoordinatorConfig).objectives)
    world.join(*names, memory_bytes=2_300_000)
    world.run(50)
    assert at(world, "alarm", "n1") == ClassStep("alarm")
    assert "MiB" in world.said("redundancy_refused")[0].fields["problem"]


# --- the operator -------------------------------------------------------------------------


class Operator:
    def __init__(self, world: World, tmp_path: Any = None) -> None:
        self._world = world
        self._verbs = Verbs(world.core, Orders(), tmp_path, EventRing())

    def ask(self, verb: str, **arguments: Any) -> Tell:
        answer, commands = self._verbs.answer(Ask(verb, arguments), self._world.now)
        self._world.perform(commands)
        self._world.run(300)
        return answer


def test_a_class_can_be_masked_and_unmasked_while_it_is_used() -> None:
    world = world_with(alarm={})
    operator = Operator(world)
    answer = operator.ask("objectives.set", **{"class": "alarm", "redundancy": 2})
    assert answer.data["in_force"]["redundancy"] == 2
    assert answer.data["configured"]["redundancy"] == 1
    assert len(lanes(world, "n1")) == 2
    changed = world.said("objectives_changed")[-1].fields["changed"]
    assert changed == {"class.alarm.redundancy": 2}
    operator.ask("objectives.reset", **{"class": "alarm"})
    assert at(world, "alarm", "n1") == ClassStep("alarm")


def test_what_is_set_for_a_class_holds_across_a_restart(tmp_path: Any) -> None:
    world = world_with(alarm={})
    Operator(world, tmp_path).ask("objectives.set", **{"class": "alarm", "min_accuracy": 0.85})
    assert load(tmp_path).classes == {"alarm": ClassObjectives(min_accuracy=0.85)}
    restarted = Coordinator(world.config, BUNDLE, 1, load(tmp_path))
    assert restarted.planning.classes[0].objectives.min_accuracy == 0.85


def test_a_class_inherits_what_it_does_not_say_and_lifts_what_it_is_told_to_lift() -> None:
    world = world_with(alarm={"min_accuracy": 0.5})
    operator = Operator(world)
    operator.ask("objectives.set", max_latency_ms=50.0)
    own = world.core.planning.classes[0].objectives
    assert (own.min_accuracy, own.max_latency_ms) == (0.5, 50.0)
    operator.ask("objectives.set", **{"class": "alarm", "max_latency_ms": None})
    assert world.core.planning.classes[0].objectives.max_latency_ms is None
    assert world.core.planning.objectives.max_latency_ms == 50.0


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"class": "alram", "redundancy": 2}, "alarm"),
        ({"class": 7}, "alarm"),
        ({"class": "alarm", "redundancy": 3}, "redundancy"),
        ({"class": "alarm", "redundancy": 0}, "redundancy"),
        ({"class": "alarm", "min_accuracy": 80}, "objectives.class.alarm.min_accuracy"),
        ({"class": "alarm", "weight_latency": float("nan")}, "weight_latency"),
        ({"class": "alarm", "min_acuracy": 0.8}, "min_acuracy"),
        ({"redundancy": 2}, "redundancy"),
    ],
)
def test_nonsense_for_a_class_is_refused_and_changes_nothing(
    given: dict[str, Any], named: str
) -> None:
    world = world_with(alarm={})
    before = world.core.version
    answer = Operator(world).ask("objectives.set", **given)
    assert named in answer.error
    assert answer.exit_code == EXIT_USAGE
    assert world.core.version == before


@pytest.mark.parametrize(
    ("classes", "key"),
    [
        ({"alarm": {"redundancy": 3}}, "objectives.class.alarm.redundancy"),
        ({"alarm": {"redundancy": True}}, "objectives.class.alarm.redundancy"),
        ({"alarm": {"min_accuracy": 80}}, "objectives.class.alarm.min_accuracy"),
        ({"alarm": {"min_accuracy": "high"}}, "objectives.class.alarm.min_accuracy"),
        ({"alarm": {"min_acuracy": 0.8}}, "objectives.class.alarm.min_acuracy"),
        ({"alarm": 3}, "objectives.class.alarm"),
        ({"An Alarm": {}}, "objectives.class"),
        ({f"c{i}": {} for i in range(17)}, "objectives.class"),
    ],
)
def test_a_configuration_with_nonsense_for_a_class_is_refused_by_its_key(
    classes: dict[str, Any], key: str
) -> None:
    raw = {"bundle": "-", "nodes": ["n1"], "objectives": {"class": classes}}
    with pytest.raises(ConfigError) as caught:
        parse(raw, CoordinatorConfig)
    assert caught.value.key == key


def test_status_tells_how_each_class_goes() -> None:
    world = world_with(alarm=ALARM, counter=COUNTER, same={})
    alarm, counter, same = status(world.core, world.now, brief=True)["classes"]
    assert (alarm["class"], alarm["masked"], len(alarm["routes"])) == ("alarm", True, 2)
    assert [step["technique"] for step in counter["routes"]] == ["early_exit"]
    assert same == {"class": "same", "routes": [], "masked": False, "problem": ""}
