"""``make bench``: the figures of this machine, in ``bench/results.json``.

``python -m bench outage --runs 20`` continues a campaign of demos; ``chain``, ``agent`` and
``techniques`` measure one thing; without arguments everything, in few runs. ``masked`` continues
crashes under a class with two routes; ``decide`` times decisions on 14 nodes.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from bench import agent, chain, decide, masked, outage
from continuer import bundle as bundles
from continuer.catalog import find_bundle
from tests.root.network import lacking

HERE = Path(__file__).resolve().parent
TECHNIQUES = ("repartition", "early_exit", "skip")


def main() -> None:
    """Measure what was asked for and merge it into the results."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="*", help="chain, agent, outage, techniques, masked, decide")
    parser.add_argument("--model", default="resnet32-cifar10")
    parser.add_argument("--runs", type=int, default=1, help="demos per position and fault")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of cluster and bare chain")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--campaigns", type=Path, default=HERE / "campaigns")
    options = parser.parse_args()
    bundle = find_bundle(options.model)
    wanted = options.what or ["chain", "agent", "outage"]
    found: dict[str, Any] = {}
    if "chain" in wanted:
        found["chain"] = chain.measure(bundle, nodes=5, pairs=options.pairs, count=500)
    if "agent" in wanted:
        found["agent"] = {
            **{standby: agent.measure(bundle, standby) for standby in ("all", "none")},
            "ready_s": agent.ready_s(bundle),
            "import_s": agent.import_s(),
            "installed_mb": agent.installed_mb(),
        }
    if "outage" in wanted:
        directory = options.campaigns / "outage"
        faults = ("kill", "stop", *(() if lacking() else (outage.LINK_DOWN,)))
        outage.campaign(directory, positions=outage.NODES, faults=faults, runs=options.runs)
        found["outage"] = outage.summary(directory)
        found["plan"] = outage.plan_figures(directory)
    if "masked" in wanted:
        directory = options.campaigns / "masked"
        masked.campaign(bundle, directory, nodes=outage.NODES, runs=options.runs)
        found["masked"] = masked.summary(directory)
    if "decide" in wanted:
        found["decide"] = decide.measure(bundles.load(bundle), count=1000)
    if "techniques" in wanted:
        found["techniques"] = {}
        for technique in TECHNIQUES:
            directory = options.campaigns / technique
            forced = ("--technique", technique)
            outage.campaign(
                directory, positions=("n3",), faults=("kill",), runs=options.runs, options=forced
            )
            found["techniques"][technique] = outage.summary(directory)["kill"]
    merge(options.results, found)
    print(json.dumps(found, indent=1))


def merge(path: Path, found: dict[str, Any]) -> None:
    """Keep what was measured before and is not measured now."""
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(finite({"schema": 1, **before, **found}), indent=1) + "\n")


def finite(value: Any) -> Any:
    """The value with null for what JSON cannot say: an outage that did not end."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
