"""What an operator does with the command line, on a real cluster under load."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from continuer.bundle import Bundle
from continuer.demo.cluster import Cluster
from continuer.demo.report import Oracle
from continuer.errors import EXIT_OK, EXIT_UNHEALTHY, EXIT_UNREACHABLE, EXIT_USAGE
from tests.integration.support import (
    Stream,
    assert_all_well,
    cli,
    events,
    failovers,
    kill,
    node_state,
    state,
    techniques,
    until,
)


def told(cluster: Cluster, *arguments: str, code: int = EXIT_OK) -> Any:
    """Run a verb with ``--json``; its one object."""
    ended = cli(*arguments, "--coordinator", cluster.control, "--json")
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def test_draining_costs_no_request_and_degrades_none(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    before = len(failovers(cluster))
    with Stream(cluster.endpoints, seconds=4) as stream:
        stream.flowing()
        drained = told(cluster, "drain", "n1")  # the ingress in use
        assert drained["state"] == "drained"
        # It can be taken down now, and nobody notices.
        cluster.processes["n1"].send_signal(signal.SIGTERM)
        cluster.processes["n1"].wait()
        cluster.start("n1")
        until(lambda: node_state(cluster, "n1") == "drained", "n1 to be back, still drained")
        assert told(cluster, "resume", "n1")["state"] == "active"
    assert_all_well(oracle, bundle, stream.records)
    assert techniques(stream.records) <= {"none", "repartition"}
    assert len(failovers(cluster)) == before
    assert any("n1" not in r.nodes for r in stream.records)


def test_objectives_decide_the_next_failure_and_hold_across_a_restart(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    told(cluster, "objectives", "set", "--min-accuracy", "0.86")
    try:
        entries = told(cluster, "plan", "what-if")["what_if"]
        assert all(s["accuracy"] >= 0.86 for entry in entries for s in entry["steps"])
        kill(cluster, "coordinator")
        cluster.start("coordinator")
        until(lambda: state(cluster).get("health") == "full", "the new coordinator's plan")
        kept = told(cluster, "objectives", "get")
        assert kept["in_force"]["min_accuracy"] == 0.86
        assert kept["overridden"]
        with Stream(cluster.endpoints, seconds=2.5) as stream:
            stream.flowing()
            kill(cluster, "n4")
            until(lambda: failovers(cluster), "the failover")
        assert_all_well(oracle, bundle, stream.records)
        assert techniques(stream.records) <= {"none", "repartition"}
    finally:
        answer = told(cluster, "objectives", "reset")
    assert answer["in_force"]["min_accuracy"] is None
    assert events(cluster, "coordinator", "objectives_changed")


def test_what_if_says_which_threshold_would_break_and_exits_unhealthy(cluster: Cluster) -> None:
    ended = cli("plan", "what-if", "--coordinator", cluster.control)
    assert ended.returncode == EXIT_OK, ended.stderr
    assert [line.split()[0] for line in ended.stdout.splitlines()[1:6]] == list(cluster.nodes)
    assert "first:" in ended.stdout
    told(cluster, "objectives", "set", "--max-latency-ms", "0.001")
    try:
        entries = told(cluster, "plan", "what-if", code=EXIT_UNHEALTHY)["what_if"]
        assert all("max_latency_ms" in entry["violations"] for entry in entries)
        ended = cli("plan", "what-if", "--kill", "n2,n4", "--coordinator", cluster.control)
        assert ended.returncode == EXIT_UNHEALTHY
        assert "n2+n4" in ended.stdout
        assert "breaks max_latency_ms" in ended.stdout
        assert events(cluster, "coordinator", "objectives_violated")
    finally:
        told(cluster, "objectives", "reset")


def test_every_pair_can_be_asked_for(cluster: Cluster) -> None:
    entries = told(cluster, "plan", "what-if", "--pairs")["what_if"]
    assert len(entries) == 10
    assert all(entry["steps"] for entry in entries)


def test_the_plan_is_shown_as_it_is_in_force(cluster: Cluster, bundle: Bundle) -> None:
    shown = told(cluster, "plan", "show")
    route = shown["plan"]["route"]
    assert [part for hop in route for part in hop["parts"]] == list(bundle.path())
    ended = cli("plan", "show", "--coordinator", cluster.control)
    assert f"plan {shown['version']}" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("objectives", "set", "--min-accuracy", "80"), "min_accuracy"),
        (("objectives", "set", "--weight-latency", "-1"), "weight_latency"),
        (("objectives", "set"), "--min-accuracy"),
        (("drain", "n9"), "n9"),
        (("plan", "what-if", "--kill", "n9"), "n9"),
    ],
)
def test_nonsense_is_a_usage_error_that_names_it(
    cluster: Cluster, arguments: tuple[str, ...], named: str
) -> None:
    ended = cli(*arguments, "--coordinator", cluster.control)
    assert ended.returncode == EXIT_USAGE
    assert named in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    "arguments", [("objectives", "get"), ("plan", "show"), ("drain", "n1"), ("resume", "n1")]
)
def test_without_a_coordinator_every_verb_says_so(arguments: tuple[str, ...]) -> None:
    ended = cli(*arguments, "--coordinator", "tcp://127.0.0.1:1")
    assert ended.returncode == EXIT_UNREACHABLE
    assert "tcp://127.0.0.1:1" in ended.stderr
