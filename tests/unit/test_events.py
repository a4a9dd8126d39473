"""The catalogue of events: a public interface that never changes under an operator's hands."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from continuer.event_fields import FIELDS
from continuer.events import EVENTS, journal_name

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("events_golden.json")
# journald's own names, which a field of ours must not take.
TAKEN = {"MESSAGE", "MESSAGE_ID", "PRIORITY", "CODE_FILE", "ERRNO", "SYSLOG_IDENTIFIER"}


def test_an_event_keeps_the_identifier_it_once_got() -> None:
    golden = json.loads(GOLDEN.read_text())
    found = {name: kind.message_id for name, kind in EVENTS.items()}
    changed = {name for name in golden if found.get(name, golden[name]) != golden[name]}
    assert not changed, f"an identifier may never change: {changed}"
    gone = golden.keys() - found.keys()
    assert not gone, f"operators may alert on {gone}: keep them"
    new = found.keys() - golden.keys()
    assert not new, f"append to {GOLDEN.name}: {json.dumps({n: found[n] for n in sorted(new)})}"


def test_identifiers_are_128_bits_in_hex_and_unique() -> None:
    found = [kind.message_id for kind in EVENTS.values()]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in found)


def test_every_field_has_a_unit_and_a_meaning() -> None:
    used = {field for kind in EVENTS.values() for field in kind.fields}
    assert used == FIELDS.keys()
    assert all(about.unit and about.meaning for about in FIELDS.values())


def test_every_event_says_what_to_do() -> None:
    for name, kind in EVENTS.items():
        assert kind.remedy.endswith("."), name
        assert kind.meaning.endswith("."), name


def test_fields_have_names_that_journald_takes() -> None:
    for field in FIELDS:
        assert re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", journal_name(field)), field
        assert journal_name(field) not in TAKEN
    assert journal_name("version") == "PLAN_VERSION"
    assert journal_name("detect_ms") == "DETECT_MS"


def emitted() -> Iterator[tuple[str, str]]:
    """Events that our code emits by a name that is written out, and where."""
    for package in ("agent", "continuer", "coordinator"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and node.args:
                    called = ast.unparse(node.func).rpartition(".")[2]
                    name = node.args[0]
                    if called in ("emit", "Event") and isinstance(name, ast.Constant):
                        yield str(name.value), f"{path.relative_to(ROOT)}:{node.lineno}"


def test_no_event_is_emitted_that_is_not_in_the_catalogue() -> None:
    found = dict(emitted())
    assert len(found) > 25
    assert {name: where for name, where in found.items() if name not in EVENTS} == {}


def test_the_story_of_a_failure_has_its_beginning_and_its_end() -> None:
    story = {name for name, kind in EVENTS.items() if kind.failure}
    assert {"node_suspect", "failover", "failover_told", "healed", "node_dead"} <= story
    assert {"node_returned", "no_plan", "request_failed"} <= story
    assert not story & {"daemon_started", "foreign_bytes", "objectives_changed"}
