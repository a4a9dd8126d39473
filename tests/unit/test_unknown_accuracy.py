"""A model that came without labels is planned for, and nothing claims to know its accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from continuer.bundle import Accuracy, Bundle, Variant
from continuer.config import CoordinatorConfig
from continuer.demo.view import describe
from continuer.objectives import Objectives
from continuer.plan import Hop, Step
from continuer.status import describe as describe_status
from coordinator import status
from coordinator.accuracies import accuracy_of
from coordinator.core import Coordinator
from coordinator.planner import NodeFacts, Setting, decide, full_layout, make_step, metrics_of
from tests.unit.harness import BUNDLE


def unlabelled(*variants: Variant) -> Bundle:
    """The shipped network, of which only these accuracies are known."""
    accuracy = Accuracy("nothing", "no labels", 0, variants)
    manifest = msgspec.structs.replace(BUNDLE.manifest, accuracy=accuracy)
    return Bundle(Path(), manifest, BUNDLE.hash)


def setting_of(bundle: Bundle, **objectives: Any) -> Setting:
    everything = frozenset(range(len(bundle.part_names)))
    nodes = tuple(NodeFacts(f"n{i}", i, loaded=everything) for i in range(1, 5))
    return Setting(bundle, nodes, Objectives(**objectives))


def test_only_the_path_of_all_blocks_is_offered() -> None:
    bundle = unlabelled()
    assert accuracy_of(bundle, bundle.path()) == (None, "unknown", None)
    assert accuracy_of(bundle, bundle.path((), "exit03")) is None
    assert accuracy_of(bundle, bundle.path(("block03",))) is None


def test_a_dead_node_is_answered_by_repartition() -> None:
    setting = setting_of(unlabelled())
    layout = full_layout(setting)
    assert layout is not None
    full = make_step(setting, layout, "none")
    assert full is not None
    assert full.step.accuracy is None
    assert full.accuracy.source == "unknown"
    decision = decide(setting, layout, frozenset({"n2"}), metrics_of(full.step))
    assert decision is not None
    assert [c.step.technique for c in decision.candidates] == ["repartition"]
    (chosen,) = decision.chosen
    assert chosen.feasible
    assert chosen.report()["accuracy"] is None
    # As accurate as the full plan, whatever that is: the whole weight of accuracy.
    assert chosen.score == pytest.approx(0.6 - 0.3 - 0.1 * chosen.step.downtime_ms / 50, abs=0.05)


def test_a_threshold_on_an_unknown_accuracy_is_not_met() -> None:
    setting = setting_of(unlabelled(), min_accuracy=0.5)
    layout = full_layout(setting)
    assert layout is not None
    full = make_step(setting, layout, "none")
    assert full is not None
    assert full.problems == {"min_accuracy": 1.0}
    decision = decide(setting, layout, frozenset({"n2"}), metrics_of(full.step))
    assert decision is not None
    assert "least violation (min_accuracy)" in decision.why


def test_an_exit_of_known_accuracy_is_offered_beside_it() -> None:
    setting = setting_of(unlabelled(Variant(70, 100), Variant(60, 100, "exit03")))
    layout = full_layout(setting)
    assert layout is not None
    full = make_step(setting, layout, "none")
    assert full is not None
    decision = decide(setting, layout, frozenset({"n2"}), metrics_of(full.step))
    assert decision is not None
    offered = {(c.step.technique, c.step.exit): c.step.accuracy for c in decision.candidates}
    assert offered == {("repartition", None): 0.7, ("early_exit", "exit03"): 0.6}


STEP = Step("repartition", None, (Hop("n1", 1, (0, 1)),), None, 1.5, 2.5, 100.0)


def test_no_report_shows_a_number() -> None:
    core = Coordinator(CoordinatorConfig(bundle="b", nodes=("n1",)), unlabelled())
    core.step = STEP
    state = status.status(core, 0, brief=True)
    assert state["plan"]["accuracy"] is None
    assert "accuracy unknown, latency" in describe_status(state)
    line = b'{"event": "healed", "timestamp": "2026-01-01T00:00:00Z", "technique": "none", '
    assert describe(line + b'"accuracy": null}').endswith("predicted accuracy unknown")


def test_the_wire_carries_it() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(STEP), type=Step) == STEP
    assert STEP.reported_accuracy is None
    known = msgspec.structs.replace(STEP, accuracy=0.86944)
    assert known.reported_accuracy == 0.8694


def test_the_interval_narrows_with_the_number_of_images() -> None:
    few, many = Variant(87, 100).interval_95, Variant(8700, 10_000).interval_95
    assert few == pytest.approx((0.790, 0.922), abs=0.001)
    assert many == pytest.approx((0.863, 0.876), abs=0.001)
    assert Variant(10, 10).interval_95[1] == 1
    assert Variant(0, 10).interval_95[0] == 0
    assert np.isclose(Variant(10, 10).interval_95[0], 1 - Variant(0, 10).interval_95[1])
