"""What a soak watches of the processes: whether they end by themselves, memory, descriptors."""

from __future__ import annotations

import signal
import threading
from typing import Any

import msgspec

from bench.agent import rss
from bench.soak_faults import descriptors
from continuer.demo.cluster import Cluster

EVERY_S = 0.5
# A young process still loads parts and meets its peers; what it has after that is the measure.
GROWN_UP_S = 10.0
# All parts of the model twice over, and every peer's connections some times over.
MOST_GROWTH_MIB = 48.0
MOST_MORE_DESCRIPTORS = 128
MIB = 1 << 20


class Life(msgspec.Struct):
    """One process: its name, and what was seen of it."""

    name: str
    age_s: float = 0.0
    rss_mib: float = 0.0
    first_mib: float = 0.0
    open: int = 0
    first_open: int = 0

    @property
    def growth_mib(self) -> float:
        """How much memory it has more than when it was grown up."""
        return self.rss_mib - self.first_mib if self.age_s > GROWN_UP_S else 0.0

    @property
    def more_open(self) -> int:
        """How many descriptors it has more than then."""
        return self.open - self.first_open if self.age_s > GROWN_UP_S else 0


class Watch:
    """Looks at every process of a cluster twice a second, in a thread."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lives: dict[int, Life] = {}
        self._crashed: dict[int, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            self.look_at_all()

    def look_at_all(self) -> None:
        """Take note of every process there is, and of those that have ended by themselves."""
        for name, process in list(self._cluster.processes.items()):
            code = process.poll()
            if code is None:
                self.look(name, process.pid, EVERY_S)
            elif code != -signal.SIGKILL:  # which is what the soak does to them
                self._crashed.setdefault(process.pid, f"{name}: code {code}")

    def look(self, name: str, pid: int, after_s: float) -> None:
        """Take note of a process, so long after the look before."""
        try:
            resident, opened = rss(pid) / MIB, descriptors(pid)
        except (OSError, IndexError):
            return  # it has just ended
        if not resident:
            return
        life = self._lives.setdefault(pid, Life(name))
        life.age_s += after_s
        life.rss_mib, life.open = resident, opened
        if life.age_s <= GROWN_UP_S:
            life.first_mib, life.first_open = resident, opened

    def report(self) -> dict[str, Any]:
        """What has grown, and who has ended by itself, since the report before."""
        crashed, self._crashed = list(self._crashed.values()), {}
        lives = list(self._lives.values())
        leaking = sorted(
            f"{life.name}: {life.growth_mib:.1f} MiB and {life.more_open} descriptors more"
            for life in lives
            if life.growth_mib > MOST_GROWTH_MIB or life.more_open > MOST_MORE_DESCRIPTORS
        )
        self._lives = {
            pid: life
            for pid, life in self._lives.items()
            if pid in {process.pid for process in self._cluster.processes.values()}
        }
        return {
            "crashed": crashed,
            "leaking": leaking,
            "largest_growth_mib": round(max((life.growth_mib for life in lives), default=0), 1),
            "most_descriptors": max((life.open for life in lives), default=0),
        }
