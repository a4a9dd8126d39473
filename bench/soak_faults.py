"""Faults of a soak: what a seed chooses, and doing it to a cluster on hosts of its own.

A schedule is chosen so that a feasible plan is always there, but for ``everything``: at most two
faults at a time, and those that strike together are of kinds whose contingencies agents hold.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench.heartbeats import burn
from bench.hosts import HostedCluster

# From one fault's end to the next one's begin, in s. Returning takes about one.
GAP_S = (0.5, 2.5)
# What a node is left to when others have died with it, or the coordinator is away.
TOGETHER = ("kill", "stop", "coordinator_kill", "coordinator_stop")
TOGETHER_SHARE = 0.3
#: How long a fault lasts, in s, each as likely as the others.
DURATIONS_S = {
    "kill": (0.2, 1.0, 3.0),
    "stop": (0.02, 0.2, 1.0, 5.0),
    "flap": (3.0,),
    "slow": (2.0, 4.0),
    "cut": (0.2, 1.0, 3.0),
    "pull": (0.2, 1.0, 3.0),
    "oneway": (1.0, 3.0),
    "part": (1.0, 3.0),
    "loss_1": (3.0,),
    "loss_5": (3.0,),
    "loss_20": (3.0,),
    "rate": (3.0,),
    "cpu": (3.0,),
    "descriptors": (2.0,),
    "coordinator_kill": (0.2, 1.0, 5.0),
    "coordinator_stop": (0.2, 1.0, 5.0),
    "all_but_one": (2.0,),
    "everything": (0.2,),
}
RARE = ("all_but_one", "everything")
RARE_WEIGHT = 0.3
SLOW_KBIT = 50_000
WITHIN_S = 0.05
# One part in ten of the time a slow box runs, a flapping one runs about half of it.
SLOW_STOP_S, SLOW_GO_S = 0.009, 0.001
FLAP_STOP_S, FLAP_GO_S = 0.25, 0.35


class Planned(msgspec.Struct, frozen=True):
    """A fault of a schedule; times in s after its begin."""

    at_s: float
    kind: str
    nodes: tuple[str, ...]
    for_s: float

    @property
    def end_s(self) -> float:
        """When it is over."""
        return self.at_s + self.for_s


def schedule(seed: str, seconds: float, nodes: Sequence[str]) -> list[Planned]:
    """Faults until ``seconds``, all over by then; the same seed gives the same ones."""
    luck = random.Random(seed)  # noqa: S311  # chance that can be had again, not a secret
    weights = [RARE_WEIGHT if kind in RARE else 1.0 for kind in DURATIONS_S]
    faults: list[Planned] = []
    at_s = luck.uniform(*GAP_S)
    while True:
        (kind,) = luck.choices(list(DURATIONS_S), weights)
        one, other, *_ = luck.sample(list(nodes), 2)
        fault = _planned(luck, kind, at_s, (one, other), nodes)
        struck = [fault]
        if kind in TOGETHER and luck.random() < TOGETHER_SHARE:
            away = kind.startswith("coordinator")
            second = luck.choice([k for k in TOGETHER if not (away and k.startswith("coord"))])
            later_s = at_s + luck.uniform(0, fault.for_s)
            struck.append(_planned(luck, second, later_s, (other, one), nodes))
        end_s = max(each.end_s for each in struck)
        if end_s > seconds:
            return faults
        faults += struck
        at_s = end_s + luck.uniform(*GAP_S)


def _planned(
    luck: random.Random, kind: str, at_s: float, pair: tuple[str, str], nodes: Sequence[str]
) -> Planned:
    for_s = luck.choice(DURATIONS_S[kind])
    if kind.startswith("coordinator") or kind in ("cpu", "everything"):
        return Planned(at_s, kind, (), for_s)
    if kind == "all_but_one":
        return Planned(at_s, kind, tuple(n for n in nodes if n != pair[0]), for_s)
    if kind in ("part", "oneway"):
        return Planned(at_s, kind, pair, for_s)
    return Planned(at_s, kind, pair[:1], for_s)


class Doer:
    """Does faults to a cluster and undoes them."""

    def __init__(self, cluster: HostedCluster) -> None:
        self._cluster = cluster
        self._network = cluster.network
        self._undo: dict[Planned, Callable[[], None]] = {}

    def begin(self, fault: Planned) -> None:
        """The fault begins."""
        self._undo[fault] = self._do(fault)

    def end(self, fault: Planned) -> None:
        """It is over: what died is started again, what was cut is mended."""
        self._undo.pop(fault)()

    def end_all(self) -> None:
        """All of them are over."""
        for fault in list(self._undo):
            self.end(fault)

    def _do(self, fault: Planned) -> Callable[[], None]:
        kind, network = fault.kind, self._network
        if kind in ("kill", "all_but_one"):
            return self._kill(fault.nodes)
        if kind == "everything":
            return self._kill(("coordinator", *self._cluster.nodes))
        if kind.startswith("coordinator"):
            everyone = ("coordinator",)
            return self._kill(everyone) if kind.endswith("kill") else self._stop(everyone)
        if kind == "stop":
            return self._stop(fault.nodes)
        if kind in ("flap", "slow"):
            flaps = (FLAP_STOP_S, FLAP_GO_S) if kind == "flap" else (SLOW_STOP_S, SLOW_GO_S)
            return by_turns(self._cluster.processes[fault.nodes[0]], *flaps)
        if kind == "cpu":
            return hogs()
        if kind == "descriptors":
            return self._use_up_descriptors(fault.nodes[0])
        if kind.startswith("loss"):
            network.loss(fault.nodes[0], int(kind.rpartition("_")[2]))
        elif kind == "rate":
            network.rate(fault.nodes[0], SLOW_KBIT)
        else:
            getattr(network, kind)(*fault.nodes)
        return network.heal  # these never come two at a time

    def _kill(self, names: Sequence[str]) -> Callable[[], None]:
        processes = [self._cluster.processes[name] for name in names]
        for process in processes:
            process.kill()
            time.sleep(WITHIN_S / len(processes) if len(processes) > 1 else 0)

        def start() -> None:
            for name, process in zip(names, processes, strict=True):
                process.wait()
                self._cluster.start(name)

        return start

    def _stop(self, names: Sequence[str]) -> Callable[[], None]:
        processes = [self._cluster.processes[name] for name in names]
        for process in processes:
            process.send_signal(signal.SIGSTOP)

        def go_on() -> None:
            for process in processes:
                process.send_signal(signal.SIGCONT)

        return go_on

    def _use_up_descriptors(self, name: str) -> Callable[[], None]:
        """Let the process open no descriptor beyond those that it has."""
        pid = self._cluster.processes[name].pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid), before[1]))
        return lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, before) and None


def by_turns(process: subprocess.Popen[bytes], stop_s: float, go_s: float) -> Callable[[], None]:
    """Stop a process and let it go on in turns; returns what ends that."""
    over = threading.Event()

    def turn() -> None:
        while not over.is_set():
            process.send_signal(signal.SIGSTOP)
            over.wait(stop_s)
            process.send_signal(signal.SIGCONT)
            over.wait(go_s)

    thread = threading.Thread(target=turn)
    thread.start()

    def go_on() -> None:
        over.set()
        thread.join()
        process.send_signal(signal.SIGCONT)

    return go_on


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def hogs() -> Callable[[], None]:
    """Keep every core busy with two processes each; returns what ends that."""
    stop = multiprocessing.Event()
    made = [
        multiprocessing.Process(target=burn, args=(stop,)) for _ in range(2 * (os.cpu_count() or 1))
    ]
    for hog in made:
        hog.start()

    def end() -> None:
        for hog in made:
            hog.kill()
            hog.join()

    return end
