"""``make bench``: the figures of this machine, in ``bench/results.json``.

``python -m bench outage --runs 20`` continues a campaign of demos; any of ``chain``,
``agent``, ``decide``, ``scale``, ``masked``, ``alarms``, ``pairs``, ``heal``, ``techniques``,
``soak``, ``alone``, ``own_process``, ``keys`` and ``enrol`` can be named, several too; without
arguments everything but the last six.
Campaigns append to files and go on where they were left; ``--minutes`` ends a part of one between
two runs. ``--quick`` measures all of it in under five minutes, in few runs each and anew every
time, for a look and not for a claim.
"""

from __future__ import annotations

import argparse
import json
import math
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench import (
    agent,
    alarms,
    alone,
    chain,
    decide,
    enrol,
    heal,
    masked,
    outage,
    pairs,
    scale,
    sides,
    soak,
)
from continuer import bundle as bundles
from continuer.catalog import find_bundle
from tests.root.network import lacking

HERE = Path(__file__).resolve().parent
QUICK_ALARMS_S = 10
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
    chosen = tuple(fault for fault in faults if fault in (options.faults or faults))
    outage.campaign(
        directory, positions=positions, faults=chosen, runs=options.runs, until_s=options.until_s
    )
    return {"outage": outage.summary(directory), "plan": outage.plan_figures(directory)}


def measure_masked(options: argparse.Namespace) -> Found:
    """Crashes under a class with two routes."""
    directory = options.campaigns / "masked"
    nodes = ("n1", "n3") if options.quick else outage.NODES
    masked.campaign(
        *(find_bundle(options.model), directory),
        nodes=nodes,
        runs=options.runs,
        until_s=options.until_s,
    )
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
    if options.quick:
        alarms.campaign(directory, conditions, 1, run_s=QUICK_ALARMS_S)
    else:
        alarms.campaign(directory, conditions, options.runs)
    return {"false_failovers": alarms.summary(directory)}


def measure_pairs(options: argparse.Namespace) -> Found:
    """Two nodes killed within 50 ms."""
    directory = options.campaigns / "pairs"
    chosen = pairs.PAIRS[::7] if options.quick else pairs.PAIRS
    pairs.campaign(
        *(bundles.load(find_bundle(options.model)), directory),
        runs=options.runs,
        pairs=chosen,
        until_s=options.until_s,
    )
    return {"pairs": pairs.summary(directory)}


def measure_heal(options: argparse.Namespace) -> Found:
    """From a crash back to full accuracy, with nothing to spare in memory."""
    directory = options.campaigns / "heal"
    nodes = ("n1", "n3") if options.quick else outage.NODES
    heal.campaign(
        *(bundles.load(find_bundle(options.model)), directory),
        nodes=nodes,
        runs=options.runs,
        until_s=options.until_s,
    )
    return {"heal": heal.summary(directory)}


def measure_techniques(options: argparse.Namespace) -> Found:
    """Each technique forced, where the node in the middle dies."""
    found: Found = {}
    for technique in TECHNIQUES:
        directory = options.campaigns / technique
        forced = ("--technique", technique)
        outage.campaign(
            directory, positions=("n3",), faults=("kill",), runs=options.runs, options=forced,
            until_s=options.until_s,
        )  # fmt: skip
        found[technique] = outage.summary(directory)["kill"]
    return {"techniques": found}


def measure_soak(options: argparse.Namespace) -> Found:
    """Minutes of requests through mixed faults."""
    if reason := lacking():
        raise SystemExit(f"soak: {reason}")
    directory = options.campaigns / "soak"
    seconds = 60 * (options.minutes or soak.MINUTES)
    seed = options.seed or secrets.token_hex(4)
    print(f"seed {seed}", file=sys.stderr)
    soak.run(directory, seconds=seconds, seed=seed, rate_per_s=options.rate)
    return {"soak": soak.summary(directory)}


def measure_alone(options: argparse.Namespace) -> Found:
    """Minutes without the coordinator, then one more death."""
    directory = options.campaigns / "alone"
    minutes = options.minutes or alone.MINUTES
    alone.campaign(directory, nodes=("n3",), minutes=minutes, rate_per_s=options.rate)
    return {"alone": alone.summary(directory)}


def measure_own_process(options: argparse.Namespace) -> Found:
    """What a process of its own for the network costs."""
    return {"own_process": _sides(options, sides.OWN_PROCESS)}


def measure_keys(options: argparse.Namespace) -> Found:
    """What keys, and with them encryption, cost."""
    return {"keys": _sides(options, sides.KEYS)}


def _sides(options: argparse.Namespace, compared: Mapping[str, dict[str, Any]]) -> Found:
    count, pairs = (150, 1) if options.quick else (500, options.pairs)
    return sides.measure(find_bundle(options.model), compared, pairs=pairs, count=count)


def measure_enrol(options: argparse.Namespace) -> Found:
    """How long a fresh box takes to join."""
    return {"enrol": enrol.measure(find_bundle(options.model), max(3, options.runs))}


#: What takes long enough to be asked for.
ON_REQUEST = ("techniques", "soak", "alone", "own_process", "keys", "enrol")
MEASUREMENTS: dict[str, Callable[[argparse.Namespace], Found]] = {
    "chain": measure_chain,
    "agent": measure_agent,
    "decide": measure_decide,
    "own_process": measure_own_process,
    "keys": measure_keys,
    "enrol": measure_enrol,
    "outage": measure_outage,
    "masked": measure_masked,
    "scale": measure_scale,
    "alarms": measure_alarms,
    "pairs": measure_pairs,
    "heal": measure_heal,
    "techniques": measure_techniques,
    "soak": measure_soak,
    "alone": measure_alone,
}


def main() -> int:
    """Measure what was asked for and merge it into the results; 1 where a soak found something."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=", ".join(MEASUREMENTS))
    parser.add_argument("--model", default="resnet32-cifar10")
    parser.add_argument("--runs", type=int, default=1, help="of each position, fault, condition")
    parser.add_argument("--faults", nargs="+", choices=KEYS["outage"], help="outage: only these")
    parser.add_argument("--minutes", type=float, help="campaigns: begin no run after so long")
    parser.add_argument("--seed", help="soak: a word that decides the faults")
    parser.add_argument("--rate", type=float, default=100.0, help="soak, alone: requests a second")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of cluster and bare chain")
    parser.add_argument("--quick", action="store_true", help="few runs, under five minutes")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--campaigns", type=Path, default=HERE / "campaigns")
    options = parser.parse_args()
    options.until_s = time.monotonic() + 60 * (options.minutes or math.inf)
    unknown = set(options.what) - MEASUREMENTS.keys()
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(MEASUREMENTS)}")
    with tempfile.TemporaryDirectory() as scratch:
        if options.quick:
            options.campaigns = Path(scratch)
        found: Found = {}
        for name in options.what or [name for name in MEASUREMENTS if name not in ON_REQUEST]:
            print(f"measuring {name}", file=sys.stderr)
            found |= MEASUREMENTS[name](options)
    merge(options.results, found)
    print(json.dumps(found, indent=1))
    return int(bool(found.get("soak", {}).get("spoilt_seeds")))


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
    sys.exit(main())
