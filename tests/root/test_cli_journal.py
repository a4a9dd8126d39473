"""``continuer logs`` from the journal of a real journald, alone in a mount namespace."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from continuer.demo.cluster import program

pytestmark = pytest.mark.root

JOURNALD = Path("/lib/systemd/systemd-journald")
TIMEOUT_S = 90
# A daemon's journal as in a service: JOURNAL_STREAM names what its standard error leads into.
EMIT = """
import os, sys
from continuer.journal import Journal
found = os.fstat(sys.stderr.fileno())
os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
journal = Journal(role="coordinator")
journal.emit("node_joined", node="n2", incarnation=7)
journal.emit("node_dead", node="n2", reason="connection refused")
journal.emit("suspicion_held", nodes=["n3", "n4"])
journal.emit("node_left", node="n3")
Journal(role="agent", node="n3").emit("coordinator_lost", coordinator="tcp://h:1")
"""
# The namespace's own /run: the host's journald, where there is one, is not touched.
INSIDE = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal
"$1" & daemon=$!
trap 'kill $daemon' EXIT
for _ in $(seq 200); do [ -S /run/systemd/journal/socket ] && break; sleep 0.05; done
"$2" -c "$3"
journalctl --sync
shift 3
"$@"
"""


def logs(*arguments: str) -> list[dict[str, Any]]:
    """What ``continuer logs --json`` says after the events above."""
    for name in ("unshare", "journalctl"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed; apt install systemd util-linux")
    if not JOURNALD.exists():
        pytest.skip(f"{JOURNALD} is not installed; apt install systemd")
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", INSIDE, "inside"]
    command += [str(JOURNALD), sys.executable, EMIT, *program("continuer"), "logs", *arguments]
    ended = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_the_journal_is_read_where_it_holds_events() -> None:
    found = logs()
    assert [event["event"] for event in found] == [
        *("node_joined", "node_dead", "suspicion_held", "node_left", "coordinator_lost"),
    ]
    assert (found[0]["node"], found[0]["incarnation"], found[0]["level"]) == ("n2", 7, "info")
    assert found[2]["nodes"] == ["n3", "n4"]
    assert (found[4]["role"], found[4]["node"]) == ("agent", "n3")


def test_only_failures_and_only_a_node_are_shown_when_asked_for() -> None:
    assert [e["event"] for e in logs("--failures")] == [
        *("node_dead", "suspicion_held", "coordinator_lost")
    ]
    assert [e["event"] for e in logs("--node", "n3")] == [
        *("suspicion_held", "node_left", "coordinator_lost")
    ]
    assert [e["event"] for e in logs("--node", "n3", "--failures", "-n", "1")] == [
        "coordinator_lost"
    ]
