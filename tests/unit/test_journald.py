"""Events as journald gets them: its protocol, its fields, and what happens where it is not."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog

from continuer import journald
from continuer.events import EVENTS
from continuer.journal import Journal

FAILOVER: dict[str, Any] = {
    "version": "1.2",
    "nodes": ["n2", "n3"],
    "technique": "skip",
    "exit": None,
    "accuracy": 0.8,
    "latency_ms": 3.5,
    "downtime_ms": 2,
    "why": "two\nlines",
}
EVENT = {"role": "coordinator", "event": "failover", "level": "error", **FAILOVER}


def decoded(raw: bytes) -> list[tuple[str, str]]:
    """A datagram of the native protocol, read as its specification says."""
    fields = []
    while raw:
        line, _, rest = raw.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", rest[:8])
            value, end, raw = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert end == b"\n"
        else:
            raw = rest
        fields.append((key.decode(), value.decode()))
    return fields


def test_every_field_is_one_of_the_journals_own() -> None:
    fields = journald.to_fields(EVENT, "0" * 32)
    values: dict[str, list[str]] = {}
    for key, value in fields:
        values.setdefault(key, []).append(value)
    assert values["CONTINUER_EVENT"] == ["failover"]
    assert values["MESSAGE_ID"] == ["0" * 32]
    assert values["PRIORITY"] == ["3"]
    assert values["SYSLOG_IDENTIFIER"] == ["continuer-coordinator"]
    assert values["NODE"] == values["NODES"] == ["n2", "n3"]
    assert values["PLAN_VERSION"] == ["1.2"]
    assert values["TECHNIQUE"] == ["skip"]
    assert values["LATENCY_MS"] == ["3.5"]
    assert "EXIT" not in values  # null
    assert len(values["MESSAGE"]) == 1


def test_the_message_is_the_event_and_its_fields_in_one_line_for_people() -> None:
    (message,) = [v for k, v in journald.to_fields(EVENT, None) if k == "MESSAGE"]
    assert message.startswith("failover version=1.2 nodes=n2,n3 technique=skip exit= accuracy=0.8")


def test_values_with_line_breaks_survive_the_protocol() -> None:
    fields = [("MESSAGE", "plain = text"), ("WHY", "a\nb\n"), ("EMPTY", ""), ("NODE", "é")]
    assert decoded(journald.encode(fields)) == fields


@pytest.mark.parametrize("name", EVENTS)
def test_names_are_such_that_journald_keeps_them(name: str) -> None:
    event = {"event": name, "level": EVENTS[name].level, **dict.fromkeys(EVENTS[name].fields, 1)}
    for key, _ in journald.to_fields(event, EVENTS[name].message_id):
        assert key.replace("_", "").isalnum(), key
        assert key.isupper(), key
        assert not key.startswith("_"), key
        assert len(key) <= 64, key


def test_a_datagram_reaches_who_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(5)
        assert journald.send_datagram([("NODE", "n1")], path)
        assert sock.recv(4096) == b"NODE=n1\n"


def test_a_journald_that_is_not_there_or_cannot_take_it_is_noticed(tmp_path: Path) -> None:
    assert not journald.send_datagram([("NODE", "n1")], str(tmp_path / "nobody"))
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        assert not journald.send_datagram([("NODE", "x" * (8 << 20))], path)


def test_what_journald_has_is_not_written_again_and_what_it_refuses_is() -> None:
    taken: list[journald.Fields] = []

    def take(fields: journald.Fields) -> bool:
        taken.append(fields)
        return len(taken) == 1

    processor = journald.ToJournald(take, lambda name: f"id of {name}")
    with pytest.raises(structlog.DropEvent):
        processor(None, "", dict(EVENT))
    assert processor(None, "", dict(EVENT)) == EVENT
    assert ("MESSAGE_ID", "id of failover") in taken[0]


def test_only_a_stream_into_the_journal_counts(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        here = f"{found.st_dev}:{found.st_ino}"
        assert journald.reaches({"JOURNAL_STREAM": here}, stream)
        assert not journald.reaches(
            {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"}, stream
        )
        assert not journald.reaches({}, stream)
    assert not journald.reaches({"JOURNAL_STREAM": here}, stream)  # closed


def test_without_journald_a_service_writes_json_to_its_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "stream").open("w+") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(journald, "make_send", lambda: lambda _: False)
        Journal(role="coordinator").emit("failover", **FAILOVER)
        stream.seek(0)
        assert json.loads(stream.read())["why"] == "two\nlines"


def test_less_severe_events_than_the_level_are_not_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    journal, heard = Journal(), []
    journal.listeners.append(lambda name, *_: heard.append(name))
    journal.set_level("error")
    journal.emit("node_left", node="n1")
    journal.emit("node_dead", node="n1", reason="silence")
    journal.set_level("info")
    journal.emit("node_left", node="n1")
    written = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert written == ["node_dead", "node_left"]
    assert heard == ["node_left", "node_dead", "node_left"]
