"""Figures of an outage campaign, from hand-made runs; and which raw logs are kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench import outage


def run(
    node: str, outage_ms: float | None, fault: str = "kill", code: int = 0, **changes: Any
) -> dict[str, Any]:
    counts = {"sent": 600, "lost": 0, "wrong": 0, "duplicate": 0, "error": 0}
    split = dict.fromkeys(outage.SPLIT, 1.0)
    return {
        "node": node,
        "fault": fault,
        "exit_code": code,
        "raw_log": f"{node}-{fault}-{outage_ms}.raw.jsonl",
        "requests": counts,
        "outage_ms": outage_ms,
        **split,
        **changes,
    }


def write(directory: Path, *runs: dict[str, Any]) -> Path:
    results = directory / "runs.jsonl"
    results.write_text("".join(json.dumps(record) + "\n" for record in runs))
    for record in runs:
        if "raw_log" in record:
            (directory / record["raw_log"]).touch()
    return results


def test_each_fault_is_summed_up_by_itself_with_its_worst_position(tmp_path: Path) -> None:
    write(
        tmp_path,
        *(run("n1", ms) for ms in (5.0, 6.0, 7.0)),
        *(run("n2", ms) for ms in (5.0, 5.0, 20.0)),
        run("n1", 45.0, fault="stop"),
    )
    found = outage.summary(tmp_path)
    assert found.keys() == {"kill", "stop"}
    kill = found["kill"]
    assert (kill["n"], kill["passed"], kill["sent"]) == (6, 6, 3600)
    assert (kill["p50_ms"], kill["max_ms"]) == (5.5, 20.0)
    assert kill["worst_position"] == "n2"
    assert kill["positions"]["n1"]["p50_ms"] == 6.0
    assert kill["split_p50"] == dict.fromkeys(outage.SPLIT, 1.0)
    assert found["stop"]["p50_ms"] == 45.0


def test_what_was_lost_in_any_run_is_in_the_sum(tmp_path: Path) -> None:
    lossy = run("n1", 5.0, code=1, requests={**run("n1", 5.0)["requests"], "lost": 2, "wrong": 1})
    write(tmp_path, run("n1", 5.0), lossy)
    kill = outage.summary(tmp_path)["kill"]
    assert (kill["passed"], kill["lost"], kill["wrong"]) == (1, 2, 1)


@pytest.mark.parametrize("without", [None, "problem"])
def test_an_outage_that_did_not_end_counts_as_infinite(tmp_path: Path, without: str | None) -> None:
    endless = run("n2", None, code=1)
    if without:
        endless = {"node": "n2", "fault": "kill", "exit_code": 1, "problem": "it did not start"}
    write(tmp_path, run("n1", 5.0), endless)
    kill = outage.summary(tmp_path)["kill"]
    assert kill["max_ms"] == math.inf
    assert kill["worst_position"] == "n2"
    assert kill["positions"]["n1"]["max_ms"] == 5.0


def test_the_raw_logs_of_the_worst_and_of_the_failed_runs_are_kept(tmp_path: Path) -> None:
    runs = [run("n1", float(ms)) for ms in range(10)]
    failed = run("n2", 0.5, code=1)
    results = write(tmp_path, *runs, failed, run("n1", 1.0, fault="stop"))
    outage.drop_all_but_worst(tmp_path, results)
    kept = {path.name for path in tmp_path.glob("*.raw.jsonl")}
    worst = {record["raw_log"] for record in runs[-outage.KEPT_LOGS :]}
    assert kept == {*worst, failed["raw_log"], "n1-stop-1.0.raw.jsonl"}


def test_a_campaign_that_is_complete_is_not_run_again(tmp_path: Path) -> None:
    results = write(tmp_path, run("n1", 5.0), run("n2", 5.0))
    before = results.read_text()
    outage.campaign(tmp_path, positions=("n1", "n2"), faults=("kill",), runs=1)
    assert results.read_text() == before
