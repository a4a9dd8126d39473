"""``continuer drill``: let a box die under supervision, and compare with what was predicted."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from continuer.cli_help import add_verb
from continuer.control import add_options, ask
from continuer.demo.cluster import program
from continuer.errors import EXIT_OK, EXIT_UNHEALTHY, ContinuerError, UsageError
from continuer.outage import RequestRecord, outage_ms, read

POLL_S = 0.05
BEFORE_S = 2.0
AFTER_S = 2.0
SETTLED_NS = 300_000_000
MAX_AWAY_S = 60.0
HEALTHY = ("full", "reduced")


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        commands,
        "drill",
        "let a box die under supervision; compare with what was predicted",
        "continuer drill n3\ncontinuer drill n3 --rate 50 --away-s 5 --json",
        "The agent on the box dies as if it was killed, stays away, and comes back on its own. "
        "Requests are sent all the while. Refused where no plan would meet the objectives "
        "without the box, unless --force is given. Exit code 1 where a request was lost, or the "
        "service did not come back as it was.",
    )
    add = parser.add_argument
    add("node", metavar="NODE")
    add("--away-s", type=float, default=3.0, metavar="S", help="default %(default)s, at most 60")
    add("--rate", type=float, default=50.0, metavar="PER_S", help="default %(default)s")
    add("--images", default="random", metavar="SET", help="what is sent; default random")
    add("--budget-ms", type=float, default=5000.0, metavar="MS", help="of each request")
    add("--timeout-s", type=float, default=60.0, metavar="S", help="for the box to come back")
    add("--force", action="store_true", help="also where the objectives would be broken")
    add_options(parser)
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Foresee, kill, watch, compare."""
    if not 0 < options.away_s <= MAX_AWAY_S:
        raise UsageError(f"--away-s {options.away_s:g}: give more than 0, at most {MAX_AWAY_S:g}")
    if not 0 < options.rate < math.inf:
        raise UsageError(f"--rate {options.rate:g}: give a number above 0")
    before = ask(options.coordinator, "status", brief=True)
    predicted = foresee(options, before)
    with tempfile.TemporaryDirectory(prefix="continuer-drill-") as directory:
        raw_log = Path(directory) / "raw.jsonl"
        load = start_load(options, before, raw_log)
        try:
            at_ns = kill(options, load)
            steps = watch(options, before)
            load.wait()
        finally:
            load.kill()
            load.wait()
        requests = read(raw_log).requests
    report = account(options.node, predicted, requests, at_ns, steps)
    print(json.dumps(report) if options.json else describe(report))
    return EXIT_OK if report["passed"] else EXIT_UNHEALTHY


def foresee(options: argparse.Namespace, state: dict[str, Any]) -> dict[str, Any]:
    """What is predicted of the box's death; raises UsageError where it should not die."""
    names = [node["node"] for node in state["nodes"]]
    if options.node not in names:
        raise UsageError(f"NODE {options.node!r}: the nodes are {', '.join(names)}")
    if state["health"] not in HEALTHY:
        raise UsageError(f"the service is {state['health']} already; see 'continuer status'")
    answer = ask(options.coordinator, "plan.what_if", nodes=[[options.node]])
    outcome: dict[str, Any] = answer["what_if"][0]
    if not outcome["feasible"] and not options.force:
        broken = ", ".join(outcome["violations"]) or "nothing could serve"
        raise UsageError(
            f"without {options.node} no plan meets the objectives ({broken}); add nodes, "
            "loosen them with 'continuer objectives set', or give --force"
        )
    return outcome


