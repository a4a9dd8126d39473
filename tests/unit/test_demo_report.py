"""The account of a demo run, from hand-made logs whose figures are known."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert.interpreter import Interpreter

from continuer.demo import command, report, text
from continuer.demo.view import SHOWN
from continuer.errors import UsageError
from continuer.journal import EVENTS
from continuer.outage import Fault, RawLog, RequestRecord
from tests.unit.harness import BUNDLE

MS = 1_000_000
BEGIN_MS = 5_000
FAULT_MS = BEGIN_MS + 3_000
PERIOD_MS = 10
COUNT = 600
FULL_PATH = BUNDLE.path()
SKIP_PATH = BUNDLE.path(skipped=["block02"])
EXIT_PATH = BUNDLE.path(exit_name="exit05")


# --- a run by hand --------------------------------------------------------------------------


def make_log() -> RawLog:
    """100 requests/s for 6 s; after the fault at 3 s ten answers by skipping, then full ones.

    The images' labels are 0; the first thirty answers and those by skipping are wrong.
    """
    requests = []
    for k in range(COUNT):
        intended = (BEGIN_MS + k * PERIOD_MS) * MS
        after_ms = intended // MS - FAULT_MS
        record = RequestRecord(k, 0, intended, intended, intended + 4 * MS, "ok", 1, label=0)
        record.answer, record.technique, record.version = (5 if k < 30 else 0), "none", "1.1"
        if 0 <= after_ms < 100:
            record.answer, record.technique, record.version = 5, "skip", "1.2"
            record.done_ns = intended + 30 * MS
        elif after_ms >= 100:
            record.technique, record.version = "repartition", "1.3"
        requests.append(record)
    fault: Fault = {"fault": "kill", "nodes": ["n3"], "at_ns": FAULT_MS * MS}
    return RawLog({"rate_per_s": 100.0, "moved": 1}, requests, [fault])


def at_fault(ms: float) -> int:
    return int((FAULT_MS + ms) * MS)


def make_record(**changes: Any) -> dict[str, Any]:
    """The coordinator's account: evidence 2 ms after the fault, judged 0.5 ms later."""
    skip = {
        "version": "1.2",
        "technique": "skip",
        "exit": None,
        "begun_ns": at_fault(2.5),
        "decided_ns": at_fault(2.75),
        "first_ack_ns": at_fault(3.5),
        "last_ack_ns": at_fault(4.75),
    }
    heal = {
        "version": "1.3",
        "technique": "repartition",
        "exit": None,
        "begun_ns": at_fault(20),
        "decided_ns": at_fault(20),
        "first_ack_ns": at_fault(21),
        "last_ack_ns": None,
    }
    record = {
        "nodes": ["n3"],
        "evidence_ns": [at_fault(2)],
        "begun_ns": at_fault(2.5),
        "steps": [skip, heal],
        "candidates": [
            {
                "technique": "skip",
                "exit": None,
                "accuracy": 0.8,
                "latency_ms": 1.5,
                "downtime_ms": 5.0,
                "capacity_per_s": 900.0,
                "score": 0.25,
                "feasible": True,
            }
        ],
        "why": "least downtime",
        "replayed": 2,
    }
    return {**record, **changes}


def make_report(
    log: RawLog, records: Sequence[dict[str, Any]] | None = None, wrong: Sequence[int] = ()
) -> dict[str, Any]:
    good = {r.seq for r in log.requests if r.outcome == "ok"} - set(wrong)
    return report.make("m", 5, log, [make_record()] if records is None else records, good)


def test_requests_are_counted_by_what_became_of_them() -> None:
    log = make_log()
    log.requests[10].outcome, log.requests[10].done_ns = "lost", None
    log.requests[11].outcome = "error"
    log.requests[12].outcomes = 2
    found = make_report(log, wrong=[13])
    assert found["requests"] == {
        "sent": 600,
        "full": 588,
        "degraded": 10,
        "error": 1,
        "lost": 1,
        "duplicate": 1,
        "wrong": 1,
    }


