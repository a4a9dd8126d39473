"""Latency of plans, and what links are learned to cost."""

from __future__ import annotations

import pytest

from continuer.placement import Link
from predictors.plans import HopSample, Links, PartFigures, predict_plan

FIGURES = PartFigures(
    latency_ms={"a": (1.0, 2.0, 4.0), "b": (10.0, 20.0, 40.0)},
    input_bytes=(100, 1000, 2000),
    output_bytes=(1000, 2000, 40),
)
LINKS = Links(Link(300.0), {("a", "b"): Link(500.0, 0.5), ("b", "a"): Link(100.0)})


def test_a_plan_is_its_blocks_on_their_nodes_and_the_hops_between() -> None:
    found = predict_plan([("a", (0,)), ("b", (1, 2))], FIGURES, LINKS)
    assert found == pytest.approx(1.0 + 20.0 + 40.0 + 0.3 + (0.5 + 0.5 * 1000 / 1e3) + 0.3)


def test_the_way_to_the_first_stage_and_back_goes_by_the_ingress() -> None:
    """The answer's 40 bytes go back from a to b."""
    found = predict_plan([("a", (0, 1, 2))], FIGURES, LINKS, ingress="b")
    assert found == pytest.approx(7.0 + 0.1 + 0.5 + 0.5 * 40 / 1e3)


def test_a_node_that_has_become_slower_makes_its_stages_longer_and_nothing_else() -> None:
    route = [("a", (0,)), ("b", (1,))]
    plain = predict_plan(route, FIGURES, LINKS)
    assert predict_plan(route, FIGURES, LINKS, factors={"b": 1.5}) == pytest.approx(plain + 10.0)
    assert predict_plan(route, FIGURES, LINKS, factors={"other": 9.0}) == plain


def test_latency_and_bandwidth_of_a_link_are_learned_from_hops_of_several_sizes() -> None:
    samples = [
        HopSample("a", "b", nbytes, 300 + nbytes * 0.01)
        for nbytes in (100, 4_000, 16_000, 64_000, 64_000)
    ]
    samples += [HopSample("b", "c", 4_000, us) for us in (900.0, 1000.0, 5000.0)]
    links = Links.fit(samples)
    found = links.measured["a", "b"]
    assert found.hop_us == pytest.approx(300, rel=1e-6)
    assert found.us_per_byte == pytest.approx(0.01, rel=1e-6)
    # Of one size only: the median, whatever a hop that hung took.
    assert links.measured["b", "c"] == Link(1000.0)
    assert links.hop_us("a", "b", 10_000) == pytest.approx(400)
    assert links.hop_us("x", "y", 0) == links.usual.hop_us
    assert 300 < links.usual.hop_us < 1000


def test_a_link_is_never_learned_to_take_negative_time() -> None:
    falling = [HopSample("a", "b", 100, 500.0), HopSample("a", "b", 10_000, 400.0)]
    rising = [HopSample("a", "b", 1_000, 1.0), HopSample("a", "b", 10_000, 100.0)]
    for samples in (falling, rising):
        link = Links.fit(samples).measured["a", "b"]
        assert link.hop_us >= 0
        assert link.us_per_byte >= 0


def test_without_samples_there_is_nothing_to_learn() -> None:
    with pytest.raises(ValueError, match="no hops were measured"):
        Links.fit([])
