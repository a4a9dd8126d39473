"""Every technique forced at every failing node, again and again: predicted beside measured.

What ``continuer plan evaluate`` compares. A session is a fresh cluster of five agents whose
coordinator may use one technique only; one node after the other is killed, while one request is
under way, and comes back. Predicted is what the coordinator says beforehand of the plan and of
the chosen candidate. Measured are the median time of requests one after the other, before the
fault and once the plan without the node has settled; the time from the fault to the first answer
by the new route; and for the accuracy what the manifest has measured on the test images.

A pass is a session of every technique and network. Passes with an even number are for
calibration, the others for evaluation; both alternate, so that they see the same machine.

    python -m bench.decisions FILE [--seconds 540] [--passes 20] [--model NAME]...
        [--table NAME=TABLE]...

appends to FILE and goes on where it stopped; ``--seconds`` ends it after so long.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from bench.outage import NODES
from continuer import bundle as bundles
from continuer import table as tables
from continuer.bundle import Bundle
from continuer.catalog import find_bundle
from continuer.client import Answer, Client
from continuer.config import CoordinatorConfig
from continuer.demo.cluster import Cluster
from continuer.errors import ContinuerError, RequestError
from continuer.load import inputs_for
from continuer.table import Table
from predictors.decisions_record import TECHNIQUES, Figures, Run, read

MODELS = ("resnet32-cifar10", "mobilenetv2-cifar10")
RATE_PER_S = 100
#: A request has left its ingress and has not come to the end of its route.
UNDER_WAY_NS = 300_000
WARM_UP = 10
REQUESTS = 60
SETTLE_S = 0.25
BUDGET_MS = 5000.0
#: A killed process is known by its closed link; others are not to be taken for dead.
TIMEOUT_MS = 900.0
HOP_MS = CoordinatorConfig(bundle="", nodes=()).hop_us / 1e3


class Session:
    """One cluster in which one technique is forced."""

    def __init__(self, bundle: Bundle, technique: str, table: Table | None, number: int) -> None:
        self._bundle, self._technique = bundle, technique
        self._table, self._number = table, number

    def run(self, nodes: Sequence[str]) -> Iterator[Run]:
        """Kill each of the nodes in turn; what was found of each."""
        with tempfile.TemporaryDirectory() as directory:
            cluster = Cluster(
                Path(directory),
                self._bundle.directory,
                list(NODES),
                coordinator={
                    "technique": self._technique,
                    "expected_rate_per_s": RATE_PER_S,
                    "return_stable_ms": 200,
                    "heartbeat_timeout_ms": TIMEOUT_MS,
                },
            )
            try:
                cluster.start_all()
                with Client(cluster.endpoints) as client:
                    inputs, _ = inputs_for(client.input, "random", 0)
                    for node in nodes:
                        yield self._one(cluster, client, inputs, node)
            finally:
                cluster.stop_all()

    def _one(self, cluster: Cluster, client: Client, inputs: Sequence[Any], node: str) -> Run:
        cluster.wait_until(lambda state: state["health"] == "full", "every node to be at work")
        time.sleep(SETTLE_S)
        run = Run(self._bundle.name, self._number, node, self._technique)
        state = cluster.status()
        (decision,) = (d for d in state["contingencies"] if d["nodes"] == [node])
        if not decision["steps"] or decision["steps"][-1]["technique"] != self._technique:
            return run
        step = decision["steps"][-1]
        wanted = (self._technique, step["exit"])
        chosen = next(c for c in decision["candidates"] if (c["technique"], c["exit"]) == wanted)
        before = self._figures(state["plan"], latency_ms(client, inputs))
        downtime_ms = self._kill(cluster, client, inputs, node)
        time.sleep(SETTLE_S)
        after = self._figures(step, latency_ms(client, inputs))
        taken = cluster.status(brief=True)["failovers"][-1]["steps"][0]
        cluster.start(node)
        return msgspec.structs.replace(
            run,
            before=before,
            after=after,
            predicted_downtime_ms=chosen["downtime_ms"],
            downtime_ms=downtime_ms,
            select_ms=(taken["decided_ns"] - taken["begun_ns"]) / 1e6,
        )

    def _kill(self, cluster: Cluster, client: Client, inputs: Sequence[Any], node: str) -> float:
        """From the death of a node, a request being under way, to the first answer without it."""
        process = cluster.processes[node]
        done, future = submit(client, inputs[0])
        spin_until(time.monotonic_ns() + UNDER_WAY_NS)
        fault_ns = time.monotonic_ns()
        os.kill(process.pid, signal.SIGKILL)
        while future.result().technique != self._technique:
            done, future = submit(client, inputs[0])
        process.wait()
        return (done[0] - fault_ns) / 1e6

    def _figures(self, step: dict[str, Any], measured_ms: float) -> Figures:
        path = [part for hop in step["route"] for part in hop["parts"]]
        measured = self._bundle.measured_accuracy(path)
        if measured is None:
            raise ContinuerError(f"{self._bundle.name}: no accuracy was measured of {path}")
        variant = self._bundle.variant_of(path)
        known = self._table.accuracies if self._table else ()
        predicted = [a.accuracy for a in known if (a.exit, a.skipped) == variant]
        hops = len(step["route"])
        return Figures(
            accuracy=measured,
            predicted_accuracy=predicted[0] if predicted else measured,
            hops=hops,
            compute_ms=step["latency_ms"] - (hops + 1) * HOP_MS,
            predicted_latency_ms=step["latency_ms"],
            latency_ms=measured_ms,
        )


def submit(client: Client, tensor: Any) -> tuple[list[int], Future[Answer]]:
    """A request, and when it was answered: ns of the monotonic clock, empty until then."""
    done: list[int] = []
    future = client.submit(tensor, BUDGET_MS)
    future.add_done_callback(lambda _: done.append(time.monotonic_ns()))
    return done, future


def spin_until(moment_ns: int) -> None:
    """Sleeping would overshoot."""
    while time.monotonic_ns() < moment_ns:
        pass


def latency_ms(client: Client, inputs: Sequence[Any]) -> float:
    """Median time of requests, one after the other."""
    took = []
    for index in range(WARM_UP + REQUESTS):
        begun = time.perf_counter_ns()
        client.infer(inputs[index % len(inputs)], BUDGET_MS)
        took.append((time.perf_counter_ns() - begun) / 1e6)
    return statistics.median(took[WARM_UP:])


def campaign(
    path: Path, models: Sequence[str], tables_of: dict[str, Path], passes: int, until_s: float
) -> None:
    """Append to the file what is not in it yet, until the clock says ``until_s``."""
    path.touch()
    for number in range(passes):
        for model in models:
            bundle = bundles.load(find_bundle(model))
            table = tables.load(tables_of[model], bundle) if model in tables_of else None
            for technique in TECHNIQUES:
                wanted = lacking(read(path), model, technique, number)
                if time.monotonic() >= until_s:
                    return
                if wanted:
                    record(path, Session(bundle, technique, table, number), wanted)


def lacking(runs: Sequence[Run], network: str, technique: str, number: int) -> list[str]:
    """The nodes without which a technique has yet to be measured in a pass.

    Where it cannot serve, once is enough.
    """
    own = [run for run in runs if (run.network, run.technique) == (network, technique)]
    done = {run.node for run in own if run.number == number or not run.possible}
    return [node for node in NODES if node not in done]


def record(path: Path, session: Session, nodes: Sequence[str]) -> None:
    """Append what a session finds to the file, a line at a time."""
    try:
        for run in session.run(nodes):
            with path.open("ab") as file:
                file.write(msgspec.json.encode(run) + b"\n")
            took = f"{run.downtime_ms:.1f} ms" if run.possible else "impossible"
            said = f"{run.number} {run.network} {run.technique} without {run.node}: {took}"
            print(said, file=sys.stderr)
    except (ContinuerError, RequestError) as error:
        # On a busy machine a box may be lost for a moment: the next call goes on with the rest.
        print(f"given up for now: {error}", file=sys.stderr)


def main() -> None:
    """Go on with the campaign."""
    parser = argparse.ArgumentParser(prog="python -m bench.decisions")
    parser.add_argument("file", type=Path, help="what 'continuer plan evaluate' reads")
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so long")
    parser.add_argument("--table", action="append", default=[], metavar="MODEL=TABLE")
    options = parser.parse_args()
    sys.setswitchinterval(1e-4)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # and end the cluster
    given = {model: Path(file) for model, file in (t.split("=", 1) for t in options.table)}
    until_s = time.monotonic() + options.seconds
    campaign(options.file, options.model or MODELS, given, options.passes, until_s)


if __name__ == "__main__":
    main()
