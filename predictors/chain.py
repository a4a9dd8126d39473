"""Latency of plans measured through a running chain: what Table V's predictions are held against.

Real daemons on this machine, each kept on one of its CPUs, as a box has its own. Boxes of
different speed are made by a delay in proportion to what they compute (``slowdown``), since CPU
quotas stall instead of slowing. First *calibration* plans run: all blocks over few and many boxes.
Then, for each technique forced in turn, each box is killed and the plan that answers without it is
measured; and just before that, the plan with all boxes, since the speed of a machine drifts from
minute to minute. Every plan is measured in several passes, one after the other, so that passes
tell the noise. Each finding is appended to a file; what is in the file already is not measured
again.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from continuer import Client
from continuer import bundle as bundles
from continuer.bundle import Bundle
from continuer.demo.cluster import Cluster, Place
from continuer.errors import RequestError, UsageError

#: How many times as slow as this machine the boxes of the calibration are: a fleet each.
CALIBRATION = (
    (1.0,),
    (4.0,),
    (1.0, 1.0),
    (1.0, 3.0),
    (1.0, 1.0, 1.0),
    (1.0, 2.0, 1.0, 1.5),
    (2.0, 1.0, 2.0, 1.0, 3.0),
    # Where the blocks are cut, and so what a hop carries, follows from the speeds.
    (3.0, 1.0),
    (4.0, 1.0, 1.0),
    (1.0, 4.0, 1.0),
    (1.0, 1.0, 4.0),
    (3.0, 2.0, 1.0, 1.0),
    (1.0, 1.0, 2.0, 3.0, 2.0),
    (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
)
#: And those of the fleet that is tested.
FLEET = (1.0, 2.0, 1.0, 3.0, 1.5)
TECHNIQUES = ("repartition", "early_exit", "skip")
PASSES = 3
WARM_UP = 20
REQUESTS = 200
QUANTILE = 0.1
#: Long: a machine that others use now makes some answers late, which is no reason to stop.
BUDGET_MS = 20_000.0
TIMEOUT_MS = 900.0
#: A plan changes until this long after a failure.
SETTLE_S = 0.3
ATTEMPTS = 20

Stage = tuple[str, tuple[str, ...]]


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One plan in one pass. ``technique`` is ``calibration``, or what was forced.

    ``failed``: the box that was killed. ``route``: None where the technique is impossible
    there. ``slowdown`` by node; ``latency_ms``: the lower decile of what a client saw, one
    request at a time: what the plan takes while nothing else wants the machine, which is what is
    predicted. ``median_ms``: of the same requests. ``before`` and ``before_ms``: the plan of all
    boxes just before the failure, and its latency. ``bundle``: its hash in hex; ``cpu``: of the
    machine.
    """

    bundle: str
    cpu: str
    technique: str
    fleet: tuple[float, ...]
    failed: str
    number: int
    route: tuple[Stage, ...] | None
    slowdown: dict[str, float]
    latency_ms: float
    median_ms: float
    before: tuple[Stage, ...] | None = None
    before_ms: float = 0.0

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it one measurement among all."""
        return self.bundle, self.technique, self.fleet, self.failed, self.number


def read(path: Path) -> list[Measured]:
    """What a file holds; nothing if it does not exist. Raises UsageError where it is damaged."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"--chain {path}: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = msgspec.json.decode(line, type=Measured)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(
                f"--chain {path}, line {number}: {error}; remove the line, and measure again"
            ) from error
        for key, value in (("latency_ms", entry.latency_ms), ("before_ms", entry.before_ms)):
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(
                    f"--chain {path}, line {number}: {key} = {value}; remove the line, and "
                    "measure again"
                )
        found.append(entry)
    return found


def measure(
    directory: Path, path: Path, cpu: str, say: Callable[[str], None], passes: int = PASSES
) -> None:
    """Measure everything of a bundle that the file does not hold yet, and append it."""
    bundle = bundles.load(directory)
    done = {entry.key for entry in read(path)}
    with path.open("a") as file:
        for technique, fleet in (
            *(("calibration", fleet) for fleet in CALIBRATION),
            *((technique, FLEET) for technique in TECHNIQUES),
        ):
            session = _Session(bundle, cpu, technique, fleet)
            wanted = [
                (number, failed)
                for number in range(passes)
                for failed in session.failures
                if session.key(number, failed) not in done
            ]
            if not wanted:
                continue
            say(f"{bundle.name}, {len(wanted)} plans: {technique} over {len(fleet)}")
            for entry in session.run(wanted):
                file.write(msgspec.json.encode(entry).decode() + "\n")
                file.flush()


class _Plan(NamedTuple):
    """A plan as it was measured."""

    route: tuple[Stage, ...]
    low_ms: float
    median_ms: float


