"""``continuer deploy``: another bundle on every box, without a request lost, and back again."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from continuer import bundle as bundles
from continuer.bundle import Bundle
from continuer.catalog import find_bundle
from continuer.chunks import CHUNK_BYTES
from continuer.cli_help import add_verb
from continuer.control import Connection, add_options
from continuer.errors import EXIT_OK, ContinuerError, UsageError
from continuer.progress import bar
from continuer.security import signing

POLL_S = 0.05
# The coordinator hashes what it has, and its disk may be slow.
UPLOAD_TIMEOUT_MS = 60_000


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        commands,
        "deploy",
        "put another bundle in force on every box",
        "continuer deploy mobilenetv2-cifar10\ncontinuer deploy ./my-bundle --timeout-s 3600\n"
        "continuer deploy --rollback\ncontinuer deploy --cancel",
        "The coordinator gets the files it lacks and offers the bundle to the boxes. Each fetches "
        "what it needs, checks it, and loads it beside the one that runs. When all are ready the "
        "plan changes at once, and no request is lost. If a box cannot verify or load it, nothing "
        "changes, and the command says why. The bundle before it is kept to go back to.",
    )
    parser.add_argument(
        "bundle", nargs="?", metavar="BUNDLE", help="a directory, or the name of a shipped bundle"
    )
    parser.add_argument(
        "--rollback", action="store_true", help="go back to the bundle that was in force before"
    )
    parser.add_argument(
        "--cancel", action="store_true", help="give up the deployment that is under way"
    )
    parser.add_argument(
        "--new-input",
        action="store_true",
        help="also if it takes its input in another form: clients have to prepare it anew",
    )
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=600.0,
        metavar="S",
        help="how long to wait until it is in force; 600",
    )
    add_options(parser)
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Deploy, go back or call off; 0 where that is what is in force then."""
    chosen = [options.bundle is not None, options.rollback, options.cancel]
    if sum(chosen) != 1:
        raise UsageError("deploy: give a BUNDLE, or --rollback, or --cancel")
    with Connection(options.coordinator) as coordinator:
        if options.cancel:
            said = coordinator.ask("deploy.cancel")["rollout"]
            text = f"{_named(said)} was called off; what was in force still is"
            print(json.dumps({"schema": 1, **said}) if options.json else text)
            return EXIT_OK
        if options.rollback:
            said = coordinator.ask("deploy.rollback", new_input=options.new_input)["rollout"]
        else:
            said = _deploy(coordinator, options)
        if said is not None:
            said = _wait(coordinator, said["bundle"], options.timeout_s)
        state = coordinator.ask("status", brief=True)
    answer = {
        "schema": 1,
        "model": state["model"],
        "model_version": state["model_version"],
        "bundle": state["bundle"],
        "version": state["version"],
        "took_ms": 0.0 if said is None else said["took_ms"],
    }
    already = " already" if said is None else ""
    text = f"{_named(answer)} is in force{already}; plan {state['version']}"
    print(json.dumps(answer) if options.json else text)
    return EXIT_OK


def _deploy(coordinator: Connection, options: argparse.Namespace) -> dict[str, Any] | None:
    """Send what the coordinator lacks, and order it; None where it is in force already."""
    bundle = bundles.load(find_bundle(options.bundle))
    bundle.verify_files()
    if coordinator.ask("status", brief=True)["bundle"] == bundle.hash.hex():
        return None
    _send(coordinator, bundle)
    said: dict[str, Any] = coordinator.ask(
        "deploy.start",
        bundle=bundle.hash.hex(),
        signature=signing.signature_of(bundle.directory),
        new_input=options.new_input,
    )["rollout"]
    return said


def _send(coordinator: Connection, bundle: Bundle) -> None:
    """Have every file of the bundle at the coordinator: the manifest, then what it names."""
    files = bundle.files
    size = files[bundle.hash].stat().st_size
    while True:
        missing = coordinator.ask(
            "deploy.begin", UPLOAD_TIMEOUT_MS, bundle=bundle.hash.hex(), bytes=size
        )["missing"]
        if not missing:
            return
        total = sum(-(-(file["bytes"] - file["have"]) // CHUNK_BYTES) for file in missing)
        pieces = (
            piece
            for file in missing
            for piece in _pieces(coordinator, files[bytes.fromhex(file["sha256"])], file)
        )
        for _ in bar(pieces, total, "sending"):
            pass


def _pieces(coordinator: Connection, path: Path, file: dict[str, Any]) -> Iterator[int]:
    """Send a file from where the coordinator has it; the bytes that it has by then."""
    have = int(file["have"])
    with path.open("rb") as source:
        while have < file["bytes"]:
            source.seek(have)
            data = source.read(CHUNK_BYTES)
            told = coordinator.ask(
                "deploy.put", UPLOAD_TIMEOUT_MS, sha256=file["sha256"], offset=have, data=data
            )
            have = int(told["have"])
            yield have


def _wait(coordinator: Connection, digest: str, timeout_s: float) -> dict[str, Any]:
    """Wait until it is in force; raises ContinuerError where it was given up, or takes longer."""
    deadline = time.monotonic() + timeout_s
    sys.stderr.write("ordered, waiting until every box holds it ready\n")
    while True:
        state = coordinator.ask("status", brief=True)
        said: dict[str, Any] = state["rollout"] or {}
        if said.get("bundle") != digest:
            raise ContinuerError(
                f"deploy: the coordinator knows nothing of it any more, and {_named(state)} is in "
                "force; if it has restarted, deploy again"
            )
        if said["state"] == "in_force":
            return said
        if said["state"] == "failed":
            at = f" on {', '.join(said['nodes'])}" if said["nodes"] else ""
            raise ContinuerError(
                f"deploy: {_named(said)} was given up{at}: {said['problem']}; "
                f"{_named(state)} goes on serving"
            )
        if time.monotonic() > deadline:
            raise ContinuerError(
                f"deploy: {_named(said)} is still {said['state']} after {timeout_s:g} s; it goes "
                "on, see 'continuer status', or give it up with 'continuer deploy --cancel'"
            )
        time.sleep(POLL_S)


def _named(said: dict[str, Any]) -> str:
    """``resnet32-cifar10 1.0.0 (0123456789abcdef)``."""
    return f"{said['model']} {said['model_version']} ({said['bundle'][:16]})"
