"""Signals to real daemons: SIGHUP reads the file anew, SIGTERM hands the work over."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from continuer.bundle import Bundle
from continuer.demo.cluster import Cluster, toml
from continuer.demo.report import Oracle
from tests.integration.conftest import StartCluster
from tests.integration.support import (
    Stream,
    assert_all_well,
    cli,
    events,
    failovers,
    node_state,
    state,
    techniques,
    until,
)


def change(cluster: Cluster, daemon: str, values: dict[str, Any]) -> None:
    """Write a drop-in beside a daemon's file, or take it away, and send SIGHUP."""
    drop_in = cluster.directory / f"{daemon}.d" / "change.toml"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text(toml(values))
    cluster.processes[daemon].send_signal(signal.SIGHUP)


def objective(cluster: Cluster) -> object:
    return state(cluster)["objectives"]["min_accuracy"]


def reloads(cluster: Cluster, daemon: str, name: str = "reloaded") -> list[dict[str, Any]]:
    return events(cluster, daemon, name)


def reload(cluster: Cluster, daemon: str, values: dict[str, Any]) -> None:
    """The same, and wait until it has been read."""
    before = len(reloads(cluster, daemon))
    change(cluster, daemon, values)
    until(lambda: len(reloads(cluster, daemon)) > before, "the reload")


@pytest.fixture
def restored(cluster: Cluster) -> Iterator[Cluster]:
    """The module's cluster, whose files are as before when the test is over."""
    yield cluster
    for daemon in ("coordinator", "n1"):
        reload(cluster, daemon, {})


def test_the_coordinator_takes_objectives_anew(restored: Cluster) -> None:
    change(restored, "coordinator", {"objectives.min_accuracy": 0.86})
    until(lambda: objective(restored) == 0.86, "the objective")
    told = reloads(restored, "coordinator")[-1]
    assert told["changed"]["objectives"]["min_accuracy"] == 0.86
    assert told["restart_needed"] == []
    assert events(restored, "coordinator", "objectives_changed")[-1]["changed"]


def test_a_wrong_file_is_refused_as_a_whole_and_nothing_changes(restored: Cluster) -> None:
    before = state(restored)
    wrong = {"objectives.min_accuracy": 0.5, "heartbeat_timeout_ms": -3}
    refused = len(reloads(restored, "coordinator", "reload_refused"))
    accepted = len(reloads(restored, "coordinator"))
    change(restored, "coordinator", wrong)
    until(lambda: len(reloads(restored, "coordinator", "reload_refused")) > refused, "a refusal")
    problem = reloads(restored, "coordinator", "reload_refused")[-1]["problem"]
    assert "heartbeat_timeout_ms = -3" in problem
    after = state(restored)
    assert after["objectives"] == before["objectives"]
    assert after["plan"]["route"] == before["plan"]["route"]
    assert len(reloads(restored, "coordinator")) == accepted


def test_a_change_that_needs_a_restart_is_named(restored: Cluster) -> None:
    reload(restored, "coordinator", {"dead_after_ms": 1234.0})
    told = reloads(restored, "coordinator")[-1]
    assert (told["restart_needed"], told["changed"]) == (["dead_after_ms"], {})


def test_the_operators_orders_outrank_the_file_until_they_are_reset(restored: Cluster) -> None:
    def operator(*words: str) -> None:
        ended = cli("objectives", *words, "--coordinator", restored.control)
        assert ended.returncode == 0, ended.stderr

    operator("set", "--min-accuracy", "0.7")
    reload(restored, "coordinator", {"objectives.min_accuracy": 0.6})
    assert objective(restored) == 0.7
    operator("reset")
    assert objective(restored) == 0.6


