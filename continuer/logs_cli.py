"""``continuer logs``: events of this box's journal, or of a coordinator elsewhere."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from continuer.cli_help import add_verb
from continuer.control import CONTROL_VARIABLE, DEFAULT_CONTROL, Connection
from continuer.errors import EXIT_OK, AccessError, ContinuerError, UnreachableError
from continuer.event_text import concerns, from_journald, line, wants_colour
from continuer.events import EVENTS

# A failure is to be seen within 100 ms of its detection.
POLL_S = 0.03
RETRY_S = 0.5
JOURNALD = Path("/run/systemd/journal/socket")
EXAMPLES = """\
continuer logs --failures -f
continuer logs --node n3 --lines 50
continuer logs --coordinator tcp://10.0.0.1:7401 --json
"""


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        commands,
        "logs",
        "what happened: failures, plans, nodes that come and go",
        EXAMPLES,
        "Events from this box's journal where it holds any of CONTINUER's, else those that the "
        "coordinator tells: its own latest 2000, since it started. docs/events.md says what each "
        "one means. With --json one object a line.",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what happens")
    parser.add_argument("--failures", action="store_true", help="only the story of failures")
    parser.add_argument("--node", metavar="N", help="only what concerns this node")
    parser.add_argument(
        "-n", "--lines", type=_count, default=20, metavar="COUNT", help="of the past; 20"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--coordinator",
        metavar="tcp://HOST:PORT",
        help=f"ask there, not the journal; {CONTROL_VARIABLE} does the same",
    )
    source.add_argument(
        "--directory", type=Path, metavar="DIR", help="read journal files there instead"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(handler=run)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text}: give 0 or more")
    return number


def run(options: argparse.Namespace) -> int:
    """Print the past, then follow where that is asked for."""
    colour = wants_colour(sys.stdout)
    for event in _events(options):
        print(json.dumps(event) if options.json else line(event, colour=colour), flush=True)
    return EXIT_OK


def _events(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    where = options.coordinator or os.environ.get(CONTROL_VARIABLE)
    if options.directory is not None or (where is None and _journal_holds_events()):
        return journal_events(options)
    return coordinator_events(where or DEFAULT_CONTROL, options)


# --- the coordinator's ----------------------------------------------------------------------


def coordinator_events(endpoint: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The latest events of the past, then, following, each new one.

    Raises UnreachableError where no coordinator answers at first; one that goes away later is
    waited for.
    """
    with Connection(endpoint) as connection:
        place: dict[str, Any] = {}
        past: list[dict[str, Any]] = []
        while not place or place["more"]:
            place = connection.ask("events", **_after(place))
            past += [e for e in place["events"] if _asked_for(e, options)]
        yield from past[len(past) - min(len(past), options.lines) :]
        lost = False
        while options.follow:
            try:
                place = connection.ask("events", **_after(place))
            except UnreachableError as error:
                if not lost:
                    sys.stderr.write(f"continuer: {error}; waiting for it\n")
                lost = True
                time.sleep(RETRY_S)
                continue
            lost = False
            if place["missed"]:
                sys.stderr.write(f"continuer: {place['missed']} events were missed\n")
            yield from (e for e in place["events"] if _asked_for(e, options))
            if not place["more"]:
                time.sleep(POLL_S)


def _after(place: dict[str, Any]) -> dict[str, Any]:
    return {"life": place.get("life"), "cursor": place.get("cursor")}


def _asked_for(event: dict[str, Any], options: argparse.Namespace) -> bool:
    return concerns(event, failures=options.failures, node=options.node)


# --- the journal's --------------------------------------------------------------------------


def journal_events(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What ``journalctl`` tells. Raises AccessError where its user may not read the journal."""
    command = ["--lines", str(options.lines), *(["--follow"] if options.follow else [])]
    names = [name for name, kind in EVENTS.items() if kind.failure or not options.failures]
    command += [f"MESSAGE_ID={EVENTS[name].message_id}" for name in names]
    # Fields of one name are alternatives, of several names conditions.
    command += [f"NODE={options.node}"] if options.node else []
    process = _journalctl(options.directory, command)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        for raw in process.stdout:
            event = from_journald(json.loads(raw))
            if event is not None:
                yield event
        said = process.stderr.read().strip()
        if process.wait() != 0:
            if "permission" in said.lower():
                raise AccessError(
                    f"the journal: {said.splitlines()[-1]}; join the group systemd-journal, or "
                    "give --coordinator"
                )
            raise ContinuerError(f"journalctl: {said or process.returncode}")
    finally:
        process.terminate()
        process.wait()


def _journal_holds_events() -> bool:
    """True where a journald runs here and has an event of ours."""
    if not JOURNALD.exists() or shutil.which("journalctl") is None:
        return False
    ids = [f"MESSAGE_ID={kind.message_id}" for kind in EVENTS.values()]
    process = _journalctl(None, ["--lines", "1", *ids])
    out, _ = process.communicate()
    return any(islice(out.splitlines(), 1))


def _journalctl(directory: Path | None, arguments: list[str]) -> subprocess.Popen[str]:
    program = shutil.which("journalctl")
    if program is None:
        raise ContinuerError("journalctl is not here; give --coordinator tcp://HOST:PORT")
    place = ["--directory", str(directory)] if directory else []
    return subprocess.Popen(  # noqa: S603  # systemd's own program
        [program, "--quiet", "--output", "json", "--all", *place, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