class _Session:
    """One cluster in which one technique is forced and one box after the other is killed."""

    def __init__(self, bundle: Bundle, cpu: str, technique: str, fleet: tuple[float, ...]) -> None:
        self._bundle, self._cpu = bundle, cpu
        self._technique, self._fleet = technique, fleet
        self._nodes = [f"n{place}" for place in range(1, len(fleet) + 1)]
        self.failures = [""] if technique == "calibration" else self._nodes

    def key(self, number: int, failed: str) -> tuple[object, ...]:
        return self._entry(number, failed, None).key

    def run(self, wanted: Sequence[tuple[int, str]]) -> Iterator[Measured]:
        with self._cluster() as cluster:
            for number, failed in wanted:
                plan = self._measure(cluster, "")
                if not failed:
                    yield self._entry(number, failed, plan)
                else:
                    self._kill(cluster, failed)
                    yield self._entry(number, failed, self._measure(cluster, failed), plan)
                    cluster.start(failed)
                    cluster.wait_until(lambda s: s["health"] == "full", f"{failed} to return")

    @contextmanager
    def _cluster(self) -> Iterator[Cluster]:
        forced = {} if self._technique == "calibration" else {"technique": self._technique}
        with tempfile.TemporaryDirectory() as directory:
            cluster = Cluster(
                Path(directory),
                self._bundle.directory,
                self._nodes,
                places=self._places(),
                coordinator={**forced, "return_stable_ms": 200, "heartbeat_timeout_ms": TIMEOUT_MS},
            )
            for node, slowdown in zip(self._nodes, self._fleet, strict=True):
                with (Path(directory) / f"{node}.toml").open("a") as file:
                    file.write(f"slowdown = {slowdown}\n")
            try:
                cluster.start_all()
                yield cluster
            finally:
                cluster.stop_all()

    def _places(self) -> dict[str, Place]:
        if shutil.which("taskset") is None:
            return {}
        cpus = sorted(os.sched_getaffinity(0))
        return {
            node: Place(prefix=("taskset", "--cpu-list", str(cpus[number % len(cpus)])))
            for number, node in enumerate(self._nodes)
        }

    def _kill(self, cluster: Cluster, node: str) -> None:
        cluster.signal([node], signal.SIGKILL)
        cluster.processes[node].wait()

        def gone(state: dict[str, Any]) -> bool:
            route = state["plan"]["route"] if state["plan"] else []
            return state["health"] in ("reduced", "degraded") and all(
                hop["node"] != node for hop in route
            )

        cluster.wait_until(gone, f"a plan without {node}")

    def _measure(self, cluster: Cluster, failed: str) -> _Plan | None:
        """The plan in force once it stays the same throughout; None if it was not forced."""
        endpoints = dict(zip(self._nodes, cluster.endpoints, strict=True))
        for _ in range(ATTEMPTS):
            plan = self._settled(cluster, failed)
            if plan is None:
                continue
            if failed and plan["technique"] != self._technique:
                return None
            route = tuple((hop["node"], tuple(hop["parts"])) for hop in plan["route"])
            try:
                took_ms = self._latency_ms(endpoints[route[0][0]])
            except RequestError:
                continue  # a machine in use by others may lose a box for a moment
            if self._settled(cluster, failed) == plan:
                return _Plan(route, *took_ms)
        raise UsageError(
            f"the plan without {failed or 'nobody'} changes all the time; measure again while "
            "nothing else uses this machine"
        )

    def _settled(self, cluster: Cluster, failed: str) -> dict[str, Any] | None:
        """The plan in force with all boxes at work but the failed one; None while it is not."""
        time.sleep(SETTLE_S)
        state = cluster.status(brief=True)
        others = [node for node in state["nodes"] if node["node"] != failed]
        if any(node["state"] != "active" for node in others):
            return None
        plan: dict[str, Any] = state["plan"]
        return {key: plan[key] for key in ("technique", "exit", "route")}

    def _latency_ms(self, endpoint: str) -> tuple[float, float]:
        spec = self._bundle.manifest.input.tensors[0]
        image = np.zeros(spec.shape, spec.dtype)
        took = []
        with Client([endpoint]) as client:
            for _ in range(WARM_UP + REQUESTS):
                started = time.perf_counter_ns()
                client.infer(image, BUDGET_MS)
                took.append((time.perf_counter_ns() - started) / 1e6)
        low, middle = np.quantile(took[WARM_UP:], (QUANTILE, 0.5))
        return float(low), float(middle)

    def _entry(
        self, number: int, failed: str, plan: _Plan | None, before: _Plan | None = None
    ) -> Measured:
        return Measured(
            self._bundle.hash.hex(),
            self._cpu,
            self._technique,
            self._fleet,
            failed,
            number,
            plan and plan.route,
            dict(zip(self._nodes, self._fleet, strict=True)),
            plan.low_ms if plan else 0.0,
            plan.median_ms if plan else 0.0,
            before and before.route,
            before.low_ms if before else 0.0,
        )
