"""What the coordinator says of itself, in every state of health."""

from __future__ import annotations

import json
from typing import Any

from coordinator.status import health, status
from tests.unit.harness import BUNDLE, World

KEYS = {
    "schema", "cluster", "deployment", "model", "model_version", "bundle", "health", "objectives",
    "version",
    "clock_ns", "rate_per_s", "plan", "predictions", "nodes", "contingencies", "failovers",
    "classes", "warnings",
}  # fmt: skip
PLAN_KEYS = {
    "technique", "exit", "accuracy", "latency_ms", "capacity_per_s", "accuracy_source",
    "latency_source", "route",
}  # fmt: skip
CANDIDATE_KEYS = {
    "technique", "exit", "accuracy", "latency_ms", "accuracy_source", "latency_source",
    "downtime_ms", "capacity_per_s", "feasible", "score",
}  # fmt: skip


def state_of(world: World, *, brief: bool = False) -> dict[str, Any]:
    """The status as a reader of its JSON sees it, with the shape that every state has."""
    state: dict[str, Any] = json.loads(
        json.dumps(status(world.core, world.now, brief=brief), allow_nan=False)
    )
    assert state.keys() == KEYS
    assert state["model"] == "resnet32-cifar10"
    assert state["bundle"] == BUNDLE.hash.hex()
    assert [node["node"] for node in state["nodes"]] == list(world.config.nodes)
    if state["plan"] is not None:
        assert state["plan"].keys() == PLAN_KEYS
    return state


def node_of(state: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(node for node in state["nodes"] if node["node"] == name)
    return found


def test_before_the_first_plan_there_is_none() -> None:
    world = World()
    world.join("n1", "n2")
    state = state_of(world)
    assert (state["health"], state["plan"], state["version"]) == ("no_plan", None, "0.0")
    assert (state["contingencies"], state["failovers"]) == ([], [])
    assert node_of(state, "n1")["state"] == "joined"
    absent = node_of(state, "n3")
    assert (absent["state"], absent["incarnation"], absent["timeout_ms"]) == ("absent", None, None)


def test_with_everybody_at_work_health_is_full() -> None:
    world = World()
    world.form()
    state = state_of(world)
    assert state["health"] == "full"
    assert state["version"] == str(world.core.version)
    plan = state["plan"]
    assert (plan["technique"], plan["exit"], plan["accuracy"]) == ("none", None, 0.8694)
    assert [hop["node"] for hop in plan["route"]] == ["n1", "n2", "n3", "n4", "n5"]
    assert [part for hop in plan["route"] for part in hop["parts"]] == list(BUNDLE.path())
    node = node_of(state, "n2")
    assert node["state"] == "active"
    assert node["reason"] == ""
    assert (node["data"], node["answers"], node["ingress"]) == tuple(
        f"tcp://n2:{port}" for port in (1, 2, 3)
    )
    assert node["parts_loaded"] == len(world.agents["n2"].loaded)
    assert node["timeout_ms"] == 30


def test_with_contingencies_and_their_candidates_unless_it_is_to_be_brief() -> None:
    world = World()
    world.form()
    contingencies = state_of(world)["contingencies"]
    assert len(contingencies) == 5 + 5 + 10  # every node, link of the route, and pair
    one = next(c for c in contingencies if c["nodes"] == ["n3"])
    assert one.keys() == {"nodes", "steps", "feasible", "why", "candidates"}
    assert len(one["steps"]) == 2
    assert all(step.keys() == PLAN_KEYS for step in one["steps"])
    assert all("n3" not in {hop["node"] for hop in s["route"]} for s in one["steps"])
    assert all(candidate.keys() == CANDIDATE_KEYS for candidate in one["candidates"])
    assert {c["technique"] for c in one["candidates"]} == {
        *("repartition", "early_exit", "skip", "mixed"),
    }
    brief = state_of(world, brief=True)
    assert brief["contingencies"] == []
    assert brief["plan"] == state_of(world)["plan"]


def test_on_an_exit_or_a_skip_health_is_degraded() -> None:
    world = World()
    world.form()
    world.kill("n3")
    state = state_of(world)
    assert state["health"] == "degraded"
    assert state["plan"]["technique"] in ("early_exit", "skip")
    node = node_of(state, "n3")
    assert (node["state"], node["reason"], node["timeout_ms"]) == ("suspect", "link closed", None)
    (failover,) = state["failovers"]
    assert (failover["nodes"], failover["reasons"]) == (["n3"], ["link closed"])
    (step,) = failover["steps"]
    assert step["version"] == state["version"]
    assert step["last_ack_ns"] == world.now
    assert failover["healed_ns"] is None


def test_with_every_block_on_fewer_nodes_health_is_reduced() -> None:
    world = World()
    world.form()
    world.kill("n3")
    world.run(300)
    state = state_of(world)
    assert state["health"] == "reduced"
    assert state["plan"]["technique"] == "repartition"
    assert state["plan"]["accuracy"] == 0.8694
    assert node_of(state, "n3")["state"] == "dead"
    (failover,) = state["failovers"]
    assert len(failover["steps"]) == 2
    assert failover["healed_ns"] >= failover["steps"][1]["begun_ns"]


def test_a_plan_formed_without_a_node_that_never_came_is_reduced() -> None:
    world = World(form_timeout_ms=100)
    world.join("n1", "n2", "n3", "n4")
    world.run(300)
    assert state_of(world)["health"] == "reduced"


def test_with_nobody_left_there_is_no_plan_to_speak_of() -> None:
    world = World(2)
    world.form()
    world.kill("n1", "n2")
    state = state_of(world)
    assert state["health"] == "no_plan"
    assert state["plan"] is not None  # the last one, which cannot be followed


def test_while_what_should_answer_is_still_loading_there_is_no_plan() -> None:
    world = World(technique="repartition")
    world.form()
    world.unload_spares()
    for agent in world.agents.values():
        agent.slow_to_load = True
    world.kill("n3")
    assert health(world.core) == "no_plan"


def test_health_is_full_again_when_everybody_is_back() -> None:
    world = World(return_stable_ms=0)
    world.form()
    world.kill("n3")
    world.run(300)
    world.join("n3")
    world.run(2000)
    assert state_of(world)["health"] == "full"


def test_silence_is_said_in_milliseconds_of_the_coordinators_clock() -> None:
    world = World()
    world.form()
    world.silence("n2")
    world.run(25)
    state = state_of(world)
    assert state["clock_ns"] == world.now
    node = node_of(state, "n2")
    assert 20 <= node["silence_ms"] <= 30
    assert node["state"] == "active"
