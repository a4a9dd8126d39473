"""``continuer drill``: a box really dies, requests go on, and it comes back by itself."""

from __future__ import annotations

import json

from continuer.demo.cluster import Cluster
from continuer.errors import EXIT_OK, EXIT_USAGE
from tests.integration.support import cli, events, failovers, node_state, state

AWAY = ("--away-s", "1")
# Twenty requests a second leave a busy machine room; none may be lost all the same.
GENTLY = ("--rate", "20", "--budget-ms", "10000")


def incarnation(cluster: Cluster, node: str) -> int:
    return int(next(n["incarnation"] for n in state(cluster)["nodes"] if n["node"] == node))


def test_a_drill_is_a_real_death_that_costs_no_request(cluster: Cluster) -> None:
    before, life = len(failovers(cluster)), incarnation(cluster, "n3")
    pid = cluster.processes["n3"].pid
    ended = cli("drill", "n3", *AWAY, *GENTLY, "--json", "--coordinator", cluster.control)
    assert ended.returncode == EXIT_OK, ended.stderr
    report = json.loads(ended.stdout)
    assert report["passed"]
    assert report["requests"]["sent"] == report["requests"]["answered"] > 50
    assert report["measured"]["techniques"]
    assert report["predicted"]["techniques"]
    assert report["predicted"]["downtime_ms"] > 0
    # It was dead for the coordinator, by what its kernel said, and is another life now.
    (failover,) = failovers(cluster)[before:]
    assert failover["nodes"] == ["n3"]
    assert failover["reasons"] == ["link closed"]
    assert incarnation(cluster, "n3") != life
    assert node_state(cluster, "n3") == "active"
    assert cluster.processes["n3"].pid == pid
    assert cluster.processes["n3"].poll() is None
    assert events(cluster, "n3", "drill_begun")
    assert events(cluster, "coordinator", "drill_ordered")


def test_a_box_that_nobody_could_replace_is_not_killed_without_force(cluster: Cluster) -> None:
    before = len(failovers(cluster))
    ordered = ("--min-accuracy", "0.99", "--coordinator", cluster.control)
    assert cli("objectives", "set", *ordered).returncode == EXIT_OK
    try:
        ended = cli("drill", "n3", *AWAY, "--coordinator", cluster.control)
    finally:
        assert cli("objectives", "reset", "--coordinator", cluster.control).returncode == EXIT_OK
    assert ended.returncode == EXIT_USAGE
    assert "without n3 no plan meets the objectives (min_accuracy)" in ended.stderr
    assert "--force" in ended.stderr
    assert len(failovers(cluster)) == before


def test_what_cannot_be_drilled_is_said(cluster: Cluster) -> None:
    for arguments, problem in (
        (("n9",), "NODE 'n9': the nodes are n1, n2, n3, n4, n5"),
        (("n3", "--away-s", "0"), "--away-s 0: give more than 0, at most 60"),
        (("n3", "--away-s", "nan"), "--away-s nan: give more than 0, at most 60"),
        (("n3", "--rate", "0"), "--rate 0: give a number above 0"),
    ):
        ended = cli("drill", *arguments, "--coordinator", cluster.control)
        assert ended.returncode == EXIT_USAGE
        assert problem in ended.stderr
