"""``continuer profile``, for real but with a small part of the grid."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from continuer import cli
from predictors import profile as profiles
from predictors.grid import designed
from predictors.machine import this_machine
from predictors.profile import ProfileError
from predictors.profiling import COPIED_ELEMENTS, Run, best_us

FEW = designed(0.02)
BUDGET_NS = 100_000
PATIENCE_S = 60.0


def silent(done: int, total: int) -> None:
    assert done <= total


def started(log: Path, *, go_on: bool = False, threads: int = 1) -> Run:
    return Run(FEW, log, threads=threads, passes=2, go_on=go_on, budget_ns=BUDGET_NS)


def test_a_run_times_every_operator_in_every_pass(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    taking = started(tmp_path / "log")
    profile = taking.measure(lambda done, total: told.append((done, total)))
    assert [t.operator for t in profile.timings] == list(FEW)
    assert {len(t.passes_us) for t in profile.timings} == {2}
    expected = 2 * (len(FEW) + 1 + 2 * len(COPIED_ELEMENTS))
    assert told[-1] == (expected, expected)
    assert profile.machine == this_machine()
    assert profiles.decode(profiles.encode(profile), "made") == profile
    slowest = max(profile.timings, key=lambda t: t.best_us)
    quickest = min(profile.timings, key=lambda t: t.best_us)
    assert slowest.operator.macs > 100 * quickest.operator.macs
    assert profile.floor_us < slowest.best_us
    taking.forget_log()
    assert list(tmp_path.iterdir()) == []


def test_passes_go_over_the_operators_in_different_orders(tmp_path: Path) -> None:
    started(tmp_path / "log").measure(silent)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()[1:]]
    first, second = ([i for number, i, _ in lines if number == n] for n in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second
    assert first != sorted(first)


def test_a_run_that_was_cut_off_goes_on_from_there(tmp_path: Path) -> None:
    log = tmp_path / "log"
    started(log).measure(silent)
    lines = log.read_bytes().split(b"\n")
    kept = 1 + len(FEW) // 2
    log.write_bytes(b"\n".join(lines[:kept]) + b"\n" + lines[kept][:-3])
    again = started(log, go_on=True)
    assert again.taken_over == kept - 1
    profile = again.measure(silent)
    number, index, us = json.loads(lines[1])
    assert (number, log.read_bytes().count(b"\n")) == (0, len(lines) - 1)
    if index >= 0:
        assert profile.timings[index].passes_us[0] == us


def test_without_going_on_everything_is_timed_anew(tmp_path: Path) -> None:
    started(tmp_path / "log").measure(silent)
    assert started(tmp_path / "log").taken_over == 0


def test_what_was_timed_otherwise_is_not_gone_on_with(tmp_path: Path) -> None:
    log = tmp_path / "log"
    started(log)
    with pytest.raises(ProfileError, match="threads = 1, now it is 2; start anew"):
        started(log, go_on=True, threads=2)
    with pytest.raises(ProfileError, match="operators = "):
        Run(FEW[1:], log, passes=2, go_on=True)
    with pytest.raises(ProfileError, match="passes = 2"):
        Run(FEW, log, passes=3, go_on=True)
    head, _, rest = log.read_bytes().partition(b'"cpu":"')
    log.write_bytes(head + b'"cpu":"another ' + rest)
    with pytest.raises(ProfileError, match=r"machine = .*another"):
        started(log, go_on=True)
    log.write_bytes(b"garbage\n")
    with pytest.raises(ProfileError, match="not the log of a run"):
        started(log, go_on=True)


def test_the_best_of_many_calls_is_what_counts() -> None:
    lasting = iter([0.0, 0.0, 0.02, *([0.02, 0.001] * 3)])
    took_us = best_us(lambda: time.sleep(next(lasting)), budget_ns=1)
    assert 1000 <= took_us < 2000


def test_the_command_writes_a_profile_and_says_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "box.json"
    assert cli.main(["profile", "--out", str(out), "--share", "0.02"]) == 0
    printed = capsys.readouterr()
    assert "noise_percent" in printed.out
    assert "depthwise_conv" in printed.out
    assert "100 %" in printed.err
    assert [t.operator for t in profiles.load(out, this_machine()).timings] == list(FEW)
    assert [entry.name for entry in tmp_path.iterdir()] == ["box.json"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--threads", "0"],
        ["--share", "0"],
        ["--share", "nan"],
        ["--out", "/nowhere/box.json"],
    ],
)
def test_options_that_cannot_work_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["profile", *arguments]) == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_killed_run_goes_on_with_resume(tmp_path: Path) -> None:
    out = tmp_path / "box.json"
    log = tmp_path / "box.json.partial"
    command = [
        *(sys.executable, "-c", "import sys; from continuer.cli import main; sys.exit(main())"),
        *("profile", "--out", str(out), "--share", "0.02"),
    ]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (log.exists() and log.read_bytes().count(b"\n") > 20):
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.01)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert not out.exists()
    ended = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=90)
    assert ended.returncode == 0, ended.stderr
    taken_over = int(ended.stderr.partition(" timings are there already")[0].split("\n")[-1])
    assert taken_over >= 20
    assert len(profiles.load(out).timings) == len(FEW)


def test_profiling_needs_the_runtime_and_nothing_that_learns() -> None:
    code = (
        "import sys, predictors.profiling, predictors.profile_command, json;"
        "print(json.dumps(list(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    loaded = {name.partition(".")[0] for name in json.loads(ended.stdout)}
    assert "ai_edge_litert" in loaded
    heavy = {"tensorflow", "keras", "torch", "xgboost", "lightgbm", "optuna", "scipy", "sklearn"}
    assert not loaded & heavy
