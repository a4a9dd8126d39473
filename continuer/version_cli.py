"""``continuer version``: what runs here, for a report of a defect."""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from continuer import __version__
from continuer.cli_help import add_verb
from continuer.errors import EXIT_OK
from continuer.wire import PROTOCOL

# What a wrong or missing version of would matter.
PACKAGES = (
    *("ai-edge-litert", "msgpack", "msgspec", "numpy", "prometheus-client", "pyzmq", "structlog"),
    *("systemd-python", "pillow", "rich"),
)


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        commands,
        "version",
        "versions of CONTINUER, its protocol, Python and packages",
        "continuer version\ncontinuer version --json",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Print the versions."""
    found = versions()
    print(json.dumps(found) if options.json else describe(found))
    return EXIT_OK


def versions() -> dict[str, Any]:
    """Versions as plain data; None for a package that is not installed."""
    return {
        "schema": 1,
        "continuer": __version__,
        "protocol": PROTOCOL,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: package_version(name) for name in PACKAGES},
    }


def package_version(name: str) -> str | None:
    """An installed package's version; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def describe(found: dict[str, Any]) -> str:
    """The versions for people."""
    lines = [
        f"continuer {found['continuer']}, protocol {found['protocol']}",
        f"Python {found['python']} on {found['system']}",
    ]
    installed = {name: number for name, number in found["packages"].items() if number}
    return "\n".join([*lines, *(f"  {name:<18} {number}" for name, number in installed.items())])
