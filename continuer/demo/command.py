"""``continuer demo``: a cluster, a stream of real images, a fault, and the account of it."""

from __future__ import annotations

import argparse
import json
import math
import os
import selectors
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from continuer import bundle as bundles
from continuer import load
from continuer.bundle import Bundle
from continuer.catalog import find_bundle, find_images
from continuer.cli_help import add_verb
from continuer.client import takes_images
from continuer.demo import report as reports
from continuer.demo.cluster import Cluster, program
from continuer.demo.text import describe
from continuer.demo.view import EventTail, LiveView, PlainView, make_view
from continuer.errors import EXIT_OK, EXIT_UNHEALTHY, ContinuerError, UsageError
from continuer.outage import Fault, RawLog, check_writable, read

MODEL = "resnet32-cifar10"
IMAGES = "cifar10-test-1000"
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
MIN_SECONDS = 6.0
FAULT_AT = 0.35
RETURN_AT = 0.6
BUDGET_MS = 2000
LOOK_EVERY_S = 0.3


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        commands,
        "demo",
        "run a whole cluster here, kill a node, and report what became of every request",
        "continuer demo\ncontinuer demo --kill n2,n4 --fault stop --json",
    )
    parser.add_argument(
        "--model", default=MODEL, metavar="NAME", help="a shipped model or a bundle"
    )
    parser.add_argument("--nodes", type=int, default=5, metavar="N", help="agents n1..nN")
    parser.add_argument("--kill", default=None, metavar="n3[,n4]", help="nodes to hit, or 'none'")
    parser.add_argument("--fault", choices=sorted(SIGNALS), default="kill")
    parser.add_argument("--rate", type=float, default=100.0, metavar="PER_S")
    parser.add_argument("--seconds", type=float, default=12.0, metavar="S")
    parser.add_argument(
        "--technique", choices=("auto", "repartition", "early_exit", "skip"), default="auto"
    )
    parser.add_argument("--standby", choices=("all", "neighbours", "none"), default="none")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--raw-log", type=Path, metavar="FILE", help="keep the client's raw log")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Run the demo; 0 only if all was answered well and every requested failover happened."""
    bundle = bundles.load(find_bundle(options.model))
    nodes, victims = check(options, bundle)
    with tempfile.TemporaryDirectory(prefix="continuer-demo-") as directory:
        demo = Demo(options, bundle, nodes, victims, Path(directory))
        report, records, returned = demo.run()
    if options.json:
        print(json.dumps(report))
    else:
        print(describe(report, records, returned))
    return EXIT_OK if reports.passed(report) else EXIT_UNHEALTHY


def check(options: argparse.Namespace, bundle: Bundle) -> tuple[list[str], list[str]]:
    """Names of all nodes and of those to hit; raises UsageError for what cannot work."""
    count = len(bundle.block_names)
    if not 1 <= options.nodes <= count:
        raise UsageError(f"--nodes {options.nodes}: give 1 to {count}, the blocks of {bundle.name}")
    nodes = [f"n{i}" for i in range(1, options.nodes + 1)]
    default = nodes[len(nodes) // 2] if len(nodes) > 1 else "none"
    chosen = options.kill if options.kill is not None else default
    victims = [] if chosen == "none" else chosen.split(",")
    for victim in victims:
        if victim not in nodes:
            raise UsageError(f"--kill {victim}: there are {', '.join(nodes)}")
        if victims.count(victim) > 1:
            raise UsageError(f"--kill {chosen}: name each node once")
    if len(victims) == len(nodes):
        raise UsageError(f"--kill {chosen}: leave at least one node, or nobody can answer")
    if not MIN_SECONDS <= options.seconds < math.inf:
        raise UsageError(f"--seconds {options.seconds:g}: give at least {MIN_SECONDS:g}")
    if not 0 < options.rate < math.inf:
        raise UsageError(f"--rate {options.rate:g}: give a number above 0")
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed}: give 0 or more")
    if options.raw_log is not None:
        check_writable(options.raw_log)
    return nodes, victims


