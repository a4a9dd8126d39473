"""What campaigns make of a client's log and of a plan: healing, and the best plan for a pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import heal, pairs
from continuer.bundle import Bundle
from continuer.outage import RawLog, RequestRecord
from tests.unit.harness import BUNDLE

MS = 1_000_000


def request(sent_ms: float, technique: str | None, outcome: str = "ok") -> RequestRecord:
    sent_ns = int(sent_ms * MS)
    return RequestRecord(0, 0, sent_ns, sent_ns, sent_ns + MS, outcome, 1, technique=technique)


def log(*requests: RequestRecord) -> RawLog:
    return RawLog({}, list(requests), [])


def test_healed_is_when_the_first_request_after_the_last_degraded_one_is_sent() -> None:
    requests = [
        request(90, "none"),
        request(100, "skip"),
        request(110, "repartition"),  # overtaken: one more degraded answer follows
        request(120, "skip"),
        request(130, "repartition"),
        request(140, "repartition"),
    ]
    assert heal.healed_ms(log(*requests), 98 * MS) == pytest.approx(32.0)


def test_healed_at_once_where_every_answer_after_the_fault_is_full() -> None:
    requests = [request(90, "none"), request(100, "repartition")]
    assert heal.healed_ms(log(*requests), 98 * MS) == pytest.approx(2.0)


@pytest.mark.parametrize("last", [request(130, "skip"), request(130, None, "lost")])
def test_not_healed_where_the_last_request_got_no_full_answer(last: RequestRecord) -> None:
    requests = [request(90, "none"), request(120, "repartition"), last]
    assert heal.healed_ms(log(*requests), 98 * MS) is None


def plan_of(bundle: Bundle, *nodes: str, left_out: int = 0) -> dict[str, Any]:
    """All blocks but the last few, the first nodes having one each."""
    path = list(bundle.path())[: len(bundle.path()) - left_out]
    parts = [[part] for part in path[: len(nodes) - 1]] + [path[len(nodes) - 1 :]]
    return {"route": [{"node": n, "parts": p} for n, p in zip(nodes, parts, strict=True)]}


def test_the_best_plan_runs_every_block_over_all_survivors() -> None:
    survivors = {"n1", "n3", "n5"}
    assert pairs.is_best(BUNDLE, plan_of(BUNDLE, "n1", "n3", "n5"), survivors)
    assert not pairs.is_best(BUNDLE, plan_of(BUNDLE, "n1", "n3"), survivors)
    assert not pairs.is_best(BUNDLE, plan_of(BUNDLE, "n1", "n2", "n5"), survivors)
    assert not pairs.is_best(BUNDLE, plan_of(BUNDLE, "n1", "n3", "n5", left_out=1), survivors)


def test_an_outage_that_did_not_end_is_not_averaged_away(tmp_path: Path) -> None:
    totals = dict.fromkeys(("sent", "lost", "error", "wrong", "duplicate", "degraded"), 1)
    records = [
        {"killed": ["n1", "n2"], "outage_ms": 9.0, "best": True, **totals},
        {"killed": ["n2", "n1"], "outage_ms": None, "best": False, **totals},
    ]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    found = pairs.summary(tmp_path)
    assert (found["n"], found["pairs"], found["best_plan"], found["sent"]) == (2, 2, 1, 2)
    assert found["p99_ms"] == float("inf")


def test_every_ordered_pair_is_in_the_campaign() -> None:
    assert len(set(pairs.PAIRS)) == 20
    assert ("n2", "n1") in pairs.PAIRS