def test_the_figures_of_a_run() -> None:
    found = make_report(make_log())
    assert (found["schema"], found["model"], found["nodes"]) == (1, "m", 5)
    assert found["rate_per_s"] == 100.0
    assert found["accuracy"] == {"before": 0.9, "degraded": 0.0, "healed": 1.0}
    assert found["latency_ms"] == {"p50": 4.0, "p99": 30.0}
    assert found["throughput_per_s"] == pytest.approx(600 / 5.994, abs=0.1)
    json.dumps(found, allow_nan=False)


def test_a_failover_is_split_into_evidence_detection_decision_and_telling() -> None:
    (failover,) = make_report(make_log())["failovers"]
    assert failover["nodes"] == ["n3"]
    assert failover["fault"] == "kill"
    assert failover["silence_ms"] == 2.0
    assert failover["detect_ms"] == 0.5
    assert failover["decide_ms"] == 0.25
    assert failover["tell_ms"] == 2.0
    assert failover["outage_ms"] == 26.0
    assert failover["steps"] == [
        {"technique": "skip", "exit": None, "at_ms": 3.5},
        {"technique": "repartition", "exit": None, "at_ms": 21.0},
    ]
    assert failover["candidates"] == make_record()["candidates"]


def test_replays_are_those_of_the_ingresses_and_those_of_the_client() -> None:
    (failover,) = make_report(make_log())["failovers"]
    assert failover["replayed"] == 2 + 1


def test_the_first_good_answer_is_one_by_the_new_plan() -> None:
    log = make_log()
    (failover,) = make_report(log)["failovers"]
    assert failover["first_good_answer_ms"] == 30.0
    first = next(r.seq for r in log.requests if r.version == "1.2")
    (failover,) = make_report(log, wrong=[first])["failovers"]
    assert failover["first_good_answer_ms"] == 40.0  # the next one was due 10 ms later


def test_versions_compare_as_numbers() -> None:
    assert report.version_of("1.10") > report.version_of("1.9")
    assert report.version_of("2.1") > report.version_of("1.10")
    assert report.version_of(None) == (0, 0)


def test_failovers_of_other_nodes_and_of_earlier_times_are_not_this_faults() -> None:
    others = [
        make_record(nodes=["n1"], replayed=50),
        make_record(begun_ns=at_fault(-100), replayed=50),
    ]
    (failover,) = make_report(make_log(), [*others, make_record()])["failovers"]
    assert failover["replayed"] == 3
    assert len(failover["steps"]) == 2
    assert failover["silence_ms"] == 2.0


def test_a_failover_in_several_records_is_accounted_from_the_first() -> None:
    later = make_record(begun_ns=at_fault(500), evidence_ns=[at_fault(400)], replayed=4)
    (failover,) = make_report(make_log(), [make_record(), later])["failovers"]
    assert (failover["silence_ms"], failover["detect_ms"]) == (2.0, 0.5)
    assert failover["replayed"] == 2 + 4 + 1
    assert len(failover["steps"]) == 4


def test_a_fault_that_nobody_noticed_has_no_steps() -> None:
    found = make_report(make_log(), [])
    (failover,) = found["failovers"]
    assert failover["steps"] == []
    assert failover["silence_ms"] is None
    assert failover["outage_ms"] == 26.0
    assert not report.passed(found)


def test_an_outage_that_did_not_end_is_null_and_fails_the_run() -> None:
    log = make_log()
    log.requests[301].outcome = "error"
    found = make_report(log)
    assert found["failovers"][0]["outage_ms"] is None
    assert not report.passed(found)
    json.dumps(found, allow_nan=False)


def spoil_nothing(_: RawLog) -> None:
    return


def lose(log: RawLog) -> None:
    log.requests[599].outcome = "lost"


def duplicate(log: RawLog) -> None:
    log.requests[599].outcomes = 2


