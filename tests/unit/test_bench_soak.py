"""What a soak plans, and how it counts: schedules from seeds, the account, the bound, growth."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import soak_watch
from bench.soak import FAULTLESS, account, bound, summary
from bench.soak_faults import DURATIONS_S, TOGETHER, Planned, schedule
from bench.soak_watch import GROWN_UP_S, MOST_MORE_DESCRIPTORS, Watch
from continuer.outage import RequestRecord

NODES = ("n1", "n2", "n3", "n4", "n5")
S = 10**9


def answered(seq: int, at_s: float, **more: Any) -> RequestRecord:
    record = RequestRecord(seq, 0, int(at_s * S), int(at_s * S), int(at_s * S) + 1, "ok", 1)
    for key, value in more.items():
        setattr(record, key, value)
    return record


def failed(seq: int, at_s: float, took_s: float, error: str) -> RequestRecord:
    return answered(seq, at_s, done_ns=int((at_s + took_s) * S), outcome="error", error=error)


def test_the_same_seed_gives_the_same_faults_and_another_one_others() -> None:
    assert schedule("one", 60, NODES) == schedule("one", 60, NODES)
    assert schedule("one", 60, NODES) != schedule("two", 60, NODES)


def test_every_kind_comes_and_all_are_over_in_time() -> None:
    seen = set()
    for seed in range(40):
        faults = schedule(str(seed), 60, NODES)
        assert all(fault.end_s <= 60 for fault in faults)
        seen |= {fault.kind for fault in faults}
    assert seen == DURATIONS_S.keys()


def test_no_more_than_two_faults_strike_together_and_never_the_same_box() -> None:
    together = 0
    for seed in range(40):
        faults = schedule(str(seed), 60, NODES)
        for one in faults:
            others = [
                f for f in faults if f is not one and f.at_s < one.end_s and one.at_s < f.end_s
            ]
            assert len(others) <= 1
            together += len(others)
            for other in others:
                assert {one.kind, other.kind} <= {*TOGETHER}
                assert not set(one.nodes) & set(other.nodes)
                assert one.nodes or other.nodes
    assert together > 20


def test_errors_that_the_schedule_does_not_explain_are_needless() -> None:
    faults = [
        Planned(10, "everything", (), 0.2),
        Planned(30, "kill", ("n3",), 1.0),
        Planned(30.2, "kill", ("n4",), 1.0),
        Planned(50, "kill", ("n3",), 1.0),
    ]
    requests = [
        failed(1, 9, 5, "deadline: no answer"),
        failed(2, 30.1, 0.3, "quarantined: two deaths"),
        failed(3, 30.1, 3, "deadline: no answer"),
        failed(4, 50.1, 0.3, "quarantined: two deaths"),
        failed(5, 20, 3, "deadline: no answer"),
    ]
    found = account(requests, set(), faults, 0)
    assert found["error"] == 5
    assert found["needless"] == 3
    assert [problem["seq"] for problem in found["problems"]] == [3, 4, 5]


def test_lost_wrong_and_doubled_answers_are_counted_and_named() -> None:
    requests = [
        answered(1, 1),
        answered(2, 2),
        answered(3, 3, outcomes=2),
        answered(4, 4, outcome="lost", outcomes=0, done_ns=None),
    ]
    found = account(requests, {1, 3}, [], 0)
    assert (found["lost"], found["duplicate"], found["wrong"]) == (1, 1, 1)
    assert {problem["seq"] for problem in found["problems"]} == {2, 3, 4}


def test_the_bound_is_that_of_a_count_of_rare_events() -> None:
    assert bound(0, 1_000_000) == pytest.approx(3.0e-6, rel=0.01)
    assert bound(1, 1000) == pytest.approx(4.744e-3, rel=0.001)
    assert bound(10, 1000) == pytest.approx(16.96e-3, rel=0.001)


def test_a_summary_adds_slices_up_and_names_the_spoilt_ones(tmp_path: Path) -> None:
    clean = dict.fromkeys(FAULTLESS, 0) | {"crashed": [], "leaking": [], "not_back": ""}
    common = {"requests": 1000, "faults": 4, "full": 900, "degraded": 100, "error": 0}
    growth = {"largest_growth_mib": 2.0, "most_descriptors": 90}
    slices = [
        {"seed": "a-0", **common, **growth, **clean, "kinds": {"kill": 4}},
        {"seed": "a-1", **common, **growth, **clean, "kinds": {"kill": 1, "cut": 3}, "wrong": 2},
        {"seed": "a-2", **common, **growth, **clean, "kinds": {}, "crashed": ["n1: code -6"]},
    ]
    lines = "".join(f"{json.dumps(each)}\n" for each in slices)
    (tmp_path / "slices.jsonl").write_text(lines)
    found = summary(tmp_path)
    assert (found["requests"], found["fault_count"], found["slices"]) == (3000, 12, 3)
    assert found["kinds"] == {"kill": 5, "cut": 3}
    assert (found["wrong"], found["crashed"], found["spoilt"]) == (2, 1, 2)
    assert found["spoilt_seeds"] == ["a-1", "a-2"]
    assert found["spoilt_bound_95"] == bound(2, 3000)


def test_memory_and_descriptors_are_compared_with_what_a_grown_process_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = SimpleNamespace(pid=os.getpid(), poll=lambda: None)
    watch = Watch(SimpleNamespace(processes={"n1": process}))  # type: ignore[arg-type]
    resident, opened = 50, 30
    monkeypatch.setattr(soak_watch, "rss", lambda _: resident << 20)
    monkeypatch.setattr(soak_watch, "descriptors", lambda _: opened)
    watch.look("n1", process.pid, GROWN_UP_S)
    opened += MOST_MORE_DESCRIPTORS + 1
    watch.look("n1", process.pid, 1)
    (leak,) = watch.report()["leaking"]
    assert leak.startswith("n1: 0.0 MiB and")
    opened -= MOST_MORE_DESCRIPTORS + 1
    resident += 60
    watch.look("n1", process.pid, 1)
    found = watch.report()
    assert found["largest_growth_mib"] == 60.0
    assert found["leaking"]


@pytest.mark.parametrize(("number", "crashes"), [(signal.SIGKILL, 0), (signal.SIGABRT, 1)])
def test_a_process_that_ends_by_itself_has_crashed(number: int, crashes: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    watch = Watch(SimpleNamespace(processes={"n1": process}))  # type: ignore[arg-type]
    process.send_signal(number)
    process.wait()
    watch.look_at_all()
    watch.look_at_all()
    assert len(watch.report()["crashed"]) == crashes
    assert process.stdin is not None
    process.stdin.close()
