"""Tables VII and VIII: counting agreements, ties and regret."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from continuer.errors import UsageError
from continuer.objectives import Metrics
from predictors.decisions import SCHEMA, Campaign, Case, Recorded, evaluate, load, table_7

FULL = Case("", "none", Metrics(0.87, 3.0, 0.0), (Metrics(0.87, 3.0, 0.0),))
SLOW, QUICK = Metrics(0.87, 3.1, 40.0), Metrics(0.80, 2.0, 5.0)
COMBINATIONS = 9**3


def case(technique: str, predicted: Metrics, *measured: Metrics, node: str = "n3") -> Case:
    return Case(node, technique, predicted, measured or (predicted,))


def campaign(*cases: Case) -> Campaign:
    return Campaign("resnet32-cifar10", FULL, cases, (0.02, 0.05, 0.03))


def test_predictions_that_are_right_always_agree() -> None:
    found = table_7(campaign(case("repartition", SLOW), case("early_exit", QUICK)))
    assert found == {
        "agreement_percent": 100.0,
        "regret_percent": 0.0,
        "instances": COMBINATIONS,
        "ties": 0,
    }


def test_predictions_that_are_swapped_choose_wrongly_wherever_it_matters() -> None:
    swapped = campaign(case("repartition", QUICK, SLOW), case("early_exit", SLOW, QUICK))
    found = table_7(swapped)
    assert found["agreement_percent"] == 0.0
    assert found["regret_percent"] == pytest.approx(100.0)


def test_techniques_whose_runs_overlap_are_ties_and_not_counted_as_disagreement() -> None:
    """The same two values, measured in turn: now one is better, now the other."""
    turns = (SLOW, QUICK, SLOW)
    found = table_7(
        campaign(case("repartition", QUICK, *turns), case("early_exit", SLOW, *turns[::-1], QUICK))
    )
    assert found["ties"] > 0
    assert found["agreement_percent"] in (None, 100.0)


def test_a_node_without_a_choice_is_no_instance() -> None:
    both = (case("repartition", SLOW), case("early_exit", QUICK))
    alone = case("repartition", SLOW, node="n1")
    assert table_7(campaign(*both, alone))["instances"] == COMBINATIONS
    assert table_7(campaign(alone))["agreement_percent"] is None


def test_a_recorded_campaign_is_read_and_selection_times_are_summed_up(tmp_path: Path) -> None:
    path = tmp_path / "decisions.json"
    whole = Recorded(SCHEMA, (campaign(case("repartition", SLOW), case("skip", QUICK)),))
    path.write_bytes(msgspec.json.encode(whole))
    found = evaluate(load(path))
    assert found["table_8"] == {"resnet32-cifar10": {"p50_ms": 0.03, "p99_ms": 0.05, "n": 3}}
    assert set(found) == {"schema", "table_7", "table_8"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{}", "not a recorded campaign"),
        (b"{", "not a recorded campaign"),
        (b'{"schema": 9, "campaigns": []}', "schema 9; this version reads 1"),
        (None, "No such file"),
    ],
)
def test_what_is_no_campaign_is_refused(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "decisions.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=problem):
        load(path)


def test_a_case_without_a_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "decisions.json"
    empty = Recorded(SCHEMA, (Campaign("x", FULL, (Case("n1", "skip", QUICK, ()),)),))
    path.write_bytes(msgspec.json.encode(empty))
    with pytest.raises(UsageError, match="a case of x has no run"):
        load(path)
