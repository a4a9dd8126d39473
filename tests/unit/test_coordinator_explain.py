"""What would break, which box to back up first, and what capacity remains."""

from __future__ import annotations

import json
from pathlib import Path

from bench import masked
from continuer.config import CoordinatorConfig, parse
from coordinator.explain import consequence, single_point
from coordinator.status import status
from tests.unit.harness import BUNDLE, World
from tests.unit.settings import decided, setting_of


def strict_world() -> World:
    """No failure of any box is over as quickly as this deployment wants."""
    raw = {
        "bundle": "-",
        "nodes": ["n1", "n2"],
        "objectives": {"max_downtime_ms": 0.001},
    }
    world = World(2, objectives=parse(raw, CoordinatorConfig).objectives)
    world.form()
    return world


def test_the_box_whose_loss_breaks_a_threshold_is_named_in_journal_and_status() -> None:
    world = strict_world()
    (event,) = world.said("single_point_of_failure")
    assert event.fields["node"] in ("n1", "n2")
    assert event.fields["problem"] == "its loss would break max_downtime_ms"
    warnings = status(world.core, world.now, brief=True)["warnings"]
    assert any(w.startswith(f"back up {event.fields['node']} first") for w in warnings)


def test_where_every_box_may_fail_none_is_named() -> None:
    world = World()
    world.form()
    assert not world.said("single_point_of_failure")
    assert status(world.core, world.now, brief=True)["warnings"] == []


def test_a_box_without_which_nothing_serves_comes_before_one_that_breaks_a_threshold() -> None:
    decision = decided(setting_of(rate_per_s=1e6), "n1")
    assert not decision.chosen[-1].feasible
    decisions = {frozenset({"n1"}): decision}
    assert single_point(decisions, ["n1"]) == ("n1", "its loss would break capacity")
    assert single_point(decisions, ["n1", "n2"]) == ("n2", "nothing could serve without it")
    assert single_point({}, []) is None


def test_full_accuracy_remains_up_to_the_capacity_of_the_best_repartition() -> None:
    decision = decided(setting_of(), "n3")
    told = consequence(BUNDLE, frozenset({"n3"}), decision, 0.8)
    whole = [c.step.capacity_per_s for c in decision.candidates if c.step.parts == tuple(range(17))]
    assert told["full_accuracy_up_to_per_s"] == round(0.8 * max(whole), 1)
    nothing = consequence(BUNDLE, frozenset({"n3"}), None, 0.8)
    assert (nothing["steps"], nothing["full_accuracy_up_to_per_s"]) == ([], None)


def test_a_masked_campaign_counts_the_crashes_that_cost_no_more_than_usual(tmp_path: Path) -> None:
    counts = {"sent": 300, "lost": 0, "error": 0, "resent": 0, "degraded": 0}
    figures = [(4.0, 5.0), (6.0, 5.0), (None, 5.0)]
    lines = [
        {"node": "n1", "outage_ms": o, "steady_p50_ms": 3.0, "steady_p99_ms": p, **counts}
        for o, p in figures
    ]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = masked.summary(tmp_path)
    assert (told["n"], told["within_one_steady_p99"], told["sent"]) == (3, 1, 900)
    assert told["outage_max_ms"] == float("inf")
