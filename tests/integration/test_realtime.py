"""The threads that heartbeats depend on have real-time priority where that is permitted."""

from __future__ import annotations

import os
from pathlib import Path

from continuer import realtime
from continuer.demo.cluster import Cluster
from tests.integration.conftest import StartCluster
from tests.integration.support import events


def policies(cluster: Cluster, name: str) -> list[int]:
    """Scheduling policies of all threads of a daemon."""
    tasks = Path(f"/proc/{cluster.processes[name].pid}/task").iterdir()
    # The child's policy flag that a thread may carry is not part of its policy.
    return [os.sched_getscheduler(int(t.name)) & ~os.SCHED_RESET_ON_FORK for t in tasks]


def test_heartbeats_have_real_time_priority_where_it_is_permitted(
    start_cluster: StartCluster,
) -> None:
    cluster = start_cluster(2)
    allowed = realtime.permitted()
    for name in ("coordinator", "n1", "n2"):
        assert events(cluster, name, "daemon_started")[0]["realtime"] == allowed
        raised = policies(cluster, name).count(os.SCHED_FIFO)
        # The control thread and its context's two; never the engine's.
        assert raised == (3 if allowed else 0), name


def test_it_can_be_switched_off(start_cluster: StartCluster) -> None:
    cluster = start_cluster(2, agent={"realtime": False}, coordinator={"realtime": False})
    for name in ("coordinator", "n1", "n2"):
        assert not events(cluster, name, "daemon_started")[0]["realtime"]
        assert os.SCHED_FIFO not in policies(cluster, name)


def test_asking_what_is_permitted_changes_nothing() -> None:
    before = os.sched_getscheduler(0)
    realtime.permitted()
    assert os.sched_getscheduler(0) == before
