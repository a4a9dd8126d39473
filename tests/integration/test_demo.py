"""``continuer demo`` as a newcomer runs it: one object, an honest account, clear refusals."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from continuer.bundle import Bundle
from continuer.demo.report import Oracle, good_seqs
from continuer.outage import outage_ms, read
from tests.integration.support import assert_all_well, cli

REPORT = {
    "schema",
    "model",
    "nodes",
    "rate_per_s",
    "requests",
    "failovers",
    "accuracy",
    "latency_ms",
    "throughput_per_s",
}
REQUESTS = {"sent", "full", "degraded", "error", "lost", "duplicate", "wrong"}
FAILOVER = {
    "nodes",
    "fault",
    "steps",
    "silence_ms",
    "detect_ms",
    "decide_ms",
    "tell_ms",
    "first_good_answer_ms",
    "outage_ms",
    "replayed",
    "candidates",
}
CANDIDATE = {
    "technique",
    "exit",
    "accuracy",
    "latency_ms",
    "downtime_ms",
    "capacity_per_s",
    "feasible",
    "score",
}


def report_of(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON object on standard output."""
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    return found


def assert_clean(report: dict[str, Any], sent: int) -> None:
    requests = report["requests"]
    assert requests["sent"] == sent == requests["full"] + requests["degraded"]
    for key in ("error", "lost", "duplicate", "wrong"):
        assert requests[key] == 0, (key, requests)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """A demo in which n3 is killed: its report, its raw log, what it said meanwhile."""
    raw_log = tmp_path_factory.mktemp("demo") / "raw.jsonl"
    result = cli("demo", "--json", "--seconds", "6", "--raw-log", str(raw_log))
    return report_of(result), raw_log, result.stderr


Killed = tuple[dict[str, Any], Path, str]


def test_the_report_has_exactly_the_promised_keys(killed: Killed) -> None:
    report, _, _ = killed
    assert report.keys() == REPORT
    assert report["requests"].keys() == REQUESTS
    assert report["accuracy"].keys() == {"before", "degraded", "healed"}
    assert report["latency_ms"].keys() == {"p50", "p99"}
    (failover,) = report["failovers"]
    assert failover.keys() == FAILOVER
    assert all(step.keys() == {"technique", "exit", "at_ms"} for step in failover["steps"])
    assert all(candidate.keys() == CANDIDATE for candidate in failover["candidates"])
    assert report["schema"] == 1
    assert (report["model"], report["nodes"]) == ("resnet32-cifar10", 5)
    assert report["rate_per_s"] == 100


def test_nothing_is_lost_doubled_wrong_or_in_error(killed: Killed) -> None:
    report, _, _ = killed
    assert_clean(report, sent=600)


def test_a_bridge_degrades_some_answers_and_healing_follows(killed: Killed) -> None:
    report, _, _ = killed
    (failover,) = report["failovers"]
    assert (failover["nodes"], failover["fault"]) == (["n3"], "kill")
    bridge, healed = failover["steps"]
    assert bridge["technique"] in ("skip", "early_exit", "mixed")
    assert healed["technique"] == "repartition"
    assert healed["exit"] is None
    assert 0 < bridge["at_ms"] < healed["at_ms"]
    assert report["requests"]["degraded"] > 0


def test_every_part_of_the_split_was_measured(killed: Killed) -> None:
    report, _, _ = killed
    (failover,) = report["failovers"]
    parts = [failover[key] for key in ("silence_ms", "detect_ms", "decide_ms", "tell_ms")]
    assert all(part is not None and part >= 0 for part in parts)
    assert failover["first_good_answer_ms"] > 0
    assert failover["outage_ms"] > 0
    assert failover["replayed"] >= 0
    assert report["throughput_per_s"] > 0
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    for when in ("before", "healed"):
        assert 0.7 < report["accuracy"][when] <= 1


def test_candidates_are_those_that_the_bundle_can_give(killed: Killed, bundle: Bundle) -> None:
    report, _, _ = killed
    candidates = report["failovers"][0]["candidates"]
    kinds = [candidate["technique"] for candidate in candidates]
    assert {"repartition", "skip", "early_exit"} <= set(kinds)
    full = bundle.measured_accuracy(bundle.path())
    for candidate in candidates:
        leaves_early = candidate["technique"] in ("early_exit", "mixed")
        assert leaves_early == (candidate["exit"] is not None)
        assert 0 < candidate["accuracy"] <= 1
        assert candidate["latency_ms"] > 0
        assert candidate["downtime_ms"] > 0
        assert candidate["capacity_per_s"] > 0
        if candidate["technique"] == "repartition":
            assert full is not None
            assert candidate["accuracy"] == pytest.approx(full, abs=1e-4)


