"""``continuer plan evaluate``: the paper's Tables VII and VIII beside ours."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from continuer.cli_help import add_verb
from continuer.errors import EXIT_OK
from predictors.commands import learning
from predictors.decisions_record import read

RECORDED = Path(__file__).resolve().parent / "recorded" / "decisions.jsonl"
#: Agreement in per cent, on both of the paper's platforms; least and most milliseconds.
PAPER_7 = {"resnet32-cifar10": "99.86, 99.86", "mobilenetv2-cifar10": "86.12, 99.83"}
PAPER_8 = {"resnet32-cifar10": "1.83 to 3.56", "mobilenetv2-cifar10": "9.28 to 16.82"}
SCALINGS = {
    "table_7": "metrics scaled between a node's techniques, as in the paper",
    "table_7_as_operated": "metrics scaled as the coordinator scales them",
}


def add_parser(verbs: Any) -> None:
    """Add the verb to ``continuer plan``."""
    parser = add_verb(
        verbs,
        "evaluate",
        "would measured values have chosen the same? the paper's Tables VII and VIII",
        "continuer plan evaluate\ncontinuer plan evaluate --measured decisions.jsonl --json",
    )
    add = parser.add_argument
    add("--measured", type=Path, default=RECORDED, metavar="FILE", help="default: the shipped one")
    add("--json", action="store_true", help="one JSON object on standard output")
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Print both tables."""
    with learning():
        from predictors.decisions import evaluate
    found = evaluate(read(options.measured))
    if options.json:
        print(json.dumps(found))
        return EXIT_OK
    passes = {use: len(numbers) for use, numbers in found["passes"].items()}
    print(
        f"Predictions are calibrated with {passes['calibration']} passes of the campaign "
        f"and judged by {passes['evaluation']} others."
    )
    for key, scaling in SCALINGS.items():
        print_choices(found[key], scaling)
    print(f"\n{'network':24}{'latency off by':>15}{'downtime off by':>17}{'runs judged':>13}")
    for network, row in found["errors"].items():
        print(
            f"{network:24}{row['latency_error_percent']:>13} %{row['downtime_error_ms']:>14} ms"
            f"{row['runs']:>13}"
        )
    print(f"\n{'network':24}{'select, p50':>13}{'p99':>11}{'paper':>17}{'n':>5}")
    for network, row in found["table_8"].items():
        print(
            f"{network:24}{shown(row['p50_ms'], ' ms'):>13}{shown(row['p99_ms'], ' ms'):>11}"
            f"{PAPER_8.get(network, ''):>14} ms{row['n']:>5}"
        )
    return EXIT_OK


def print_choices(table: dict[str, dict[str, Any]], scaling: str) -> None:
    """Table VII with one way to scale. Ties are within the noise of measuring."""
    print(f"\n{scaling}:")
    print(
        f"{'network':24}{'same choice':>12}{'paper':>15}{'regret':>9}{'instances':>11}"
        f"{'ties':>6}{'same, ties too':>16}"
    )
    for network, row in table.items():
        print(
            f"{network:24}{shown(row['agreement_percent'], ' %'):>12}{PAPER_7.get(network, ''):>15}"
            f"{shown(row['regret_percent'], ' %'):>9}{row['instances']:>11}{row['ties']:>6}"
            f"{shown(row['with_ties_agreement_percent'], ' %'):>16}"
        )


def shown(value: float | None, unit: str) -> str:
    """A figure and its unit, or a dash."""
    return "-" if value is None else f"{value}{unit}"
