"""A technique forced in the coordinator's configuration is what answers are made with."""

from __future__ import annotations

import json

import pytest

from continuer.bundle import Bundle
from continuer.demo.report import Oracle
from tests.integration.conftest import StartCluster
from tests.integration.support import (
    Stream,
    assert_all_well,
    cli,
    events,
    failovers,
    kill,
    running,
    state,
    techniques,
    until,
)

VICTIM = "n3"


@pytest.mark.parametrize(
    ("technique", "standby"), [("repartition", "none"), ("early_exit", "all"), ("skip", "none")]
)
def test_a_forced_technique_is_what_answers_are_made_with(
    start_cluster: StartCluster, oracle: Oracle, bundle: Bundle, technique: str, standby: str
) -> None:
    cluster = start_cluster(agent={"standby": standby}, coordinator={"technique": technique})
    with Stream(cluster.endpoints, seconds=2) as stream:
        stream.flowing()
        kill(cluster, VICTIM)
        until(lambda: failovers(cluster), "the failover")
        until(lambda: state(cluster)["plan"]["technique"] == technique, "the forced technique")
    assert_all_well(oracle, bundle, stream.records)
    assert techniques(stream.records) == {"none", technique}
    assert stream.records[-1].technique == technique
    assert VICTIM not in stream.records[-1].nodes
    (record,) = failovers(cluster)
    assert {step["technique"] for step in record["steps"]} == {technique}
    assert f"technique {technique} is forced" in record["why"]
    assert not events(cluster, "coordinator", "technique_fell_back")
    # Degradation is never silent: the command that watches fails while it lasts.
    result = cli("status", "--coordinator", cluster.control, "--json")
    degraded = technique != "repartition"
    assert json.loads(result.stdout)["health"] == ("degraded" if degraded else "reduced")
    assert result.returncode == int(degraded)
    running_now = running(cluster)
    assert sum(running_now.values()) == len(running_now) - 1


def test_where_the_forced_technique_is_impossible_another_is_used_and_said(
    start_cluster: StartCluster, oracle: Oracle, bundle: Bundle
) -> None:
    """The first node runs the stem: no exit comes before it, so early exit cannot be."""
    cluster = start_cluster(coordinator={"technique": "early_exit"})
    with Stream(cluster.endpoints, seconds=2) as stream:
        stream.flowing()
        kill(cluster, "n1")
        until(lambda: failovers(cluster), "the failover")
    assert_all_well(oracle, bundle, stream.records)
    assert stream.records[-1].technique == "repartition"
    (said,) = events(cluster, "coordinator", "technique_fell_back")
    assert (said["nodes"], said["forced"]) == (["n1"], "early_exit")
    assert said["technique"] == "repartition"
