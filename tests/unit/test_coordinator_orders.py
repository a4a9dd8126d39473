"""The operator's orders: objectives, draining, what-if; and what they leave for a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from continuer.errors import EXIT_USAGE, ConfigError
from continuer.objectives import Objectives
from continuer.plan import Step
from continuer.wire import Ask, Tell
from coordinator.core import Coordinator
from coordinator.event_ring import EventRing
from coordinator.orders import Orders, load
from coordinator.verbs import Verbs
from tests.unit.harness import BUNDLE, World


class Operator:
    """Asks the coordinator of a world, and has its commands performed."""

    def __init__(self, world: World, state_dir: Path | None = None) -> None:
        self._world = world
        self._verbs = Verbs(world.core, Orders(), state_dir, EventRing())

    def ask(self, verb: str, **arguments: Any) -> Tell:
        answer, commands = self._verbs.answer(Ask(verb, arguments), self._world.now)
        self._world.perform(commands)
        self._world.run(50)
        return answer


def accuracy(step: Step) -> float:
    """What is known for every path of the shipped bundle."""
    assert step.accuracy is not None
    return step.accuracy


@pytest.fixture
def world() -> World:
    world = World()
    world.form()
    return world


def test_objectives_are_taken_into_account_at_once(world: World) -> None:
    operator = Operator(world)
    before = world.core.version
    assert accuracy(world.core.decisions[frozenset({"n4"})].chosen[0].step) < 0.86
    answer = operator.ask("objectives.set", min_accuracy=0.86)
    assert answer.data["in_force"]["min_accuracy"] == 0.86
    assert world.core.version > before
    for decision in world.core.decisions.values():
        assert accuracy(decision.chosen[0].step) >= 0.86, decision.failed
    assert world.said("objectives_changed")[0].fields == {"changed": {"min_accuracy": 0.86}}


def test_other_objectives_while_degraded_choose_anew(world: World) -> None:
    operator = Operator(world)
    # So much weight on latency that after a failure the answer is taken at an early exit.
    operator.ask("objectives.set", weight_accuracy=0.0, max_latency_ms=1.5)
    world.kill("n4")
    world.run(300)
    assert world.technique() in ("early_exit", "mixed")
    operator.ask("objectives.reset")
    world.run(300)
    assert world.technique() == "repartition"
    assert world.path == BUNDLE.path()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"min_accuracy": 80}, "min_accuracy"),
        ({"max_latency_ms": -1.0}, "max_latency_ms"),
        ({"weight_accuracy": float("nan")}, "weight_accuracy"),
        ({"weight_accuracy": 0, "weight_latency": 0, "weight_downtime": 0}, "weight_*"),
        ({"min_acuracy": 0.8}, "min_acuracy"),
        ({"min_accuracy": "high"}, "min_accuracy"),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(
    world: World, given: dict[str, Any], named: str
) -> None:
    before = world.core.version
    answer = Operator(world).ask("objectives.set", **given)
    assert named in answer.error
    assert answer.exit_code == EXIT_USAGE
    assert world.core.planning.objectives == Objectives()
    assert world.core.version == before


def test_objectives_set_hold_across_a_restart_until_reset(world: World, tmp_path: Path) -> None:
    operator = Operator(world, tmp_path)
    operator.ask("objectives.set", min_accuracy=0.8)
    restarted = Coordinator(world.config, BUNDLE, 1, load(tmp_path))
    assert restarted.planning.objectives == Objectives(min_accuracy=0.8)
    operator.ask("objectives.reset")
    assert load(tmp_path).objectives is None
    assert Coordinator(world.config, BUNDLE, 1, load(tmp_path)).planning.objectives == Objectives()


def test_orders_that_cannot_be_stored_are_not_obeyed(world: World, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    answer = Operator(world, blocked).ask("objectives.set", min_accuracy=0.8)
    assert "state_dir" in answer.error
    assert world.core.planning.objectives == Objectives()


@pytest.mark.parametrize(
    "raw", ["{", json.dumps({"objectives": {"min_accuracy": 80}}), json.dumps({"drain": []})]
)
def test_damaged_orders_stop_the_coordinator_with_the_file_named(tmp_path: Path, raw: str) -> None:
    (tmp_path / "orders.json").write_text(raw)
    with pytest.raises(ConfigError, match=r"orders\.json"):
        load(tmp_path)


def test_a_drained_node_keeps_its_work_until_the_others_can_do_it(world: World) -> None:
    for agent in world.agents.values():
        agent.slow_to_load = True
    operator = Operator(world)
    assert not operator.ask("drain", node="n3").error
    assert "n3" in world.step.nodes
    for agent in world.agents.values():
        agent.slow_to_load = False
    operator.ask("drain", node="n3")  # the order given again starts the loading again
    world.run(200)
    assert "n3" not in world.step.nodes
    assert world.path == BUNDLE.path(), "no answer was degraded on the way"
    assert not world.said("failover")
    assert all(step.technique in ("none", "repartition") for step, _ in world.routes_seen)


def test_a_drained_node_is_told_of_plans_and_clients_are_told_of_it(world: World) -> None:
    Operator(world).ask("drain", node="n3")
    in_force = world.agents["n3"].in_force
    assert in_force is not None
    assert in_force.step == world.step
    assert in_force.draining == {"n3"}
    assert in_force.failed == frozenset()


def test_a_drained_node_stays_out_until_it_is_resumed(world: World, tmp_path: Path) -> None:
    operator = Operator(world, tmp_path)
    operator.ask("drain", node="n3")
    world.kill("n3")  # taken down for maintenance
    assert not world.said("failover"), "nobody needed it any more"
    world.run(300)
    world.join("n3")
    world.run(3000)
    assert "n3" not in world.step.nodes
    assert load(tmp_path).drained == ("n3",)
    operator.ask("resume", node="n3")
    world.run(1500)
    assert world.technique() == "none"
    assert load(tmp_path).drained == ()


def test_a_failure_while_draining_ends_in_a_plan_without_both(world: World) -> None:
    operator = Operator(world)
    world.agents["n2"].slow_to_load = True
    operator.ask("drain", node="n3")
    world.kill("n2")
    world.run(500)
    assert not world.step.nodes & {"n2", "n3"}
    assert world.path == BUNDLE.path()


def test_the_last_node_cannot_be_drained(world: World) -> None:
    operator = Operator(world)
    for name in ("n1", "n2", "n3", "n4"):
        assert not operator.ask("drain", node=name).error
        world.run(1000)
    answer = operator.ask("drain", node="n5")
    assert "n5" in answer.error
    assert answer.exit_code == EXIT_USAGE
    assert world.step.nodes == {"n5"}


def test_what_if_tells_what_then_happens(world: World) -> None:
    operator = Operator(world)
    told = operator.ask("plan.what_if", nodes=[["n2", "n4"]]).data["what_if"][0]
    assert told["nodes"] == ["n2", "n4"]
    world.kill("n2", "n4")
    # Every step: the accuracy that was told is the one then in force.
    assert round(accuracy(world.step), 4) == told["steps"][0]["accuracy"]
    world.run(300)
    assert round(accuracy(world.step), 4) == told["steps"][-1]["accuracy"]


def test_what_if_covers_every_node_at_work_and_refuses_others(world: World) -> None:
    operator = Operator(world)
    entries = operator.ask("plan.what_if").data["what_if"]
    assert [entry["nodes"] for entry in entries] == [["n1"], ["n2"], ["n3"], ["n4"], ["n5"]]
    assert all(entry["gap_ms"] > 0 and entry["rate_limit_per_s"] > 0 for entry in entries)
    assert "n7" in operator.ask("plan.what_if", nodes=[["n7"]]).error
    world.kill("n1")
    assert "n1" in operator.ask("plan.what_if", nodes=[["n1"]]).error


def test_what_if_all_fail_says_that_nothing_would_serve(world: World) -> None:
    everyone = [list(world.config.nodes)]
    entry = Operator(world).ask("plan.what_if", nodes=everyone).data["what_if"][0]
    assert entry["steps"] == []
    assert not entry["feasible"]


def test_an_unknown_verb_is_answered_with_the_known_ones(world: World) -> None:
    answer = Operator(world).ask("reboot")
    assert "reboot" in answer.error
    assert "drain" in answer.error


def test_pairs_are_prepared_in_idle_moments_and_agents_get_them(world: World) -> None:
    assert {len(failed) for failed in world.core.decisions} == {1, 2}
    world.kill("n2")
    world.run(5)
    world.kill("n4")
    # Named, not sent: the agents had it.
    order = world.agents["n1"].received[-1]
    assert type(order).__name__ == "Activate"
    assert order.failed == ("n2", "n4")  # type: ignore[attr-defined]  # an Activate


def test_downtimes_are_learned_from_what_happened(world: World) -> None:
    before = world.core.planning.timings
    world.run(1000)
    world.silence("n3")
    world.run(400)
    after = world.core.planning.timings
    assert after.detect_ms_of["n3"] > before.detect_ms
    assert "n2" not in after.detect_ms_of
    assert after.load_factor_of, "healing has loaded blocks"
    taken = {step.step.technique for step in world.core.failovers[0].steps}
    assert set(after.tell_ms_of) == taken
