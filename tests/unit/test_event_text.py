"""Events as people read them, and as the journal hands them back."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from continuer.event_text import concerns, from_journald, line, wants_colour
from continuer.events import EVENTS
from continuer.journald import to_fields

EVENT: dict[str, Any] = {
    "event": "failover_told",
    "level": "info",
    "timestamp": "2026-01-01T10:00:00.5Z",
    "role": "coordinator",
    "version": "1.2",
    "nodes": ["n2", "n4"],
    "silence_ms": 15.4,
    "detect_ms": 0.0,
    "decide_ms": 0.1,
    "tell_ms": 1.8,
    "outage_ms": 17.3,
    "predicted_ms": 5.1,
    "replayed": 3,
}


def entry(event: dict[str, Any]) -> dict[str, Any]:
    """What ``journalctl -o json`` says of an event that we sent: repeated fields are lists."""
    found: dict[str, Any] = {"__REALTIME_TIMESTAMP": "1767261600500000", "_HOSTNAME": "box"}
    sent = {k: v for k, v in event.items() if k != "timestamp"}
    for name, value in to_fields(sent, EVENTS[event["event"]].message_id):
        held = found.get(name)
        found[name] = (
            value if held is None else [*([held] if isinstance(held, str) else held), value]
        )
    return found


def test_an_event_comes_back_from_the_journal_as_it_was() -> None:
    back = from_journald(entry(EVENT))
    assert back is not None
    assert {key: back[key] for key in EVENT if key != "timestamp"} == {
        key: value for key, value in EVENT.items() if key != "timestamp"
    }
    assert back["timestamp"].startswith("2026-01-01T10:00:00.5")
    assert back["host"] == "box"


def test_one_node_is_a_list_of_one_all_the_same() -> None:
    back = from_journald(entry({**EVENT, "nodes": ["n2"]}))
    assert back is not None
    assert back["nodes"] == ["n2"]


def test_the_node_that_an_agent_speaks_for_comes_back_too() -> None:
    event = {"event": "joined", "level": "info", "role": "agent", "node": "n4"}
    back = from_journald(entry({**event, "coordinator": "tcp://h:1"}))
    assert back is not None
    assert (back["node"], back["coordinator"]) == ("n4", "tcp://h:1")


def test_what_others_wrote_is_not_ours() -> None:
    other = {"__REALTIME_TIMESTAMP": "1", "MESSAGE": "hello"}
    assert from_journald(other) is None
    assert from_journald({**other, "CONTINUER_EVENT": "no_such_event"}) is None
    assert from_journald({**other, "CONTINUER_EVENT": ["joined", "joined"]}) is None


@pytest.mark.parametrize(
    ("event", "failures", "node", "wanted"),
    [
        (EVENT, True, None, True),
        (EVENT, False, "n4", True),
        (EVENT, False, "n1", False),
        ({"event": "daemon_started"}, True, None, False),
        ({"event": "daemon_started"}, False, None, True),
        ({"event": "node_dead", "node": "n3"}, True, "n3", True),
        ({"event": "node_dead", "node": "n3"}, True, "n4", False),
        ({"event": "from_a_newer_version"}, True, None, False),
    ],
)
def test_only_what_is_asked_for_is_shown(
    event: dict[str, Any], failures: bool, node: str | None, wanted: bool
) -> None:
    assert concerns(event, failures=failures, node=node) is wanted


def test_a_line_says_when_how_bad_what_and_the_fields() -> None:
    text = line(EVENT, colour=False)
    assert text.startswith("2026-01-01T10:00:00.5Z info     failover_told version=1.2 nodes=n2,n4 ")
    assert text.endswith("replayed=3")
    assert "role=" not in text
    assert 'why="highest score"' in line({**EVENT, "why": "highest score"}, colour=False)
    assert "exit=-" in line({**EVENT, "exit": None}, colour=False)


def test_nothing_that_a_stranger_sent_reaches_the_terminal_as_an_escape() -> None:
    text = line({**EVENT, "problem": "\x1b]0;owned\x07 and\nmore"}, colour=False)
    assert not {"\x1b", "\x07", "\n"} & set(text)
    assert "\x1b" not in line({**EVENT, "problem": "\x1b[2J"}, colour=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_whose_users_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    assert "\033[31m" in line({**EVENT, "level": "error"}, colour=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


def test_a_line_of_json_and_a_line_of_the_ring_read_the_same() -> None:
    assert line(json.loads(json.dumps(EVENT)), colour=False) == line(EVENT, colour=False)
