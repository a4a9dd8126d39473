"""The outage of a fault, from hand-made logs whose answer is known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from continuer import load
from continuer.errors import UsageError
from continuer.outage import RequestRecord, delays_ns, outage_ms, read

MS = 1_000_000
BEGIN_MS = 5_000  # of the client's clock, which begins anywhere
FAULT_MS = BEGIN_MS + 3_000
PERIOD_MS = 10


def log(count: int = 600, delay_ms: float = 4.0) -> list[RequestRecord]:
    """A request every 10 ms, each answered after the same delay."""
    records = []
    for k in range(count):
        intended = (BEGIN_MS + k * PERIOD_MS) * MS
        done = intended + int(delay_ms * MS)
        records.append(
            RequestRecord(k, 0, intended, intended, done_ns=done, outcome="ok", outcomes=1)
        )
    return records


def at(records: list[RequestRecord], ms_after_fault: float) -> RequestRecord:
    """The request that was due at this moment."""
    return next(r for r in records if r.intended_ns == (FAULT_MS + ms_after_fault) * MS)


def outage(records: list[RequestRecord]) -> float | None:
    return outage_ms(records, FAULT_MS * MS)


def test_without_a_disturbance_there_is_no_outage() -> None:
    assert outage(log()) == 0


def test_the_outage_is_the_largest_delay_near_the_fault_less_the_steady_median() -> None:
    records = log(delay_ms=4.0)
    for after, delay in ((0, 30.0), (10, 21.0), (20, 11.0)):
        record = at(records, after)
        record.done_ns = record.intended_ns + int(delay * MS)
    assert outage(records) == pytest.approx(26.0)


def test_delay_counts_from_when_a_request_was_due_and_not_from_when_it_was_sent() -> None:
    records = log()
    late = at(records, 10)
    late.sent_ns = late.intended_ns + 50 * MS
    late.done_ns = late.sent_ns + 4 * MS
    assert outage(records) == pytest.approx(50.0)


@pytest.mark.parametrize("after", [-1000, 1000])
def test_the_window_reaches_one_second_to_both_sides(after: int) -> None:
    records = log()
    at(records, after).outcome = "error"
    assert outage(records) == math.inf


@pytest.mark.parametrize("after", [-1010, 1010])
def test_what_lies_outside_the_window_is_not_the_faults(after: int) -> None:
    records = log()
    at(records, after).outcome = "error"
    assert outage(records) == 0


@pytest.mark.parametrize("outcome", ["error", "lost"])
def test_a_request_without_an_answer_is_an_infinite_outage(outcome: str) -> None:
    records = log()
    at(records, 10).outcome = outcome
    assert outage(records) == math.inf
    records = log()
    at(records, 10).done_ns = None
    assert outage(records) == math.inf


def test_warming_up_and_the_moments_before_the_fault_are_no_steady_state() -> None:
    records = log(delay_ms=4.0)
    for record in records:
        since_begin = record.intended_ns - BEGIN_MS * MS
        before_fault = FAULT_MS * MS - record.intended_ns
        if since_begin < 500 * MS or 0 < before_fault <= 500 * MS:
            record.done_ns = record.intended_ns + 900 * MS
    # Measured against 4 ms, although almost as many requests before it took 900 ms.
    assert outage(records) == pytest.approx(896.0)


def test_the_median_stays_finite_while_a_minority_of_steady_requests_fails() -> None:
    records = log()
    for record in records[60:100]:
        record.outcome = "error"
    assert outage(records) == 0


def test_nothing_can_be_said_without_steady_requests_or_without_any_near_the_fault() -> None:
    assert outage_ms([], FAULT_MS * MS) is None
    assert outage_ms(log(), (BEGIN_MS + 900) * MS) is None
    assert outage_ms(log(), (BEGIN_MS + 60_000) * MS) is None


def test_delays_are_infinite_without_a_good_answer() -> None:
    answered, failed, lost = log(3)
    failed.outcome, lost.outcome, lost.done_ns = "error", "lost", None
    assert delays_ns([answered, failed, lost]) == [4 * MS, math.inf, math.inf]


# --- the file -------------------------------------------------------------------------------


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_log_comes_back_as_the_load_generator_wrote_it(tmp_path: Path) -> None:
    records = log(3)
    records[0].path, records[0].label, records[0].logits = ("stem", "head"), 3, "0000803f"
    records[1].outcome, records[1].error = "error", "deadline: no answer"
    path = tmp_path / "raw.jsonl"
    load.write(path, {"rate_per_s": 100.0, "moved": 2}, records)
    fault = {"fault": "kill", "nodes": ["n3"], "at_ns": FAULT_MS * MS}
    with path.open("a") as stream:
        stream.write(json.dumps(fault) + "\n")
    found = read(path)
    assert found.meta == {"rate_per_s": 100.0, "moved": 2}
    assert found.requests == records
    assert found.faults == [fault]


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\n",
        b'{"meta": {}}\n{"seq": 1, "image": 0, "intend',
        b'{"seq": 1}\n',
        b'{"seq": "1", "image": 0, "intended_ns": 1, "sent_ns": 1}\n',
        b'{"seq": 1, "image": 0, "intended_ns": 1, "sent_ns": 1, "path": 5}\n',
        b'{"meta": 5}\n',
        b'{"fault": "kill"}\n',
        b'{"fault": "kill", "nodes": "n3", "at_ns": 1}\n',
        b'{"fault": "kill", "nodes": ["n3"], "at_ns": "soon"}\n',
        b"[]\n",
        b"5\n",
        b'"meta"\n',
        b"null\n",
        b"\xff\xfe\n",
        b"\n",
        b"[" * 100_000,
    ],
    ids=lambda content: content[:24].decode("latin-1").strip() or "an empty line",
)
def test_a_damaged_log_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "raw.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a raw log of 'continuer load'") as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_log_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.jsonl: No such file"):
        read(tmp_path / "absent.jsonl")


def test_a_log_of_a_later_release_is_read_all_the_same(tmp_path: Path) -> None:
    line = {**msgspec.to_builtins(log(1)[0]), "queue": 3}
    assert read(written(tmp_path / "raw.jsonl", line)).requests == log(1)