class Demo:
    """One run: cluster up, load on, fault, return, account."""

    def __init__(
        self,
        options: argparse.Namespace,
        bundle: Bundle,
        nodes: list[str],
        victims: list[str],
        directory: Path,
    ) -> None:
        self._options = options
        self._bundle = bundle
        self._victims = victims
        self._directory = directory
        self._images = IMAGES if fits_images(bundle) else "random"
        self._cluster = Cluster(
            directory,
            bundle.directory,
            nodes,
            agent={"standby": options.standby},
            coordinator={"technique": options.technique, "expected_rate_per_s": options.rate},
        )
        self._tail = EventTail(self._cluster.log("coordinator"))
        self._progress: dict[str, Any] = {}
        self._faults: list[Fault] = []

    def run(self) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
        """The report, the coordinator's failovers, and the nodes that were taken back in."""
        cluster = self._cluster
        with ExitStack() as stack:
            view = make_view(json_wanted=self._options.json)
            stack.enter_context(view)
            stack.callback(cluster.stop_all)
            view.show(None, {})
            view.say(f"starting a coordinator and {len(cluster.nodes)} agents")
            cluster.start_all()
            self._refuse_impossible()
            raw_log = self._directory / "raw.jsonl"
            generator = self._start_load(raw_log)
            stack.callback(generator.kill)
            self._watch(view, generator)
            returned = self._wait_for_return(view) if self._victims else []
            failovers = cluster.status()["failovers"]
        report = self._account(raw_log, failovers)
        return report, failovers, returned

    def _refuse_impossible(self) -> None:
        """A forced technique that cannot work for this failure is refused before the run."""
        forced, victims = self._options.technique, sorted(self._victims)
        if forced == "auto" or not victims:
            return
        known = {tuple(c["nodes"]): c for c in self._cluster.status()["contingencies"]}
        contingency = known.get(tuple(victims))
        if contingency is None:
            return  # not foreseen: the coordinator plans on the spot and says what it did
        possible = sorted({c["technique"] for c in contingency["candidates"]})
        if forced not in possible:
            raise UsageError(
                f"--technique {forced}: impossible when {', '.join(victims)} fails; "
                f"possible: {', '.join(possible) or 'nothing'}"
            )

    def _start_load(self, raw_log: Path) -> subprocess.Popen[bytes]:
        options = self._options
        endpoints = [f"--endpoint={endpoint}" for endpoint in self._cluster.endpoints]
        return subprocess.Popen(  # noqa: S603  # our own program
            [
                *program("continuer"),
                "load",
                *endpoints,
                f"--images={self._images}",
                f"--rate={options.rate}",
                f"--seconds={options.seconds}",
                f"--budget-ms={BUDGET_MS}",
                f"--seed={options.seed}",
                f"--raw-log={raw_log}",
                "--progress",
            ],
            stdout=subprocess.PIPE,
        )

    def _watch(self, view: PlainView | LiveView, generator: subprocess.Popen[bytes]) -> None:
        """Follow the run, hit the nodes, bring them back."""
        assert generator.stdout is not None
        os.set_blocking(generator.stdout.fileno(), False)
        selector = selectors.DefaultSelector()
        selector.register(generator.stdout, selectors.EVENT_READ)
        begun: float | None = None
        looked, buffered = 0.0, b""
        hit = returned = not self._victims
        while generator.poll() is None:
            now = time.monotonic()
            if begun is not None and not hit and now >= begun + FAULT_AT * self._options.seconds:
                self._hit(view)
                hit = True
            if (
                begun is not None
                and not returned
                and now >= begun + RETURN_AT * self._options.seconds
            ):
                self._bring_back(view)
                returned = True
            if now - looked >= LOOK_EVERY_S:
                looked = now
                for line in self._tail.read():
                    view.say(line)
                view.show(self._cluster.status(brief=True), self._progress)
            # Short sleeps, so that the fault is on time.
            if selector.select(0.02):
                buffered += generator.stdout.read() or b""
                *lines, buffered = buffered.split(b"\n")
                if lines:
                    self._progress = json.loads(lines[-1])
                    begun = begun or time.monotonic()
        if generator.returncode not in (EXIT_OK, EXIT_UNHEALTHY):
            raise ContinuerError(f"the client ended with code {generator.returncode}")

    def _hit(self, view: PlainView | LiveView) -> None:
        fault = self._options.fault
        at_ns = self._cluster.signal(self._victims, SIGNALS[fault])
        self._faults.append({"fault": fault, "nodes": self._victims, "at_ns": at_ns})
        view.say(f"--> {', '.join(self._victims)} gets {SIGNALS[fault].name}")

    def _bring_back(self, view: PlainView | LiveView) -> None:
        view.say(f"--> {', '.join(self._victims)} comes back")
        for node in self._victims:
            if self._options.fault == "stop":
                self._cluster.signal([node], signal.SIGCONT)
            else:
                self._cluster.processes[node].wait()
                self._cluster.start(node)

    def _wait_for_return(self, view: PlainView | LiveView) -> list[str]:
        """The fault is over: all victims must be at work again."""

        def back(state: dict[str, Any]) -> bool:
            return bool(state["health"] == "full")

        try:
            state = self._cluster.wait_until(back, "the nodes to be taken back in", timeout_s=10)
        except ContinuerError as error:
            view.say(str(error))
            return []
        for line in self._tail.read():
            view.say(line)
        view.show(state, self._progress)
        return list(self._victims)

    def _account(self, raw_log: Path, failovers: list[dict[str, Any]]) -> dict[str, Any]:
        """Check every answer against the oracle and compute the figures."""
        with raw_log.open("a") as log:
            for fault in self._faults:
                log.write(json.dumps(fault) + "\n")
        if self._options.raw_log is not None:
            self._options.raw_log.write_bytes(raw_log.read_bytes())
        recorded: RawLog = read(raw_log)
        oracle = reports.Oracle(self._bundle, self._inputs())
        good = reports.good_seqs(oracle, recorded.requests)
        nodes = len(self._cluster.nodes)
        return reports.make(self._bundle.name, nodes, recorded, failovers, good)

    def _inputs(self) -> list[Any]:
        """The inputs that the client sent, made again from the seed."""
        specs = self._bundle.manifest.input
        return load.inputs_for(specs, self._images, self._options.seed)[0]


def fits_images(bundle: Bundle) -> bool:
    """True where the shipped images suit the model."""
    pixels, labels = find_images(IMAGES)
    named = len(bundle.manifest.classes) > labels.max()
    return named and takes_images(bundle.manifest.input, pixels)