def send_nothing(log: RawLog) -> None:
    log.requests.clear()
    log.faults.clear()


@pytest.mark.parametrize(
    ("spoil", "wrong", "passes"),
    [
        (spoil_nothing, [], True),
        (spoil_nothing, [0], False),
        (lose, [], False),
        (duplicate, [], False),
        (send_nothing, [], False),
    ],
)
def test_a_run_passes_only_if_everything_was_answered_well(
    spoil: Callable[[RawLog], None], wrong: list[int], passes: bool
) -> None:
    log = make_log()
    spoil(log)
    assert report.passed(make_report(log, wrong=wrong)) is passes


def test_a_run_without_a_fault_passes_without_a_failover() -> None:
    log = make_log()
    log.faults.clear()
    found = make_report(log, [])
    assert found["failovers"] == []
    assert report.passed(found)


def test_a_run_in_which_nothing_was_answered_can_be_reported() -> None:
    log = make_log()
    for record in log.requests:
        record.outcome, record.done_ns = "lost", None
    found = make_report(log)
    assert found["latency_ms"] == {"p50": None, "p99": None}
    assert found["throughput_per_s"] is None
    assert found["accuracy"]["before"] is None
    assert not report.passed(found)
    assert "lost 600" in text.describe(found, [make_record()], [])


def test_infinity_stays_out_of_json() -> None:
    assert report.rounded(math.inf) is None
    assert report.rounded(math.nan) is None
    assert report.rounded(None) is None
    assert report.rounded(1.23456) == 1.235


def test_the_report_as_text_says_what_the_numbers_say() -> None:
    shown = text.describe(make_report(make_log()), [make_record()], ["n3"])
    assert "m on 5 nodes, 100 requests/s" in shown
    assert "sent 600  full 590  degraded 10  error 0  lost 0  duplicate 0  wrong 0" in shown
    assert "n3 killed (SIGKILL): outage 26 ms at the client" in shown
    assert "evidence 2 -> detect 0.5 -> decide 0.25 -> tell 2 ms" in shown
    assert "step 2: repartition in force after 21 ms" in shown
    assert "why: least downtime" in shown
    assert "taken back in: n3" in shown


def test_every_event_that_the_demo_shows_exists_with_the_fields_that_it_shows() -> None:
    for name, template in SHOWN.items():
        template.format(**dict.fromkeys(EVENTS[name].fields, "x"))


# --- the oracle -----------------------------------------------------------------------------


