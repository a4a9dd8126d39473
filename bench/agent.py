"""What one agent costs: memory, time until ready, idle CPU, installed size."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from continuer.demo.cluster import Cluster

IDLE_S = 10.0
MIB = 1 << 20
# What `pip install continuer[agent]` brings along.
INSTALLED = (
    *("continuer", "ai-edge-litert", "numpy", "pyzmq", "msgpack", "msgspec", "structlog"),
    *("flatbuffers", "protobuf", "tqdm", "typing_extensions", "backports.strenum", "filelock"),
)


def measure(bundle: Path, standby: str) -> dict[str, Any]:
    """An agent of five, everything of the model in memory (standby all) or the least (none)."""
    names = [f"n{i}" for i in range(1, 6)]
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(Path(directory), bundle, names, agent={"standby": standby})
        try:
            cluster.start_all()
            time.sleep(1)
            pids = {name: process.pid for name, process in cluster.processes.items()}
            before = {name: cpu_s(pid) for name, pid in pids.items()}
            time.sleep(IDLE_S)
            idle = {
                name: round(100 * (cpu_s(pid) - before[name]) / IDLE_S, 2)
                for name, pid in pids.items()
            }
            memory = {name: round(rss(pid) / MIB, 1) for name, pid in pids.items()}
        finally:
            cluster.stop_all()
    agents = [value for name, value in idle.items() if name != "coordinator"]
    return {
        "standby": standby,
        "rss_mib_max": max(value for name, value in memory.items() if name != "coordinator"),
        "coordinator_rss_mib": memory["coordinator"],
        "idle_cpu_percent_max": max(agents),
        "coordinator_idle_cpu_percent": idle["coordinator"],
    }


def ready_s(bundle: Path) -> float:
    """A cluster of one, from starting its agent to the plan that has it at work."""
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(Path(directory), bundle, ["n1"])
        try:
            cluster.start("coordinator")
            cluster.wait_until(lambda state: True, "the coordinator")  # noqa: ARG005
            begun = time.perf_counter()
            cluster.start("n1")
            cluster.wait_until(lambda state: state["health"] == "full", "the agent")
            return round(time.perf_counter() - begun, 2)
        finally:
            cluster.stop_all()


def installed_mb() -> dict[str, float]:
    """Sizes on disk of what an agent needs, per distribution, in 10^6 bytes."""
    sizes = {}
    for name in INSTALLED:
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            continue
        paths = [Path(str(file.locate())) for file in files]
        sizes[name] = round(sum(p.stat().st_size for p in paths if p.is_file()) / 1e6, 1)
    return {**sizes, "total": round(sum(sizes.values()), 1)}


def import_s() -> float:
    """How long Python takes to import the agent, without running it."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import agent.main"], check=True)
    return round(time.perf_counter() - begun, 2)


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss(pid: int) -> int:
    """Resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")
