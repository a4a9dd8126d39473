"""``continuer predictors``: build a table, say what it says, evaluate predictions."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from continuer import bundle as bundles
from continuer import table as tables
from continuer.catalog import find_bundle
from continuer.cli_help import with_examples
from continuer.errors import EXIT_OK, ContinuerError, UsageError
from continuer.table import Table
from predictors.machine import this_machine

#: The training runs of the repository; they are not installed with the package.
RUNS = Path(__file__).resolve().parents[1] / "models" / "runs"
#: Where the shipped profile and the latencies measured through a chain are.
PROFILES = Path(__file__).resolve().parent / "profiles"
CHAIN = PROFILES / "chain.jsonl"
MAX_SLOWDOWN = 1000
BUILD_EXAMPLES = """\
examples:
  continuer predictors build --model resnet32-cifar10 --profile profile.json --out fleet.table
  continuer predictors build --model resnet32-cifar10 --profile pi=pi4.json --profile nuc=nuc.json
      --node n1=pi --node n2=pi --node n3=nuc --out fleet.table

A FILE is what 'continuer profile' wrote. Then set tables = "fleet.table" in coordinator.toml.
"""
EVALUATE_EXAMPLES = """\
examples:
  continuer predictors evaluate --no-measured
  continuer predictors evaluate --no-measured --measure --chain chain.jsonl --plots docs

