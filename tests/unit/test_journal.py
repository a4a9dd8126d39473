"""The journal: one line of JSON per event, with exactly the fields that are declared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from continuer.journal import EVENTS, Event, Journal

ROOT = Path(__file__).parents[2]
ADDED = {"event", "level", "timestamp"}  # by the journal, on every line


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_one_line_of_json_with_its_fields(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {field: f"{field}\nof {name}" for field in EVENTS[name].fields}
    Journal().emit(name, **fields)
    (line,) = lines(capsys)
    assert line.keys() == EVENTS[name].fields | ADDED
    assert (line["event"], line["level"]) == (name, EVENTS[name].level)
    assert {field: line[field] for field in fields} == fields
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])


def test_an_event_that_is_not_declared_cannot_be_emitted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ValueError, match="event 'node_resurrected'"):
        Journal().emit("node_resurrected", node="n1")
    assert lines(capsys) == []


@pytest.mark.parametrize("fields", [{}, {"node": "n1", "colour": "red"}, {"nod": "n1"}])
def test_fields_that_are_not_declared_cannot_be_emitted_nor_left_out(
    fields: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"expected \['node'\]"):
        Journal().emit("node_left", **fields)
    assert lines(capsys) == []


def test_what_deciding_code_returns_is_written_the_same_way(
    capsys: pytest.CaptureFixture[str],
) -> None:
    journal = Journal()
    journal.write(Event("node_left", {"node": "n1"}))
    journal.emit("node_left", node="n1")
    first, second = lines(capsys)
    assert {**first, "timestamp": ""} == {**second, "timestamp": ""}


def test_bound_fields_are_on_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(role="agent", node="n4")
    journal.emit("joined", coordinator="tcp://h:1")
    journal.emit("coordinator_lost", coordinator="tcp://h:1")
    assert [(line["role"], line["node"]) for line in lines(capsys)] == [("agent", "n4")] * 2


def test_numbers_and_lists_stay_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    Journal().emit("suspicion_held", nodes=["n1", "n2"])
    Journal().emit("observer_late", late_ms=12.5)
    first, second = lines(capsys)
    assert first["nodes"] == ["n1", "n2"]
    assert second["late_ms"] == 12.5


def test_every_event_has_a_meaning_and_a_level_and_takes_no_name_that_the_journal_adds() -> None:
    for name, kind in EVENTS.items():
        assert kind.meaning.endswith("."), name
        assert kind.level in ("info", "warning", "error", "critical"), name
        assert not kind.fields & ADDED, name


def test_every_declared_event_is_emitted_somewhere() -> None:
    source = "".join(
        path.read_text()
        for package in ("agent", "continuer", "coordinator")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "events.py"
    )
    assert [name for name in EVENTS if f'"{name}"' not in source] == []