def test_the_outage_can_be_recomputed_from_the_raw_log(killed: Killed) -> None:
    report, raw_log, _ = killed
    log = read(raw_log)
    (fault,) = log.faults
    assert fault["nodes"] == ["n3"]
    again = outage_ms(log.requests, fault["at_ns"])
    assert again == pytest.approx(report["failovers"][0]["outage_ms"], abs=1e-3)


def test_every_answer_in_the_raw_log_equals_the_oracle(
    killed: Killed, oracle: Oracle, bundle: Bundle
) -> None:
    report, raw_log, _ = killed
    requests = read(raw_log).requests
    assert len(requests) == report["requests"]["sent"]
    assert len(good_seqs(oracle, requests)) == len(requests)
    assert_all_well(oracle, bundle, requests)


def test_the_failure_is_told_as_it_happens(killed: Killed) -> None:
    """On standard error, since the object has standard output to itself."""
    _, _, said = killed
    for text in ("plan 1.1: none", "n3 gets SIGKILL", "FAILOVER of n3", "healed", "taken back in"):
        assert text in said


def test_a_stopped_node_costs_no_request() -> None:
    result = cli("demo", "--json", "--seconds", "6", "--fault", "stop", "--seed", "3")
    report = report_of(result)
    assert_clean(report, sent=600)
    (failover,) = report["failovers"]
    assert (failover["nodes"], failover["fault"]) == (["n3"], "stop")
    assert failover["steps"]
    assert failover["silence_ms"] > 0
    assert "n3 is taken back in" in result.stderr


def test_two_nodes_killed_at_once_and_the_report_for_people() -> None:
    """Exit code 0 says that all went well; the text says what was considered and chosen."""
    result = cli("demo", "--seconds", "6", "--kill", "n2,n4")
    assert result.returncode == 0, result.stdout + result.stderr
    text = result.stdout
    assert "sent 600" in text
    for outcome in ("error 0", "lost 0", "duplicate 0", "wrong 0"):
        assert outcome in text
    assert "n2, n4 killed (SIGKILL)" in text
    assert "why: " in text
    assert "step 1: " in text
    rows = text[text.index("candidate") :].splitlines()[1:]
    assert any(row.split()[0] == "repartition" for row in rows if row.split())
    assert "taken back in: n2, n4" in text


def test_a_forced_technique_that_cannot_work_is_refused_before_the_run() -> None:
    result = cli("demo", "--json", "--technique", "early_exit", "--kill", "n1")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "--technique early_exit: impossible when n1 fails; possible:" in result.stderr
    assert "repartition, skip" in result.stderr
    assert "SIGKILL" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kill", "n9"], "--kill n9: there are n1, n2, n3, n4, n5"),
        (["--kill", "n2,n2"], "name each node once"),
        (["--kill", "n1,n2", "--nodes", "2"], "leave at least one node"),
        (["--nodes", "99"], "--nodes 99: give 1 to 17"),
        (["--nodes", "0"], "--nodes 0: give 1 to 17"),
        (["--model", "nosuch"], "model = 'nosuch'"),
        (["--seconds", "1"], "--seconds 1: give at least 6"),
        (["--rate", "0"], "--rate 0: give a number above 0"),
        (["--rate", "-5"], "--rate -5: give a number above 0"),
        (["--rate", "nan"], "--rate nan: give a number above 0"),
        (["--seconds", "nan"], "--seconds nan: give at least 6"),
        (["--seconds", "inf"], "--seconds inf"),
        (["--raw-log", "/nosuch/raw.jsonl"], "/nosuch/raw.jsonl"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_give(arguments: list[str], said: str) -> None:
    result = cli("demo", *arguments, timeout_s=30)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_model_comes_with_the_names_there_are() -> None:
    result = cli("demo", "--model", "nosuch")
    names = "mobilenetv2-cifar10, mobilenetv2-cifar10-int8, resnet32-cifar10, resnet32-cifar10-int8"
    assert f"shipped: {names}" in result.stderr
