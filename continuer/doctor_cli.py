"""``continuer doctor``: what on this box, or between the boxes, would get in the way."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from continuer import checks
from continuer.checks import Finding
from continuer.cli_help import add_verb
from continuer.config_cli import ROLES, guess_role, read_config
from continuer.control import add_options
from continuer.errors import EXIT_OK, EXIT_UNHEALTHY, ContinuerError

PLACES = tuple(Path("/etc/continuer") / f"{role}.toml" for role in ROLES)
EXAMPLES = """\
continuer doctor
continuer doctor --config /etc/continuer/agent.toml --offline
continuer doctor --coordinator tcp://10.0.0.1:7401 --json
"""


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        commands,
        "doctor",
        "check this box and the cluster, with a remedy for what is wrong",
        EXAMPLES,
        "Looks at packages, clock, CPU governor, journald and real-time priority; at ports, "
        "permissions and the model's hashes of each configuration; at the coordinator, round "
        "trips and ports of all nodes. Exit code 1 where something fails; warnings do not count.",
    )
    parser.add_argument(
        "--config",
        action="append",
        type=Path,
        metavar="FILE",
        help="a daemon's configuration; those in /etc/continuer if left out",
    )
    parser.add_argument("--offline", action="store_true", help="this box only, not the cluster")
    add_options(parser)
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Run every check, print each as it is done; 1 where one fails."""
    files = options.config or [place for place in PLACES if place.exists()]
    found = []
    for finding in findings(files, None if options.offline else options.coordinator):
        found.append(finding)
        if not options.json:
            print(describe(finding), flush=True)
    failed = sum(finding.outcome == "fail" for finding in found)
    warned = sum(finding.outcome == "warn" for finding in found)
    if options.json:
        print(json.dumps({"schema": 1, "checks": [msgspec.to_builtins(f) for f in found]}))
    else:
        sys.stderr.write(f"{len(found)} checks: {failed} failed, {warned} warnings\n")
    return EXIT_UNHEALTHY if failed else EXIT_OK


def findings(files: list[Path], coordinator: str | None) -> Iterator[Finding]:
    """All checks, in the order in which a box is set up."""
    read = []
    for file in files:
        try:
            role = guess_role(file)
            read.append((file, role, read_config(file, role)))
            yield Finding("configuration", "ok", f"{file} ({role})")
        except ContinuerError as error:
            yield Finding("configuration", "fail", f"{file}: {error}", "continuer config sample")
    for role in sorted({role for _, role, _ in read}) or [""]:
        yield checks.wheels(role)
    yield checks.clock()
    yield checks.governor()
    yield checks.journald()
    yield checks.real_time()
    mine = None
    for file, _, settings in read:
        yield from checks.permissions(file, settings)
        yield from checks.ports(settings)
        if settings.bundle is not None:  # else it is fetched, and checked whenever it is loaded
            finding, mine = checks.model(settings.bundle)
            yield finding
    if coordinator is not None:
        yield from checks.cluster(coordinator, mine)


def describe(finding: Finding) -> str:
    """A finding for people."""
    text = f"{finding.outcome:<5}{finding.check:<14}{finding.found}"
    return f"{text}\n{'':<19}-> {finding.remedy}" if finding.remedy else text
