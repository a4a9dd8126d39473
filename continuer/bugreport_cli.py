"""``continuer bugreport``: one file with all that helps to find a defect, and no secrets."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tarfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from continuer.cli_help import add_verb
from continuer.config_sources import drop_ins, read_toml
from continuer.control import add_options, ask
from continuer.doctor_cli import PLACES, findings
from continuer.errors import EXIT_OK, AccessError, ContinuerError, UsageError
from continuer.logs_cli import coordinator_events, journal_events
from continuer.progress import bar
from continuer.redaction import redacted, scrubbed, secrets
from continuer.version_cli import versions

MAX_EVENTS = 2000
EXAMPLES = """\
continuer bugreport
continuer bugreport --output /tmp/report.tar.gz --config /etc/continuer/agent.toml
"""


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        commands,
        "bugreport",
        "collect what helps to find a defect, in one .tar.gz",
        EXAMPLES,
        "Versions, configuration (values of keys that name secrets are removed, comments too), "
        "doctor's findings, status and events. What cannot be had is replaced by why. Read it "
        "before you send it on.",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="continuer-bugreport-TIME.tar.gz if left out"
    )
    parser.add_argument("--config", action="append", type=Path, metavar="FILE")
    add_options(parser)
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Collect, write, and print where it is."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    output = options.output or Path(f"continuer-bugreport-{stamp}.tar.gz")
    files = options.config or [place for place in PLACES if place.exists()]
    files = [one for file in files for one in (file, *drop_ins(file))]
    jobs = dict(_jobs(files, options.coordinator))
    known = {text for file in files for text in _secrets(file)}
    name = output.name.removesuffix(".tar.gz")
    try:
        # Nobody else's to read: an operator decides who gets it.
        raw = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except PermissionError as error:
        raise AccessError(f"{output}: {error.strerror}; give another --output") from error
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}; give another --output") from error
    with os.fdopen(raw, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for entry, job in bar(jobs.items(), len(jobs), "collecting"):
            _add(archive, f"{name}/{entry}", scrubbed(_outcome(job), known))
    answer = {"schema": 1, "file": str(output), "bytes": output.stat().st_size, "holds": [*jobs]}
    print(json.dumps(answer) if options.json else output)
    if not options.json:
        sys.stderr.write(f"holds {', '.join(jobs)}; read it before you send it on\n")
    return EXIT_OK


def _jobs(files: list[Path], coordinator: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What to collect, by the name it gets; with no coordinator, nobody waits for it twice."""
    yield "versions.json", versions
    for file in files:
        entry = "configuration/" + "_".join(part for part in file.parts if part != "/")
        yield f"{entry}.json", partial(_configuration, file)
    wanted = Namespace(lines=MAX_EVENTS, follow=False, failures=False, node=None, directory=None)
    state = _outcome(lambda: ask(coordinator, "status"))
    yield "status.json", lambda: state
    there = coordinator if "error" not in state else None
    own = [file for file in files if file.parent.suffix != ".d"]
    yield "doctor.json", lambda: [msgspec.to_builtins(f) for f in findings(own, there)]
    if there is not None:
        yield "events.coordinator.json", lambda: list(coordinator_events(there, wanted))
    if shutil.which("journalctl"):
        yield "events.journal.json", lambda: list(journal_events(wanted))


def _configuration(file: Path) -> Any:
    return redacted(read_toml(file))


def _secrets(file: Path) -> list[str]:
    try:
        return list(secrets(read_toml(file)))
    except ContinuerError:
        return []  # it goes into the report as the error that it is


def _outcome(job: Callable[[], Any]) -> Any:
    """What a job found, or why it found nothing: a report of half of it helps, too."""
    try:
        return job()
    except ContinuerError as error:
        return {"error": str(error)}


def _add(archive: tarfile.TarFile, entry: str, found: Any) -> None:
    raw = (json.dumps(found, indent=1, default=str) + "\n").encode()
    info = tarfile.TarInfo(entry)
    info.size, info.mtime, info.mode = len(raw), int(time.time()), 0o600
    archive.addfile(info, io.BytesIO(raw))
