"""``continuer model keygen`` and ``model sign``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from continuer.bundle import load
from continuer.catalog import find_bundle
from continuer.cli_help import add_verb
from continuer.errors import EXIT_OK
from continuer.security import signing


def add_parsers(verbs: Any) -> None:
    """Add both to the verbs of ``continuer model``."""
    keygen = add_verb(
        verbs,
        "keygen",
        "make a key to sign bundles with",
        "continuer model keygen ~/bundles.pem",
        "Keep the file off the boxes. What is printed goes into 'trusted_keys' of agent.toml.",
    )
    keygen.add_argument("file", type=Path)
    keygen.set_defaults(handler=run_keygen)
    sign = add_verb(
        verbs,
        "sign",
        "sign a bundle, so that boxes run it",
        "continuer model sign ./mine --key ~/bundles.pem",
        "Checks every file first. Writes manifest.sig beside the manifest.",
    )
    sign.add_argument("bundle", metavar="BUNDLE", help="name of an installed bundle, or its path")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="of 'model keygen'")
    sign.set_defaults(handler=run_sign)
    for verb in (keygen, sign):
        verb.add_argument("--json", action="store_true", help="print one JSON object")


def run_keygen(args: argparse.Namespace) -> int:
    """Make a key, print the public one as a line of ``agent.toml``."""
    public = signing.new_key(args.file)
    print(json.dumps({"schema": 1, "public": public}) if args.json else _line(public))
    return EXIT_OK


def run_sign(args: argparse.Namespace) -> int:
    """Sign a bundle whose files are all there and unaltered."""
    bundle = load(find_bundle(args.bundle))
    bundle.verify_files()
    public = signing.sign(bundle, args.key)
    answer = {"schema": 1, "bundle": bundle.hash.hex(), "public": public}
    text = f"{bundle.directory / signing.FILE}: signed; boxes that trust it have\n{_line(public)}"
    print(json.dumps(answer) if args.json else text)
    return EXIT_OK


def _line(public: str) -> str:
    return f'trusted_keys = ["{public}"]'
