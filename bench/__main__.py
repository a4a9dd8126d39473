"""``make bench``: the figures of this machine, in ``bench/results.json``.

``python -m bench outage --runs 20`` continues a campaign of demos; any of ``chain``,
``agent``, ``decide``, ``scale``, ``masked``, ``alarms`` and ``techniques`` can be named, several
too; without arguments everything but ``techniques``. Campaigns append to files and go on where
they were interrupted. ``--quick`` measures all of it in under five minutes, in few runs each
and anew every time, for a look and not for a claim.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import agent, alarms, chain, decide, masked, outage, scale
from continuer import bundle as bundles
from continuer.catalog import find_bundle
from tests.root.network import lacking

HERE = Path(__file__).resolve().parent
TECHNIQUES = ("repartition", "early_exit", "skip")
#: What the results have, whether it was measured or not.
OUTAGE = ("n", "worst_position", "p50_ms", "p99_ms", "lost", "wrong", "duplicate")
KEYS: dict[str, Any] = {
    "chain": dict.fromkeys(("latency_ratio", "latency_p99_ratio", "throughput_ratio", "interval")),
    "outage": {fault: dict.fromkeys(OUTAGE) for fault in ("kill", "stop", outage.LINK_DOWN)},
    "plan": dict.fromkeys(("detect_to_last_ack_p99_ms", "decide_p99_ms")),
    "false_failovers": {
        condition: dict.fromkeys(("count", "minutes")) for condition in alarms.CONDITIONS
    },
    "masked": dict.fromkeys(("n", "p99_ms", "lost")),
    "scale": dict.fromkeys(("agents", "cpu_percent", "detect_p99_ms", "tell_p99_ms")),
}

Found = dict[str, Any]


def measure_chain(options: argparse.Namespace) -> Found:
    """Latency and throughput over the bare chain."""
    count = 150 if options.quick else 500
    pairs = 1 if options.quick else options.pairs
    return {"chain": chain.measure(find_bundle(options.model), nodes=5, pairs=pairs, count=count)}


def measure_agent(options: argparse.Namespace) -> Found:
    """What an agent takes."""
    bundle = find_bundle(options.model)
    found: Found = {
        **{standby: agent.measure(bundle, standby) for standby in ("all", "none")},
        "ready_s": agent.ready_s(bundle),
        "import_s": agent.import_s(),
        "installed_mb": agent.installed_mb(),
    }
    return {"agent": found}


def measure_outage(options: argparse.Namespace) -> Found:
    """How long nobody is answered when a box dies, and what becomes of the requests."""
    directory = options.campaigns / "outage"
    faults = ("kill", "stop", *(() if lacking() else (outage.LINK_DOWN,)))
    positions = ("n1", "n3") if options.quick else outage.NODES
    outage.campaign(directory, positions=positions, faults=faults, runs=options.runs)
    return {"outage": outage.summary(directory), "plan": outage.plan_figures(directory)}


def measure_masked(options: argparse.Namespace) -> Found:
    """Crashes under a class with two routes."""
    directory = options.campaigns / "masked"
    nodes = ("n1", "n3") if options.quick else outage.NODES
    masked.campaign(find_bundle(options.model), directory, nodes=nodes, runs=options.runs)
    return {"masked": masked.summary(directory)}


def measure_decide(options: argparse.Namespace) -> Found:
    """Decisions on 14 nodes: looked up, and made on the spot."""
    count = 150 if options.quick else 1000
    return {"decide": decide.measure(bundles.load(find_bundle(options.model)), count=count)}


def measure_scale(options: argparse.Namespace) -> Found:
    """One coordinator, many agents."""
    agents, deaths, seconds = (100, 3, 5.0) if options.quick else (200, 20, 20.0)
    return {"scale": scale.measure(agents, deaths, seconds)}


def measure_alarms(options: argparse.Namespace) -> Found:
    """Failovers under conditions that kill nobody."""
    directory = options.campaigns / "alarms"
    conditions = tuple(c for c in alarms.CONDITIONS if c != "loss" or not lacking())
    minutes = 0 if options.quick else options.runs
    alarms.campaign(directory, conditions, minutes)
    return {"false_failovers": alarms.summary(directory)}


def measure_techniques(options: argparse.Namespace) -> Found:
    """Each technique forced, where the node in the middle dies."""
    found: Found = {}
    for technique in TECHNIQUES:
        directory = options.campaigns / technique
        forced = ("--technique", technique)
        outage.campaign(
            directory, positions=("n3",), faults=("kill",), runs=options.runs, options=forced
        )
        found[technique] = outage.summary(directory)["kill"]
    return {"techniques": found}


MEASUREMENTS: dict[str, Callable[[argparse.Namespace], Found]] = {
    "chain": measure_chain,
    "agent": measure_agent,
    "decide": measure_decide,
    "outage": measure_outage,
    "masked": measure_masked,
    "scale": measure_scale,
    "alarms": measure_alarms,
    "techniques": measure_techniques,
}


def main() -> None:
    """Measure what was asked for and merge it into the results."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=", ".join(MEASUREMENTS))
    parser.add_argument("--model", default="resnet32-cifar10")
    parser.add_argument("--runs", type=int, default=1, help="of each position, fault, condition")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of cluster and bare chain")
    parser.add_argument("--quick", action="store_true", help="few runs, under five minutes")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--campaigns", type=Path, default=HERE / "campaigns")
    options = parser.parse_args()
    unknown = set(options.what) - MEASUREMENTS.keys()
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(MEASUREMENTS)}")
    with tempfile.TemporaryDirectory() as scratch:
        if options.quick:
            options.campaigns = Path(scratch)
        found: Found = {}
        for name in options.what or [name for name in MEASUREMENTS if name != "techniques"]:
            print(f"measuring {name}", file=sys.stderr)
            found |= MEASUREMENTS[name](options)
    merge(options.results, found)
    print(json.dumps(found, indent=1))


def merge(path: Path, found: Found) -> None:
    """Keep what was measured before and is not measured now; null what never was."""
    before = json.loads(path.read_text()) if path.exists() else {}
    whole = filled(KEYS, {**before, **found})
    path.write_text(json.dumps(finite({"schema": 1, **whole}), indent=1) + "\n")


def filled(keys: Found, found: Found) -> Found:
    """``found``, with the keys that it lacks, one level below the other."""
    result = dict(found)
    for key, inner in keys.items():
        if isinstance(inner, dict):
            result[key] = filled(inner, found.get(key) or {})
        else:
            result.setdefault(key, inner)
    return result


def finite(value: Any) -> Any:
    """The value with null for what JSON cannot say: an outage that did not end."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
