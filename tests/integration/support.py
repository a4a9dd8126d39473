"""What the integration tests share: streams of requests, their account, events, waiting."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continuer import load
from continuer.bundle import Bundle
from continuer.client import Client
from continuer.demo import report
from continuer.demo.cluster import Cluster, program
from continuer.errors import UnreachableError
from continuer.outage import RequestRecord

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

IMAGES = "cifar10-test-1000"
SEED = 0
# Generous: two noisy cores. Waiting ends as soon as the condition holds.
DEADLINE_S = 30.0
POLL_S = 0.02
BUDGET_MS = 3000.0


def until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """Poll until the condition gives something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"waited {timeout_s:g} s for {what}")


def cli(*arguments: str, timeout_s: float = 90.0) -> subprocess.CompletedProcess[str]:
    """Run ``continuer``; whatever it has started ends with it, should it hang."""
    process = subprocess.Popen(
        [*program("continuer"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


# --- what the daemons say -----------------------------------------------------------------


def events(cluster: Cluster, name: str, event: str = "") -> list[dict[str, Any]]:
    """Events in a daemon's journal, oldest first; all, or those of one name."""
    lines = cluster.log(name).read_text(errors="replace").splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [e for e in found if e["event"] == event or not event]


def state(cluster: Cluster) -> dict[str, Any]:
    """The status in brief; empty while the coordinator cannot be reached."""
    try:
        return cluster.status(brief=True)
    except UnreachableError:
        return {}


def node_state(cluster: Cluster, node: str) -> str:
    """What the coordinator holds of a node; empty while it cannot be reached."""
    nodes = {n["node"]: n["state"] for n in state(cluster).get("nodes", [])}
    return str(nodes.get(node, ""))


def failovers(cluster: Cluster) -> list[dict[str, Any]]:
    """The coordinator's record of failovers."""
    found: list[dict[str, Any]] = state(cluster)["failovers"]
    return found


def make_whole(cluster: Cluster) -> None:
    """Start what has ended, wake what was stopped, wait until everyone is at work."""
    for name in ("coordinator", *cluster.nodes):
        process = cluster.processes[name]
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
        else:
            cluster.start(name)
    until(
        lambda: (
            state(cluster).get("health") == "full"
            and all(n["state"] == "active" for n in state(cluster)["nodes"])
        ),
        "all nodes to be at work",
    )


def kill(cluster: Cluster, *nodes: str) -> None:
    """SIGKILL, all in the same millisecond, and reap."""
    cluster.signal(list(nodes), signal.SIGKILL)
    for node in nodes:
        cluster.processes[node].wait()


def running(cluster: Cluster) -> dict[str, bool]:
    """Which processes are alive."""
    return {name: process.poll() is None for name, process in cluster.processes.items()}


# --- requests -----------------------------------------------------------------------------


class Stream:
    """The load generator in a thread of its own: ``rate`` requests a second, open loop."""

    def __init__(
        self,
        endpoints: Sequence[str],
        rate: float = 80.0,
        seconds: float = 3.0,
        keys: Path | None = None,
    ) -> None:
        self._client = Client(endpoints, keys=keys)
        inputs, labels = load.inputs_for(self._client.input, IMAGES, SEED)
        options = argparse.Namespace(
            rate=rate, seconds=seconds, budget_ms=BUDGET_MS, progress=False
        )
        self._generator = load.Generator(self._client, inputs, labels, options)
        self._thread = threading.Thread(target=self._generator.run)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._client.close()

    @property
    def records(self) -> list[RequestRecord]:
        """Requests sent so far, or all once the stream has ended."""
        return self._generator.records

    def flowing(self, answered: int = 40) -> None:
        """Wait until so many requests of this stream were answered."""
        until(
            lambda: sum(r.outcome == "ok" for r in self.records) >= answered,
            f"{answered} answers",
        )


def assert_all_well(
    oracle: report.Oracle, bundle: Bundle, records: Sequence[RequestRecord]
) -> None:
    """Each request has one outcome, an answer; it equals the oracle's and its tags are true."""
    problems = [f"{r.seq}: {r.outcome} {r.error}" for r in records if r.outcome != "ok"]
    assert not problems, problems
    counts = report.count(records, report.good_seqs(oracle, records))
    assert counts["full"] + counts["degraded"] == counts["sent"] > 0, counts
    assert counts["wrong"] == counts["duplicate"] == counts["lost"] == 0, counts
    for record in records:
        assert_tags(bundle, record)


def assert_tags(bundle: Bundle, answer: Any) -> None:
    """Technique, exit and expected accuracy are those of the path that was taken."""
    exit_name, skipped = bundle.variant_of(answer.path)
    assert answer.path == bundle.path(skipped, exit_name), answer
    assert answer.exit == exit_name, answer
    allowed = {
        (False, False): ("none", "repartition"),
        (True, False): ("early_exit",),
        (False, True): ("skip",),
        (True, True): ("mixed",),
    }[exit_name is not None, bool(skipped)]
    assert answer.technique in allowed, answer
    measured = bundle.measured_accuracy(answer.path)
    if measured is not None:
        assert abs(answer.expected_accuracy - measured) < 1e-9, answer


def techniques(records: Iterable[RequestRecord]) -> set[str | None]:
    """The techniques that answers were tagged with."""
    return {r.technique for r in records}
