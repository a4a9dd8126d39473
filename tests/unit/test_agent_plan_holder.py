"""Which plans and activations an agent obeys."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agent.plan_holder import InForce, PlanHolder, Refused
from continuer.plan import Contingency, Hop, Plan, Step, Version
from continuer.wire import Activate

BUNDLE_HASH = b"b" * 32
NAMES = ("n1", "n2", "n3")


def step(*nodes: str) -> Step:
    route = tuple(Hop(node, 1, (0, 1)) for node in nodes)
    return Step("none", None, route, 0.8, 3.0, 5.0, 500.0)


def plan(version: Version, *, bundle: bytes = BUNDLE_HASH, failed: Sequence[str] = ()) -> Plan:
    """A plan over the nodes with a contingency of two steps for n2, and one for n1 and n2."""
    return Plan(
        version, "default", bundle, (), tuple(failed), step(*NAMES),
        (
            Contingency(("n2",), (step("n1"), step("n1", "n3"))),
            Contingency(("n1", "n2"), (step("n3"),)),
        ),
    )  # fmt: skip


@pytest.fixture
def holder() -> PlanHolder:
    """A holder of plan 2.5."""
    holder = PlanHolder(BUNDLE_HASH)
    assert isinstance(holder.on_plan(plan(Version(2, 5))), InForce)
    return holder


def test_a_plan_is_put_in_force_with_the_nodes_it_holds_failed() -> None:
    holder = PlanHolder(BUNDLE_HASH)
    assert holder.version == Version(0, 0)
    outcome = holder.on_plan(plan(Version(1, 1), failed=["n9"]))
    assert outcome == InForce(
        Version(1, 1), "default", step(*NAMES), frozenset({"n9"}), bundle=BUNDLE_HASH
    )
    assert holder.version == Version(1, 1)


@pytest.mark.parametrize("older", [Version(2, 4), Version(1, 99)])
def test_versions_never_go_back(holder: PlanHolder, older: Version) -> None:
    refused = holder.on_plan(plan(older))
    assert refused == Refused(f"version {older} is older than 2.5", stale=False)
    assert holder.version == Version(2, 5)


@pytest.mark.parametrize("newer", [Version(2, 6), Version(3, 0)])
def test_a_newer_plan_takes_the_place_of_the_one_held(holder: PlanHolder, newer: Version) -> None:
    assert isinstance(holder.on_plan(plan(newer)), InForce)
    order = Activate(Version(9, 9), newer, ("n2",), 0)
    assert isinstance(holder.on_activate(order), InForce)


def test_the_same_plan_again_is_put_in_force_again(holder: PlanHolder) -> None:
    assert isinstance(holder.on_plan(plan(Version(2, 5))), InForce)


def test_a_plan_for_another_bundle_is_refused_with_the_remedy(holder: PlanHolder) -> None:
    refused = holder.on_plan(plan(Version(2, 6), bundle=b"x" * 32))
    assert isinstance(refused, Refused)
    assert "another bundle; copy the same bundle here" in refused.problem
    assert not refused.stale
    assert holder.version == Version(2, 5)


@pytest.mark.parametrize(("index", "nodes"), [(0, ("n1",)), (1, ("n1", "n3"))])
def test_an_activation_puts_the_named_step_in_force(
    holder: PlanHolder, index: int, nodes: tuple[str, ...]
) -> None:
    outcome = holder.on_activate(Activate(Version(2, 6), Version(2, 5), ("n2",), index))
    assert outcome == InForce(
        Version(2, 6), "default", step(*nodes), frozenset({"n2"}), bundle=BUNDLE_HASH
    )
    assert holder.version == Version(2, 6)


def test_the_failed_nodes_are_those_of_the_plan_and_of_the_activation() -> None:
    holder = PlanHolder(BUNDLE_HASH)
    holder.on_plan(plan(Version(1, 1), failed=["n9"]))
    outcome = holder.on_activate(Activate(Version(1, 2), Version(1, 1), ("n2", "n1"), 0))
    assert isinstance(outcome, InForce)
    assert outcome.failed == {"n1", "n2", "n9"}


def test_activations_follow_one_another_on_the_same_base(holder: PlanHolder) -> None:
    holder.on_activate(Activate(Version(2, 6), Version(2, 5), ("n2",), 0))
    outcome = holder.on_activate(Activate(Version(2, 7), Version(2, 5), ("n1", "n2"), 0))
    assert isinstance(outcome, InForce)
    assert outcome.step == step("n3")


@pytest.mark.parametrize("version", [Version(2, 5), Version(2, 4), Version(1, 9)])
def test_an_activation_that_does_not_rise_is_refused(holder: PlanHolder, version: Version) -> None:
    refused = holder.on_activate(Activate(version, Version(2, 5), ("n2",), 0))
    assert refused == Refused(f"version {version} is not above 2.5", stale=False)


def test_a_plan_older_than_an_activation_is_refused(holder: PlanHolder) -> None:
    holder.on_activate(Activate(Version(2, 6), Version(2, 5), ("n2",), 0))
    assert isinstance(holder.on_plan(plan(Version(2, 5))), Refused)


@pytest.mark.parametrize(
    "order",
    [
        Activate(Version(2, 7), Version(2, 6), ("n2",), 0),  # a base that was never received
        Activate(Version(2, 7), Version(2, 5), ("n3",), 0),
        Activate(Version(2, 7), Version(2, 5), ("n2", "n3"), 0),
        Activate(Version(2, 7), Version(2, 5), ("n2",), 2),
        Activate(Version(2, 7), Version(2, 5), ("n2",), -1),
    ],
)
def test_an_activation_of_something_not_held_asks_for_the_whole_plan(
    holder: PlanHolder, order: Activate
) -> None:
    refused = holder.on_activate(order)
    assert isinstance(refused, Refused)
    assert refused.stale
    assert holder.version == Version(2, 5)


def test_an_activation_before_any_plan_asks_for_the_whole_plan() -> None:
    refused = PlanHolder(BUNDLE_HASH).on_activate(Activate(Version(1, 2), Version(1, 1), (), 0))
    assert refused == Refused("the base 1.1 is not held", stale=True)