def start_load(
    options: argparse.Namespace, state: dict[str, Any], raw_log: Path
) -> subprocess.Popen[bytes]:
    """Requests for the whole of the drill."""
    endpoints = [node["ingress"] for node in state["nodes"] if node["ingress"]]
    seconds = BEFORE_S + options.away_s + AFTER_S
    return subprocess.Popen(  # noqa: S603  # our own program
        [
            *program("continuer"),
            "load",
            *(f"--endpoint={endpoint}" for endpoint in endpoints),
            *(f"--images={options.images}", f"--rate={options.rate}", f"--seconds={seconds}"),
            *(f"--budget-ms={options.budget_ms}", f"--raw-log={raw_log}", "--progress"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )


def kill(options: argparse.Namespace, load: subprocess.Popen[bytes]) -> int:
    """Once requests flow, order the death; when that was."""
    assert load.stdout is not None
    if not load.stdout.readline():
        raise ContinuerError(f"the requests could not be sent: exit code {load.wait()}")
    time.sleep(BEFORE_S)
    sys.stderr.write(f"drill: {options.node} dies now, for {options.away_s:g} s\n")
    at_ns = time.monotonic_ns()
    ask(options.coordinator, "drill", node=options.node, away_s=options.away_s)
    return at_ns


def watch(options: argparse.Namespace, before: dict[str, Any]) -> list[dict[str, Any]]:
    """Wait until the box is back at work; the steps that the coordinator took meanwhile."""
    known = len(before["failovers"])
    deadline = time.monotonic() + options.away_s + options.timeout_s
    while True:
        state = ask(options.coordinator, "status", brief=True)
        mine = [f for f in state["failovers"][known:] if options.node in f["nodes"]]
        if mine and state["health"] == before["health"]:
            return [step for failover in mine for step in failover["steps"]]
        if time.monotonic() > deadline:
            if not mine:
                raise ContinuerError(f"{options.node} did not die; see 'continuer logs'")
            raise ContinuerError(
                f"{options.node} died and the service is still {state['health']} after "
                f"{options.away_s + options.timeout_s:g} s; see 'continuer status'"
            )
        time.sleep(POLL_S)


def account(
    node: str,
    predicted: dict[str, Any],
    requests: Sequence[RequestRecord],
    at_ns: int,
    steps: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Predicted beside measured; ``requests`` with the outcome of each."""
    good = [r for r in requests if r.outcome == "ok"]
    counts = {
        "sent": len(requests),
        "answered": len(good),
        "lost": sum(r.outcome == "lost" for r in requests),
        "error": sum(r.outcome == "error" for r in requests),
        "duplicate": sum(r.outcomes > 1 for r in requests),
    }
    meanwhile = {step["technique"] for step in steps}
    delays = [
        (r.done_ns - r.sent_ns) / 1e6
        for r in good
        if r.done_ns is not None and r.technique in meanwhile and r.intended_ns > at_ns + SETTLED_NS
    ]
    outage = outage_ms(list(requests), at_ns)
    foreseen = predicted["steps"]
    last = foreseen[-1] if foreseen else {}
    return {
        "schema": 1,
        "node": node,
        "requests": counts,
        "predicted": {
            "techniques": [step["technique"] for step in foreseen],
            "latency_ms": last.get("latency_ms"),
            "accuracy": last.get("accuracy"),
            "downtime_ms": predicted.get("gap_ms"),
        },
        "measured": {
            "techniques": [step["technique"] for step in steps],
            "latency_ms": round(statistics.median(delays), 3) if delays else None,
            "accuracy": steps[-1]["accuracy"] if steps else None,
            "outage_ms": round(outage, 3) if outage is not None and outage < math.inf else None,
        },
        "passed": counts["answered"] == counts["sent"] > 0 and not counts["duplicate"],
    }


def describe(report: dict[str, Any]) -> str:
    """The report for people."""
    counts, predicted, measured = report["requests"], report["predicted"], report["measured"]
    rows = (
        ("technique", *(" > ".join(side["techniques"]) for side in (predicted, measured))),
        ("gap", shown(predicted["downtime_ms"]), shown(measured["outage_ms"])),
        ("latency", shown(predicted["latency_ms"]), shown(measured["latency_ms"])),
    )
    return "\n".join(
        (
            f"drill of {report['node']}: {'passed' if report['passed'] else 'FAILED'}",
            "requests   " + "  ".join(f"{key} {value}" for key, value in counts.items()),
            f"{'':11}{'predicted':>24}{'measured':>24}",
            *(f"{name:11}{one:>24}{other:>24}" for name, one, other in rows),
        )
    )


def shown(value: float | None) -> str:
    """Milliseconds, or a dash."""
    return "-" if value is None else f"{value:.2f} ms"
