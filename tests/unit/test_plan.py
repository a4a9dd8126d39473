"""Plans are plain data: versions that compare, paths, and contingencies by failure set."""

from __future__ import annotations

import msgspec

from continuer.plan import Contingency, Hop, Plan, Step, Version
from tests.unit.wire_samples import PLAN


def step(*hops: Hop) -> Step:
    return Step("repartition", None, hops, 0.8, 2.0, 1.0, 500.0)


def test_the_term_counts_before_the_number() -> None:
    versions = [Version(2, 1), Version(), Version(1, 10), Version(1, 9)]
    assert sorted(versions) == [Version(), Version(1, 9), Version(1, 10), Version(2, 1)]
    assert Version() < Version(0, 1) < Version(1, 0)
    assert str(Version(3, 14)) == "3.14"


def test_a_path_is_the_parts_of_all_hops_in_order_even_where_a_node_comes_twice() -> None:
    taken = step(Hop("n1", 1, (0, 1)), Hop("n2", 1, (5,)), Hop("n1", 1, (2, 9)))
    assert taken.parts == (0, 1, 5, 2, 9)
    assert taken.nodes == {"n1", "n2"}


def test_a_contingency_is_found_by_its_failure_set_in_any_order_and_by_no_other() -> None:
    both = Contingency(("n2", "n1"), (step(Hop("n3", 1, (0,))),))
    single = Contingency(("n1",), (step(Hop("n2", 1, (0,))),))
    plan: Plan = msgspec.structs.replace(PLAN, contingencies=(single, both))
    assert plan.contingency(frozenset({"n1", "n2"})) is both
    assert plan.contingency(frozenset({"n1"})) is single
    assert plan.contingency(frozenset({"n2"})) is None
    assert plan.contingency(frozenset({"n1", "n2", "n3"})) is None
    assert plan.contingency(frozenset()) is None


def test_a_plan_cannot_be_changed_by_who_holds_it() -> None:
    for held in (PLAN, PLAN.step, PLAN.step.route[0], PLAN.version, PLAN.members[0]):
        assert type(held).__struct_config__.frozen
        hash(held)  # so nothing within it can be changed either
