"""``continuer status`` for people: what a real coordinator's state looks like as text."""

from __future__ import annotations

from continuer.status import describe
from coordinator.status import status
from tests.unit.harness import World


def text(world: World) -> list[str]:
    return describe(status(world.core, world.now, brief=False)).splitlines()


def test_a_healthy_cluster_shows_plan_route_nodes_and_what_would_be_done() -> None:
    world = World()
    world.form()
    shown = text(world)
    version = world.core.version
    assert shown[0].startswith(f"resnet32-cifar10 (default): full, plan {version}, ")
    assert "technique none: accuracy 86.94 % (measured), latency " in shown[1]
    for line, hop in zip(shown[2:7], world.step.route, strict=True):
        names = [world.core.bundle.part_names[part] for part in hop.parts]
        assert line.split() == [hop.node, *names]
    assert [line.split()[:2] for line in shown[8:13]] == [[n, "active"] for n in world.config.nodes]
    foreseen = shown[13:]
    assert [line.split(" fails: ")[0] for line in foreseen] == [
        f"if {node}" for node in world.config.nodes
    ]
    assert all("repartition (86." in line for line in foreseen)


def test_a_degraded_cluster_says_so_and_why() -> None:
    world = World()
    world.form()
    world.kill("n3")
    shown = text(world)
    assert ": degraded, " in shown[0]
    assert world.technique() in shown[1]
    (line,) = [line for line in shown if line.startswith("n3 ")]
    assert line.split()[1] == "suspect"
    assert line.endswith("link closed")
    world.run(300)  # a fresh plan is in force: n3 is no part of it any more
    assert not any(line.startswith("if n3 fails") for line in text(world))


def test_an_early_exit_is_named() -> None:
    world = World(technique="early_exit")
    world.form()
    world.kill("n3")
    assert text(world)[1].startswith(f"technique early_exit at {world.step.exit}: ")


def test_without_a_plan_only_the_nodes_are_shown() -> None:
    world = World(2)
    shown = text(world)
    assert shown[0].startswith("resnet32-cifar10 (default): no_plan, plan ")
    assert shown[1].split()[:2] == ["node", "state"]
    assert [line.split()[:2] for line in shown[2:]] == [["n1", "absent"], ["n2", "absent"]]


def test_long_names_keep_the_columns_apart() -> None:
    state = status(World(2).core, 0, brief=True)
    state["nodes"][1]["node"] = "greenhouse-gateway-2"
    heading, *rows = describe(state).splitlines()[1:]
    column = heading.index("state")
    assert [row[column : column + 6] for row in rows] == ["absent", "absent"]
    assert rows[1].startswith("greenhouse-gateway-2  absent")