@pytest.mark.parametrize("daemon", ["coordinator", "n1"])
def test_the_level_of_the_journal_changes_at_once(restored: Cluster, daemon: str) -> None:
    reload(restored, daemon, {"log_level": "error"})
    name = "objectives_changed" if daemon == "coordinator" else "plan_accepted"
    written, others = len(events(restored, daemon, name)), len(accepted(restored, "n2"))
    ended = cli("objectives", "set", "--weight-latency", "0.1", "--coordinator", restored.control)
    assert ended.returncode == 0, ended.stderr
    until(lambda: len(accepted(restored, "n2")) > others, "another plan, at n2")
    assert len(events(restored, daemon, name)) == written
    cli("objectives", "reset", "--coordinator", restored.control)


def accepted(cluster: Cluster, node: str) -> list[dict[str, Any]]:
    return events(cluster, node, "plan_accepted")


# --- what systemd is told ---------------------------------------------------------------------


def test_systemd_is_told_of_starting_reloading_and_stopping(
    start_cluster: StartCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0.2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        cluster = start_cluster(2)
        told: list[str] = []

        def heard(*wanted: str) -> bool:
            """The words have been said, in this order; all that is before them is forgotten."""
            try:
                told.append(manager.recv(4096).decode())
            except TimeoutError:
                return False
            for word in wanted:
                if not any(word in one for one in told):
                    return False
                del told[: next(i for i, one in enumerate(told) if word in one) + 1]
            return True

        until(lambda: heard("READY=1"), "the first daemon to be ready")
        until(lambda: heard("STATUS=full, plan 1."), "the coordinator's status")
        change(cluster, "coordinator", {})
        until(lambda: heard("RELOADING=1\nMONOTONIC_USEC="), "the reload")
        until(lambda: heard("READY=1\nSTATUS=full"), "the end of the reload")
        cluster.processes["n2"].terminate()
        until(lambda: heard("STOPPING=1\nSTATUS=handing"), "the goodbye")


# --- SIGTERM ----------------------------------------------------------------------------------


def test_an_agent_that_is_told_to_stop_costs_no_accuracy_and_no_failover(
    restored: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    cluster = restored
    before = len(failovers(cluster))
    with Stream(cluster.endpoints, seconds=5) as stream:
        stream.flowing()
        cluster.processes["n1"].send_signal(signal.SIGTERM)  # the entrance in use, and a stage
        assert cluster.processes["n1"].wait(30) == 0
        until(lambda: node_state(cluster, "n1") == "left", "its leave")
    assert_all_well(oracle, bundle, stream.records)
    assert techniques(stream.records) <= {"none", "repartition"}
    assert len(failovers(cluster)) == before
    assert events(cluster, "n1", "handed_over")[-1]["outcome"] == "handed over"
    cluster.start("n1")
    until(lambda: node_state(cluster, "n1") == "active", "n1 to be at work in its next life")


def test_who_cannot_be_spared_leaves_all_the_same(start_cluster: StartCluster) -> None:
    cluster = start_cluster(1)
    cluster.processes["n1"].send_signal(signal.SIGTERM)
    assert cluster.processes["n1"].wait(30) == 0
    assert "cannot run the model" in events(cluster, "n1", "handed_over")[-1]["outcome"]


def test_without_a_coordinator_an_agent_stops_at_once(start_cluster: StartCluster) -> None:
    cluster = start_cluster(2)
    cluster.processes["coordinator"].kill()
    until(lambda: events(cluster, "n1", "coordinator_lost"), "the loss")
    cluster.processes["n1"].send_signal(signal.SIGTERM)
    assert cluster.processes["n1"].wait(30) == 0
    assert "no coordinator" in events(cluster, "n1", "handed_over")[-1]["outcome"]


# --- a state directory that cannot be used ----------------------------------------------------


def test_a_coordinator_that_cannot_write_its_state_says_so_and_serves(
    start_cluster: StartCluster,
) -> None:
    cluster = start_cluster(2, coordinator={"state_dir": "/proc/continuer"})  # nobody can
    assert "/proc/continuer" in events(cluster, "coordinator", "state_unwritable")[0]["problem"]
    ended = cli("drain", "n1", "--coordinator", cluster.control)
    assert ended.returncode != 0
    assert "state_dir: the order cannot be stored" in ended.stderr