def chain(path: Sequence[str], image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What the runtime itself says, part by part."""
    flow = image
    for name in path:
        interpreter = Interpreter(model_path=str(BUNDLE.file_of(name)), num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], flow)
        interpreter.invoke()
        flow = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return flow.reshape(-1)


@pytest.fixture(scope="module")
def images() -> list[npt.NDArray[np.float32]]:
    """Two inputs of the shipped network."""
    generator = np.random.default_rng(7)
    shape = BUNDLE.manifest.input.tensors[0].shape
    return [generator.standard_normal(shape).astype(np.float32) for _ in range(2)]


def answered(
    seq: int, image: int, path: Sequence[str], technique: str, logits: npt.NDArray[np.float32]
) -> RequestRecord:
    return RequestRecord(
        seq, image, 0, 0, 1, "ok", 1,
        technique=technique, path=tuple(path), logits=logits.tobytes().hex(),
    )  # fmt: skip


def test_the_oracle_agrees_with_right_logits_and_with_no_others(
    images: list[npt.NDArray[np.float32]],
) -> None:
    oracle = report.Oracle(BUNDLE, images)
    techniques = {FULL_PATH: "none", SKIP_PATH: "skip", EXIT_PATH: "early_exit"}
    right = [
        answered(0, image, path, technique, chain(path, images[image]))
        for path, technique in techniques.items()
        for image in (0, 1)
    ]
    assert all(oracle.agrees(record) for record in right)
    full = chain(FULL_PATH, images[0])
    flipped = full.copy()
    flipped[[0, 1]] = flipped[[1, 0]]
    close = full.copy()
    close[3] += 2 * report.TOLERANCE
    wrong = {
        "two logits exchanged": answered(0, 0, FULL_PATH, "none", flipped),
        "one logit a little off": answered(0, 0, FULL_PATH, "none", close),
        "another image's": answered(0, 1, FULL_PATH, "none", full),
        "another path's": answered(0, 0, SKIP_PATH, "skip", full),
        "one logit short": answered(0, 0, FULL_PATH, "none", full[:-1]),
        "not a number": answered(0, 0, FULL_PATH, "none", np.full_like(full, np.nan)),
        "none at all": answered(0, 0, FULL_PATH, "none", full[:0]),
    }
    assert [name for name, record in wrong.items() if oracle.agrees(record)] == []


def test_an_answer_whose_tag_does_not_fit_its_path_is_wrong(
    images: list[npt.NDArray[np.float32]],
) -> None:
    oracle = report.Oracle(BUNDLE, images)
    skipped, full = chain(SKIP_PATH, images[0]), chain(FULL_PATH, images[0])
    assert not oracle.agrees(answered(0, 0, SKIP_PATH, "none", skipped))
    assert not oracle.agrees(answered(0, 0, FULL_PATH, "skip", full))
    assert oracle.agrees(answered(0, 0, FULL_PATH, "repartition", full))


def test_good_requests_are_the_answered_ones_that_the_oracle_agrees_with(
    images: list[npt.NDArray[np.float32]],
) -> None:
    full = chain(FULL_PATH, images[0])
    good, wrong, failed = (answered(seq, 0, FULL_PATH, "none", full) for seq in (4, 5, 6))
    wrong.logits = (-full).tobytes().hex()
    failed.outcome = "error"
    oracle = report.Oracle(BUNDLE, images)
    assert report.good_seqs(oracle, [good, wrong, failed]) == {4}


# --- what the demo refuses ------------------------------------------------------------------


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["demo", *arguments])


@pytest.mark.parametrize(
    ("arguments", "nodes", "victims"),
    [
        ([], 5, ["n3"]),
        (["--kill", "none"], 5, []),
        (["--kill", "n5,n1"], 5, ["n5", "n1"]),
        (["--nodes", "2"], 2, ["n2"]),
        (["--nodes", "1"], 1, []),
        (["--nodes", "17", "--kill", "n17"], 17, ["n17"]),
    ],
)
def test_the_demo_takes_what_can_work(arguments: list[str], nodes: int, victims: list[str]) -> None:
    found = command.check(options(*arguments), BUNDLE)
    assert found == ([f"n{i}" for i in range(1, nodes + 1)], victims)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nodes", "0"], "--nodes 0: give 1 to 17"),
        (["--nodes", "18"], "--nodes 18: give 1 to 17"),
        (["--kill", "n6"], "--kill n6: there are n1, n2, n3, n4, n5"),
        (["--kill", ""], "--kill : there are"),
        (["--kill", "n1,n1"], "name each node once"),
        (["--nodes", "2", "--kill", "n1,n2"], "leave at least one node"),
        (["--nodes", "1", "--kill", "n1"], "leave at least one node"),
        (["--seconds", "5"], "--seconds 5: give at least 6"),
        (["--seconds", "nan"], "--seconds nan: give at least 6"),
        (["--seconds", "inf"], "--seconds inf"),
        (["--rate", "0"], "--rate 0: give a number above 0"),
        (["--rate", "nan"], "--rate nan: give a number above 0"),
        (["--rate", "inf"], "--rate inf: give a number"),
        (["--seed", "-1"], "--seed -1: give 0 or more"),
    ],
)
def test_the_demo_refuses_what_cannot_work_before_it_starts(
    arguments: list[str], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        command.check(options(*arguments), BUNDLE)
    assert said in str(caught.value)
