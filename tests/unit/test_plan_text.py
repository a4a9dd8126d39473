"""What ``continuer plan`` and ``continuer objectives`` say to people."""

from __future__ import annotations

from typing import Any

from continuer import objectives_cli, plan_cli


def step(accuracy: float | None, **changes: Any) -> dict[str, Any]:
    known = {"technique": "repartition", "exit": None, "accuracy": accuracy, "latency_ms": 3.0}
    return {**known, "capacity_per_s": 500.0, "route": [], **changes}


def entry(*nodes: str, steps: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    known = {"nodes": list(nodes), "steps": steps, "feasible": True, "violations": []}
    limits = {"rate_limit_per_s": 400.0, "full_accuracy_up_to_per_s": 230.4}
    return {**known, "gap_ms": 5.0, **limits, "classes": [], **changes}


def test_a_line_says_what_comes_at_once_and_what_then() -> None:
    bridge = step(0.8, technique="early_exit", exit="exit06")
    line = plan_cli.consequence_line(entry("n2", "n4", steps=[bridge, step(0.8694)]))
    assert line.split() == [
        *("n2+n4", "early_exit", "exit06", "repartition", "86.94", "%", "3.00", "ms", "5.0", "ms"),
        "400/s",
    ]


def test_a_broken_threshold_is_named_on_the_line() -> None:
    broken = entry("n1", steps=[step(0.7)], feasible=False, violations=["min_accuracy"])
    assert plan_cli.consequence_line(broken).endswith("breaks min_accuracy")


def test_a_model_without_labels_has_an_unknown_accuracy_and_loses_none() -> None:
    unknown = entry("n1", steps=[step(None)])
    known = entry("n2", steps=[step(0.9)])
    assert "unknown" in plan_cli.consequence_line(unknown)
    assert plan_cli.weakest([unknown, known]) == known


def test_the_box_to_back_up_is_the_one_whose_loss_hurts_most() -> None:
    mild = entry("n1", steps=[step(0.86)])
    wide_gap = entry("n2", steps=[step(0.86)], gap_ms=50.0)
    worse = entry("n3", steps=[step(0.7)])
    broken = entry("n4", steps=[step(0.86)], feasible=False, violations=["max_latency_ms"])
    fatal = entry("n5", steps=[], feasible=False)
    order = [mild, wide_gap, worse, broken, fatal]
    for count in range(2, 6):
        assert plan_cli.weakest(order[:count]) == order[count - 1]
    text = plan_cli.describe_consequences({"what_if": order})
    assert text.splitlines()[-1] == "back up n5 first: nothing could serve without it"
    text = plan_cli.describe_consequences({"what_if": order[:4]})
    assert text.splitlines()[-1] == "back up n4 first: its loss would break max_latency_ms"
    assert plan_cli.weakest([fatal]) is None, "one was asked for: there is nothing to compare"


def test_the_capacity_that_remains_is_told_for_each_failure() -> None:
    kept = entry("n3", steps=[step(0.8694)])
    lost = entry("n2", "n4", steps=[step(0.7)], full_accuracy_up_to_per_s=None)
    text = plan_cli.describe_consequences({"what_if": [kept, lost]})
    assert "without n3: full accuracy up to 230 requests/s" in text.splitlines()
    assert "without n2+n4: no full accuracy" in text.splitlines()


def test_a_class_that_loses_its_second_route_is_named_with_the_reason() -> None:
    refused = {"class": "alarm", "routes": [], "masked": False, "problem": "one node is at work"}
    line = plan_cli.capacity_line(entry("n3", steps=[step(0.8694)], classes=[refused]))
    assert line.endswith("; class alarm: one node is at work")


def test_objectives_that_differ_from_the_file_are_marked() -> None:
    base = {"min_accuracy": None, "max_latency_ms": 40.0, "max_downtime_ms": None}
    weights = {"weight_accuracy": 0.6, "weight_latency": 0.3, "weight_downtime": 0.1}
    configured = {**base, **weights, "optimise": "throughput"}
    state = {
        "deployment": "d",
        "configured": configured,
        "in_force": {**configured, "min_accuracy": 0.8, "optimise": "latency"},
    }
    lines = objectives_cli.describe(state).splitlines()
    assert [line.split() for line in lines if "configured" in line] == [
        ["min_accuracy", "0.8", "(configured:", "none)"],
        ["optimise", "latency", "(configured:", "throughput)"],
    ]
