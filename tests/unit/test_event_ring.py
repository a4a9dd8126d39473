"""The coordinator's latest events, told to whoever keeps a cursor."""

from __future__ import annotations

import json
from typing import Any

from continuer.events import EVENTS
from continuer.wire import MAX_CONTROL_BYTES, Tell, encode
from coordinator import event_ring
from coordinator.event_ring import EventRing


def filled(count: int, ring: EventRing | None = None, first: int = 0) -> EventRing:
    ring = ring or EventRing(clock=lambda: "2026-01-01T00:00:00Z")
    for number in range(first, first + count):
        ring.add("node_dead", EVENTS["node_dead"], {"node": f"n{number}", "reason": "gone"})
    return ring


def nodes(answer: dict[str, Any]) -> list[str]:
    return [event["node"] for event in answer["events"]]


def test_who_comes_first_is_told_everything_that_is_kept() -> None:
    answer = filled(3).since(None, None)
    assert nodes(answer) == ["n0", "n1", "n2"]
    assert (answer["cursor"], answer["missed"], answer["more"]) == (3, 0, False)
    assert answer["events"][0] == {
        "node": "n0",
        "reason": "gone",
        "event": "node_dead",
        "level": "error",
        "timestamp": "2026-01-01T00:00:00Z",
        "role": "coordinator",
    }


def test_a_cursor_goes_on_where_it_was_and_nothing_is_told_twice() -> None:
    ring = filled(2)
    place = ring.since(None, None)
    assert ring.since(place["life"], place["cursor"])["events"] == []
    filled(1, ring, 2)
    answer = ring.since(place["life"], place["cursor"])
    assert nodes(answer) == ["n2"]


def test_the_oldest_are_dropped_and_who_comes_late_is_told_how_many() -> None:
    ring = EventRing(max_events=5)
    filled(2, ring)
    place = ring.since(None, None)
    filled(8, ring, 2)
    answer = ring.since(place["life"], place["cursor"])
    assert nodes(answer) == ["n5", "n6", "n7", "n8", "n9"]
    assert (answer["missed"], answer["cursor"]) == (3, 10)
    assert ring.since(None, None)["missed"] == 0  # a newcomer has missed nothing


def test_bytes_are_bounded_too() -> None:
    ring = EventRing(max_bytes=10_000)
    for _ in range(50):
        ring.add("node_dead", EVENTS["node_dead"], {"node": "n", "reason": "x" * 1000})
    kept = ring.since(None, None)["events"]
    assert 5 < len(kept) < 10


def test_a_cursor_of_another_life_begins_with_the_oldest() -> None:
    ring = filled(3)
    assert nodes(ring.since("another", 3)) == ["n0", "n1", "n2"]
    assert EventRing().life != EventRing().life


def test_nonsense_for_a_cursor_is_no_error() -> None:
    ring = filled(2)
    nonsense: list[object] = [-5, "3", None, [1], {}]
    for cursor in nonsense:
        assert nodes(ring.since(ring.life, cursor)) == ["n0", "n1"]
    assert ring.since(ring.life, 10**30)["events"] == []
    assert ring.since(ring.life, 10**30)["cursor"] == 2


def test_a_long_past_comes_in_answers_that_fit_a_message() -> None:
    ring = EventRing()
    for _ in range(1000):
        ring.add("node_dead", EVENTS["node_dead"], {"node": "n", "reason": "x" * 1000})
    told, place = 0, ring.since(None, None)
    assert place["more"]
    while True:
        assert len(encode(Tell(place))) < MAX_CONTROL_BYTES // 2
        told += len(place["events"])
        if not place["more"]:
            break
        place = ring.since(place["life"], place["cursor"])
    assert told == 1000


def test_an_event_that_is_longer_than_an_answer_is_told_alone() -> None:
    ring = EventRing()
    long = "x" * (event_ring.MAX_ANSWER_BYTES + 1)
    for text in (long, "short"):
        ring.add("node_dead", EVENTS["node_dead"], {"node": "n", "reason": text})
    place = ring.since(None, None)
    assert [event["reason"] for event in place["events"]] == [long]
    assert [e["reason"] for e in ring.since(ring.life, place["cursor"])["events"]] == ["short"]


def test_what_no_message_can_hold_becomes_text() -> None:
    ring = EventRing()
    ring.add("node_dead", EVENTS["node_dead"], {"node": "n", "reason": ValueError("why")})
    (event,) = ring.since(None, None)["events"]
    assert event["reason"] == "why"
    json.dumps(event)
