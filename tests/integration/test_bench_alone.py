"""The measurement of a long absence of the coordinator, with a short one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import alone

ABSENT_MINUTES = 0.05
RATE_PER_S = 10


def test_without_a_coordinator_one_more_death_costs_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "BACK_S", 2.0)
    monkeypatch.setattr(alone, "AFTER_S", 6.0)
    alone.campaign(tmp_path, nodes=("n4",), minutes=ABSENT_MINUTES, rate_per_s=RATE_PER_S)
    (run,) = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert run["health"] == "reduced"
    assert run["alone"] >= 0.9 * RATE_PER_S * 60 * ABSENT_MINUTES
    assert run["alone_degraded"] == 0
    assert run["without_it"] > RATE_PER_S
    found = alone.summary(tmp_path)
    assert found["sent"] == found["full"] + found["degraded"] > 2 * RATE_PER_S
    assert (found["n"], found["minutes"]) == (1, ABSENT_MINUTES)
    assert found["worst_outage_ms"] == run["outage_ms"] is not None
