"""``continuer logs`` and ``status --watch`` on a real cluster, as things happen."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from continuer.demo.cluster import Cluster, program
from tests.integration.support import cli, events, kill, make_whole, until

Follow = Callable[..., list[str]]


@pytest.fixture
def follow() -> Iterator[Follow]:
    """Starts a command that goes on; gives the list that its lines go into."""
    processes = []

    def begin(*arguments: str) -> list[str]:
        process = subprocess.Popen(
            [*program("continuer"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        lines: list[str] = []
        threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
        return lines

    yield begin
    for process in processes:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def _pump(stream: Any, into: list[str]) -> None:
    into.extend(line.rstrip("\n") for line in stream)


def told(cluster: Cluster, *arguments: str) -> list[dict[str, Any]]:
    ended = cli("logs", "--coordinator", cluster.control, "--json", *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_the_coordinator_tells_what_its_journal_says(cluster: Cluster) -> None:
    last = events(cluster, "coordinator", "daemon_started")[-1]
    everything = events(cluster, "coordinator")
    life = everything[everything.index(last) :]
    found = told(cluster, "--lines", "100000")
    assert [e["event"] for e in found] == [e["event"] for e in life][: len(found)]
    for ours, theirs in zip(found, life, strict=False):
        assert {k: v for k, v in ours.items() if k != "timestamp"} == {
            k: v for k, v in theirs.items() if k != "timestamp"
        }


def test_a_failure_is_followed_from_elsewhere(cluster: Cluster, follow: Follow) -> None:
    where = ("--coordinator", cluster.control)
    everything = follow("logs", "-f", "--json", "-n", "1", *where)
    until(lambda: everything, "the follower to be there")  # what comes now is followed
    failures = follow("logs", "--failures", "-f", "--json", "-n", "1000", *where)
    of_n1 = follow("logs", "-f", "--node", "n1", "-n", "1000", *where)
    kill(cluster, "n3")
    wanted = {"failover", "node_dead", "failover_told"}
    until(lambda: wanted <= story(everything), "the failure to be told")
    until(lambda: wanted <= story(failures), "the failure to be told as one")
    dead = next(e for e in map(json.loads, everything) if e["event"] == "node_dead")
    assert dead["node"] == "n3"
    make_whole(cluster)
    until(lambda: "node_returned" in story(failures), "the return to be told")
    assert not story(failures) & {"plan_formed", "node_joined", "daemon_started"}
    until(lambda: of_n1, "what concerns n1")
    assert all("n1" in line for line in list(of_n1))


def story(lines: list[str]) -> set[str]:
    """Names of the events told so far."""
    return {json.loads(line)["event"] for line in list(lines)}


def test_the_past_is_filtered_before_it_is_counted(cluster: Cluster) -> None:
    assert told(cluster, "--lines", "0") == []
    joined = told(cluster, "--lines", "100000", "--node", "n2")
    assert joined
    assert all("n2" in (e.get("node"), *(e.get("nodes") or ())) for e in joined)
    assert told(cluster, "--lines", "1", "--node", "n2") == joined[-1:]
    ended = cli("logs", "--coordinator", cluster.control, "--node", "n2", "-n", "1")
    assert ended.stdout.count("\n") == 1
    assert joined[-1]["event"] in ended.stdout


def test_who_follows_outlives_the_coordinator(cluster: Cluster, follow: Follow) -> None:
    where = ("--coordinator", cluster.control)
    lines = follow("logs", "-f", "--json", "-n", "1", *where)
    watched = follow("status", "--watch", "--json", "--interval-s", "0.1", *where)
    until(lambda: lines and watched, "both to be there")
    before = len(lines)
    kill(cluster, "coordinator")
    make_whole(cluster)
    until(lambda: "daemon_started" in story(lines[before:]), "the new life's events")
    version = cluster.status(brief=True)["version"]
    until(lambda: json.loads(watched[-1])["version"] == version, "the status of the new life")


def test_nobody_there_is_said_at_once() -> None:
    for arguments in (("logs", "-f"), ("status", "--watch")):
        ended = cli(*arguments, "--coordinator", "tcp://127.0.0.1:1")
        assert (ended.returncode, ended.stdout) == (69, "")
        assert "tcp://127.0.0.1:1" in ended.stderr
