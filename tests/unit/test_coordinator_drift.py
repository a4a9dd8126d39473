"""What the coordinator learns from heartbeats of how long a node's parts take now."""

from __future__ import annotations

import pytest

from continuer.drift import LEARNING_WINDOWS, MIN_PREDICTED_US
from continuer.journal import Event
from continuer.wire import PartTiming
from coordinator.commands import Command
from coordinator.planning import facts
from tests.unit.harness import World
from tests.unit.test_coordinator_membership import House

WINDOW_US = int(MIN_PREDICTED_US)


class Worker:
    """A node n1 that works, and says so in each heartbeat."""

    def __init__(self) -> None:
        self.house = House()
        self.house.join("n1")
        self.node = self.house.membership.nodes["n1"]
        self.node.loaded = {0: PartTiming(0, 100.0, 10.0), 1: PartTiming(1, 50.0, 10.0)}
        self.worked_us = self.predicted_us = 0

    def work(self, times: float, windows: int = 1, life: int = 1) -> list[Event]:
        said: list[Command] = []
        for _ in range(windows):
            self.worked_us += int(times * WINDOW_US)
            self.predicted_us += WINDOW_US
            said += self.house.beat(
                "n1", life, worked_us=self.worked_us, predicted_us=self.predicted_us
            )
        return [event for event in said if isinstance(event, Event)]

    @property
    def latencies_us(self) -> dict[int, float]:
        """What the planner is told of the node's parts."""
        return facts(self.node).latency_us


def test_plans_count_on_what_parts_take_now() -> None:
    worker = Worker()
    assert worker.latencies_us == {0: 100.0, 1: 50.0}
    assert worker.work(1.5, windows=30) == []
    assert worker.latencies_us == pytest.approx({0: 150.0, 1: 75.0})


def test_work_of_before_the_coordinator_listened_is_not_counted() -> None:
    worker = Worker()
    worker.work(50.0)
    assert worker.latencies_us == {0: 100.0, 1: 50.0}
    worker.work(1.0, windows=3)
    assert worker.latencies_us == pytest.approx({0: 100.0, 1: 50.0})


def test_a_node_that_suddenly_takes_longer_is_reported_until_that_is_learned() -> None:
    worker = Worker()
    worker.work(1.0, windows=LEARNING_WINDOWS + 5)
    wrong, right = worker.work(2.0, windows=40)
    assert (wrong.name, right.name) == ("prediction_wrong", "prediction_right")
    assert wrong.fields["node"] == "n1"
    assert wrong.fields["error_percent"] > 20
    assert worker.latencies_us[0] == pytest.approx(200.0, rel=0.01)


def test_a_new_life_of_a_node_begins_without_a_correction() -> None:
    worker = Worker()
    worker.work(3.0, windows=20)
    worker.house.close("n1")
    worker.house.join("n1", life=2)
    worker.node.loaded = {0: PartTiming(0, 100.0, 10.0)}
    assert worker.latencies_us == {0: 100.0}
    worker.worked_us = worker.predicted_us = 0
    worker.work(1.0, windows=3, life=2)
    assert worker.latencies_us == pytest.approx({0: 100.0})


def test_a_node_that_does_not_work_or_says_nothing_of_it_is_left_as_it_is() -> None:
    worker = Worker()
    for _ in range(20):
        assert worker.house.beat("n1") == []
    assert worker.latencies_us == {0: 100.0, 1: 50.0}


def test_boxes_that_are_all_slower_change_no_choice() -> None:
    """Load slows the full plan as well; leaving blocks out is no better for it."""
    world = World()
    world.form()
    usual = world.core.planning.decide_without(frozenset({"n3"}))
    for node in world.core.membership.nodes.values():
        node.slowness = 4.0
    slow = world.core.planning.decide_without(frozenset({"n3"}))
    assert usual is not None
    assert slow is not None
    assert [c.step.technique for c in slow.chosen] == [c.step.technique for c in usual.chosen]
    assert [c.step.route for c in slow.chosen] == [c.step.route for c in usual.chosen]
    assert slow.chosen[-1].step.latency_ms > 2 * usual.chosen[-1].step.latency_ms
