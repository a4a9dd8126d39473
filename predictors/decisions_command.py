"""``continuer plan evaluate``: the paper's Tables VII and VIII beside ours."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from continuer.cli_help import add_verb
from continuer.errors import EXIT_OK
from predictors.decisions import evaluate, load

RECORDED = Path(__file__).resolve().parent / "recorded" / "decisions.json"
#: Agreement in per cent, on both of the paper's platforms; least and most milliseconds.
PAPER_7 = {"resnet32-cifar10": "99.86, 99.86", "mobilenetv2-cifar10": "86.12, 99.83"}
PAPER_8 = {"resnet32-cifar10": "1.83 to 3.56", "mobilenetv2-cifar10": "9.28 to 16.82"}


def add_parser(verbs: Any) -> None:
    """Add the verb to ``continuer plan``."""
    parser = add_verb(
        verbs,
        "evaluate",
        "would measured values have chosen the same? the paper's Tables VII and VIII",
        "continuer plan evaluate\ncontinuer plan evaluate --measured decisions.json --json",
    )
    add = parser.add_argument
    add("--measured", type=Path, default=RECORDED, metavar="FILE", help="default: the shipped one")
    add("--json", action="store_true", help="one JSON object on standard output")
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Print both tables."""
    found = evaluate(load(options.measured))
    if options.json:
        print(json.dumps(found))
        return EXIT_OK
    print(
        f"{'network':24}{'same choice':>12}{'paper':>15}{'regret':>9}{'instances':>11}{'ties':>6}"
    )
    for network, row in found["table_7"].items():
        print(
            f"{network:24}{shown(row['agreement_percent'], ' %'):>12}{PAPER_7.get(network, ''):>15}"
            f"{shown(row['regret_percent'], ' %'):>9}{row['instances']:>11}{row['ties']:>6}"
        )
    print(f"\n{'network':24}{'select, p50':>13}{'p99':>11}{'paper':>17}{'n':>5}")
    for network, row in found["table_8"].items():
        print(
            f"{network:24}{shown(row['p50_ms'], ' ms'):>13}{shown(row['p99_ms'], ' ms'):>11}"
            f"{PAPER_8.get(network, ''):>14} ms{row['n']:>5}"
        )
    return EXIT_OK


def shown(value: float | None, unit: str) -> str:
    """A figure and its unit, or a dash."""
    return "-" if value is None else f"{value}{unit}"