Without --no-measured, measured values are used where there are some, as decisions do. Measuring
starts real clusters on this machine, for some minutes; it goes on where it was ended.
"""


def add_parser(commands: Any) -> None:
    """Add the verbs to the command line."""
    parser = commands.add_parser("predictors", help="latency and accuracy known beforehand")
    verbs = parser.add_subparsers(metavar="build|show|evaluate", required=True)
    _add_build(verbs)
    _add_show(verbs)
    _add_evaluate(verbs)


def _add_build(verbs: Any) -> None:
    build = verbs.add_parser(
        "build",
        help="write the table of a bundle and a fleet",
        epilog=BUILD_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = build.add_argument
    add("--model", required=True, metavar="MODEL", help="a bundle's directory, or a shipped one")
    add("--profile", action="append", default=[], metavar="[KIND=]FILE", help="may be repeated")
    add("--slowdown", action="append", default=[], metavar="KIND=X", help="slower than its profile")
    add("--node", action="append", default=[], metavar="NODE=KIND", help="default: all one kind")
    add("--runs", type=Path, default=RUNS, metavar="DIR", help="training runs; default: shipped")
    add("--weights", metavar="RUN", help="the run whose weights the bundle has")
    add("--out", type=Path, required=True, metavar="TABLE")
    build.set_defaults(handler=run_build)


def run_build(options: argparse.Namespace) -> int:
    """Build a table and write it. Raises UsageError, and what reading profiles and runs raises."""
    with learning():
        from predictors import building
        from predictors.accuracy_runs import find_runs
    bundle = bundles.load(find_bundle(options.model))
    bundle.verify_files()
    slowdowns = {kind: _factor(kind, text) for kind, text in _pairs("--slowdown", options.slowdown)}
    files = dict(_pairs("--profile", options.profile, alone="box"))
    for kind in slowdowns.keys() - files.keys():
        raise UsageError(f"--slowdown {kind}: no --profile {kind}=FILE is given")
    kinds = {
        kind: building.Kind(building.latency_model(Path(file)), slowdowns.get(kind, 1.0))
        for kind, file in files.items()
    }
    nodes = dict(_pairs("--node", options.node))
    if not nodes and len(kinds) == 1:
        nodes = {"*": next(iter(kinds))}
    runs = find_runs(options.runs)
    weights = building.run_of(bundle, runs, options.weights)
    accuracies = building.Accuracies(runs, weights) if weights is not None else None
    started = time.perf_counter()
    table = building.build_table(bundle, kinds, nodes, accuracies)
    took_s = time.perf_counter() - started
    tables.save(table, options.out)
    size = options.out.stat().st_size
    note(f"{options.out}: {size} bytes, {len(kinds)} kinds of boxes, {len(table.accuracies)} "
         f"variants, predicted in {took_s:.2f} s")  # fmt: skip
    if table.provenance.note:
        note(table.provenance.note)
    return EXIT_OK


def _pairs(
    option: str, values: Sequence[str], alone: str | None = None
) -> Iterator[tuple[str, str]]:
    """``NAME=VALUE`` as given; ``alone`` is the name of a value that stands for itself."""
    seen = set()
    for text in values:
        name, equals, value = text.partition("=")
        if not equals and alone is not None:
            name, value = alone, text
        if not name or not value:
            raise UsageError(
                f"{option} {text}: give {'[' if alone else ''}NAME={']' if alone else ''}VALUE"
            )
        if name in seen:
            raise UsageError(f"{option} {text}: {name!r} is given twice; give each once")
        seen.add(name)
        yield name, value


def _factor(kind: str, text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 1 <= factor <= MAX_SLOWDOWN:
        raise UsageError(f"--slowdown {kind}={text}: give a factor from 1 to {MAX_SLOWDOWN}")
    return factor


@contextmanager
def learning() -> Iterator[None]:
    """Imports of the learning libraries; says what to install where they are missing."""
    try:
        yield
    except ImportError as error:
        raise ContinuerError(
            f"predictors: {error}; install what learns with: pip install 'continuer[predictors]'"
        ) from error


def note(text: str) -> None:
    """Progress and remarks, on standard error."""
    print(text, file=sys.stderr, flush=True)


def _add_show(verbs: Any) -> None:
    show = verbs.add_parser(
        "show",
        help="what a table says, and where it comes from",
        **with_examples("continuer predictors show table.json"),
    )
    show.add_argument("table", type=Path, metavar="TABLE")
    show.add_argument("--model", metavar="MODEL", help="check that it was made for this bundle")
    show.add_argument("--json", action="store_true")
    show.set_defaults(handler=run_show)


def run_show(options: argparse.Namespace) -> int:
    """Print a table. Raises TableError for one that the coordinator would refuse."""
    bundle = bundles.load(find_bundle(options.model)) if options.model else None
    table = tables.load(options.table, bundle)
    parts = list(bundle.part_names) if bundle else None
    print(json.dumps(as_json(table, parts)) if options.json else describe(table, parts))
    return EXIT_OK


def _add_evaluate(verbs: Any) -> None:
    evaluate = verbs.add_parser(
        "evaluate",
        help="the paper's tables of prediction errors, and ours",
        epilog=EVALUATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = evaluate.add_argument
    add("--json", action="store_true")
    add("--no-measured", action="store_true", help="predictions alone, no measured values")
    add("--profile", type=Path, metavar="FILE", help="default: the shipped one, if any")
    add("--runs", type=Path, default=RUNS, metavar="DIR", help="training runs; default: shipped")
    add("--chain", type=Path, default=CHAIN, metavar="FILE", help="latencies of plans in a chain")
    add("--measure", action="store_true", help="first measure what the chain's file lacks")
    add("--plots", type=Path, metavar="DIR", help="write plots of measured against predicted")
    evaluate.set_defaults(handler=run_evaluate)


def run_evaluate(options: argparse.Namespace) -> int:
    """Evaluate and print. Raises UsageError, and what reading profiles and runs raises."""
    with learning():
        from predictors import chain, evaluate, evaluate_plots, evaluate_text
        from predictors import profile as profiles
        from predictors.accuracy_runs import find_runs
    runs = find_runs(options.runs)
    file = options.profile or next(iter(sorted(PROFILES.glob("*.profile.json"))), None)
    profile = profiles.load(file) if file is not None else None
    if options.measure:
        for network in evaluate.NETWORKS:
            bundle = evaluate.bundle_of(network)
            if bundle is not None:
                chain.measure(bundle.directory, options.chain, this_machine().cpu, note)
    found = evaluate.evaluate(profile, runs, options.chain, measured=not options.no_measured)
    if options.plots is not None:
        assert found.material is not None
        assert found.predictions is not None
        options.plots.mkdir(parents=True, exist_ok=True)
        for path in evaluate_plots.plot(
            options.plots, found.plans, found.material, found.predictions
        ):
            note(f"{path}")
    report = found.report
    print(json.dumps(report) if options.json else evaluate_text.describe(report))
    return EXIT_OK


def as_json(table: Table, parts: list[str] | None = None) -> dict[str, Any]:
    """The table as plain data; parts by name where these are known, else by number."""

    def latencies(values: tuple[float, ...]) -> dict[str, float]:
        names = parts or [str(number) for number in range(len(values))]
        return {name: round(us / 1e3, 5) for name, us in zip(names, values, strict=True)}

    return {
        "schema": 1,
        "model": table.model,
        "bundle": table.bundle.hex(),
        "nodes": table.nodes,
        "kinds": {
            name: {
                "cpu": kind.cpu,
                "profile": kind.profile,
                "slowdown": kind.slowdown,
                "latency_ms": latencies(kind.latency_us),
            }
            for name, kind in table.kinds.items()
        },
        "accuracies": [
            {
                "exit": entry.exit,
                "skipped": list(entry.skipped),
                "accuracy": round(entry.accuracy, 5),
                "interval_95": [round(entry.low, 5), round(entry.high, 5)],
            }
            for entry in table.accuracies
        ],
        "provenance": {
            name: getattr(table.provenance, name) for name in table.provenance.__struct_fields__
        },
    }


def describe(table: Table, parts: list[str] | None = None) -> str:
    """The table for people: where it comes from, then a line a part and a line a variant."""
    made = table.provenance
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    bundle = table.bundle.hex()[:16]
    lines = [f"table for {table.model}, bundle {bundle}, built {made.built} ({versions})"]
    nodes: dict[str, list[str]] = {}
    for node, kind_name in table.nodes.items():
        nodes.setdefault(kind_name, []).append("any other" if node == "*" else node)
    for name, kind in table.kinds.items():
        slower = f", {kind.slowdown:g} times as slow" if kind.slowdown != 1 else ""
        lines.append(
            f"kind {name}: {', '.join(nodes.get(name, ['no node']))}; {kind.cpu or 'unknown CPU'}"
            f"{slower}, all parts {sum(kind.latency_us) / 1e3:.3f} ms"
        )
    if made.weights:
        lines.append(f"accuracy of the weights of {made.weights}, from {len(made.runs)} runs")
    if made.note:
        lines.append(made.note)
    for number in range(len(next(iter(table.kinds.values())).latency_us) if table.kinds else 0):
        costs = "".join(f"{k.latency_us[number] / 1e3:>10.4f}" for k in table.kinds.values())
        lines.append(f"  {parts[number] if parts else f'part {number}':<12}{costs} ms")
    for entry in table.accuracies:
        variant = entry.exit or ("skip " + " ".join(entry.skipped) if entry.skipped else "full")
        lines.append(
            f"  {variant}: {100 * entry.accuracy:.2f} % "
            f"({100 * entry.low:.2f} to {100 * entry.high:.2f})"
        )
    return "\n".join(lines)
