"""Daemons that cannot work say why: in their last words or their journal, harming nobody."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from continuer.bundle import Bundle
from continuer.demo.cluster import Cluster, free_ports, program, toml
from tests.integration.support import events, state, until

AGENT_OF_ANOTHER_PROTOCOL = """
import sys
from continuer import wire
wire.PROTOCOL += 1
from agent.main import main
sys.exit(main(sys.argv[1:]))
"""


class Newcomer:
    """One more daemon beside a cluster: its configuration, its process, its journal."""

    def __init__(self, directory: Path, kind: str, values: dict[str, Any]) -> None:
        self.config = directory / f"{kind}.toml"
        self.config.write_text(toml(values))
        self.log = directory / f"{kind}.log"
        self._command = [*program(kind), "--config", str(self.config)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str] | None = None) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command or self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def last_words(self) -> str:
        """Run it; it must end by itself with the exit code of a wrong configuration."""
        self.start()
        assert self.process is not None
        assert self.process.wait(30) == 78, self.said
        assert "Traceback" not in self.said
        return self.said


@pytest.fixture
def newcomers() -> Iterator[list[Newcomer]]:
    """Those put into this list end with the test."""
    made: list[Newcomer] = []
    yield made
    for newcomer in made:
        newcomer.end()


@pytest.fixture
def agent(bundle: Bundle, tmp_path: Path, newcomers: list[Newcomer]) -> Any:
    """Makes an agent of its own, with changes to a configuration that would work."""

    def make(**changes: Any) -> Newcomer:
        ports = free_ports(4)
        values = {
            "node": "n1",
            "bundle": str(bundle.directory),
            "coordinator": f"tcp://127.0.0.1:{ports[0]}",
            "ingress_port": ports[1],
            "data_port": ports[2],
            "answers_port": ports[3],
            **changes,
        }
        newcomers.append(Newcomer(tmp_path, "continuer-agent", values))
        return newcomers[-1]

    return make


@pytest.fixture
def coordinator(bundle: Bundle, tmp_path: Path, newcomers: list[Newcomer]) -> Any:
    """Makes a coordinator of its own, with changes to a configuration that would work."""

    def make(**changes: Any) -> Newcomer:
        ports = free_ports(2)
        values = {
            "nodes": ["n1"],
            "bundle": str(bundle.directory),
            "agents_port": ports[0],
            "control_port": ports[1],
            **changes,
        }
        newcomers.append(Newcomer(tmp_path, "continuer-coordinator", values))
        return newcomers[-1]

    return make


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


# --- ports --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["ingress_port", "data_port", "answers_port"])
def test_an_agent_names_the_port_that_is_in_use(agent: Any, taken: int, key: str) -> None:
    said = agent(**{key: taken}).last_words()
    assert f"{key} = {taken}: the port is in use" in said
    assert "daemon_started" not in said


@pytest.mark.parametrize("key", ["agents_port", "control_port"])
def test_a_coordinator_names_the_port_that_is_in_use(
    coordinator: Any, taken: int, key: str
) -> None:
    said = coordinator(**{key: taken}).last_words()
    assert f"{key} = {taken}: the port is in use" in said


def test_a_name_that_cannot_be_resolved_is_not_told_to_others(agent: Any) -> None:
    said = agent(advertise="no-such-host.invalid").last_words()
    assert "advertise = 'no-such-host.invalid': cannot be resolved" in said


def test_an_address_that_is_not_ours_is_refused(agent: Any) -> None:
    said = agent(listen="192.0.2.1", advertise="192.0.2.1", security="off").last_words()
    assert "ingress_port" in said
    assert "cannot listen on 192.0.2.1" in said


# --- bundles ------------------------------------------------------------------------------


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle, to be damaged."""
    return Path(shutil.copytree(bundle.directory, tmp_path / "bundle"))


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "said"), [(Path.unlink, "No such file"), (alter, "altered"), (truncate, "truncated")]
)
def test_a_damaged_bundle_is_refused_before_a_socket_is_opened(
    agent: Any, copied: Path, taken: int, damage: Any, said: str
) -> None:
    """All of its ports being in use does not matter: it never gets so far as to notice."""
    path = copied / "block07.tflite"
    damage(path)
    words = agent(bundle=str(copied), ingress_port=taken).last_words()
    assert str(path) in words
    assert said in words
    assert "copy the bundle again" in words
    assert "in use" not in words


def test_a_damaged_manifest_is_refused_by_both_daemons(
    agent: Any, coordinator: Any, copied: Path
) -> None:
    manifest = copied / "manifest.json"
    truncate(manifest)
    manifest.write_bytes(manifest.read_bytes()[:-100])
    for make in (agent, coordinator):
        words = make(bundle=str(copied)).last_words()
        assert str(manifest) in words
        assert "damaged" in words


def test_a_directory_without_a_bundle_is_refused(agent: Any, tmp_path: Path) -> None:
    words = agent(bundle=str(tmp_path / "nowhere")).last_words()
    assert "nowhere" in words
    assert "manifest.json" in words


def test_an_unreadable_term_is_refused_with_the_file(coordinator: Any, tmp_path: Path) -> None:
    (tmp_path / "term").write_text("three")
    words = coordinator(state_dir=str(tmp_path)).last_words()
    assert "state_dir" in words
    assert str(tmp_path / "term") in words
    assert "repair or remove it" in words


# --- joining a cluster --------------------------------------------------------------------


@pytest.fixture
def beside(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster that must not notice: same plan, no failover, every process alive."""
    before = state(cluster)
    yield cluster
    after = state(cluster)
    assert after["failovers"] == before["failovers"]
    assert after["version"] == before["version"]
    assert after["health"] == "full"
    lives = [[n["incarnation"] for n in seen["nodes"]] for seen in (before, after)]
    assert lives[0] == lives[1]
    assert all(process.poll() is None for process in cluster.processes.values())


def agents_endpoint(cluster: Cluster) -> str:
    """Where agents join."""
    port = events(cluster, "coordinator", "daemon_started")[-1]["endpoints"]["agents"]
    return f"tcp://127.0.0.1:{port}"


def refusal(newcomer: Newcomer, command: list[str] | None = None) -> str:
    """The line of the newcomer's journal that says why it was turned away."""
    newcomer.start(command)
    line: str = until(
        lambda: next((x for x in newcomer.said.splitlines() if '"join_refused"' in x), None),
        "the newcomer's journal to say that it was refused",
    )
    assert newcomer.process is not None
    assert newcomer.process.poll() is None, "it should stay: the operator may mend the other side"
    return line


def test_an_agent_with_another_bundle_is_turned_away(
    beside: Cluster, agent: Any, copied: Path
) -> None:
    manifest = copied / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    newcomer = agent(bundle=str(copied), coordinator=agents_endpoint(beside))
    line = refusal(newcomer)
    assert '"code": "bundle"' in line
    assert "copy the same bundle here" in line
    assert events(beside, "coordinator", "node_refused")[-1]["code"] == "bundle"


def test_an_agent_of_another_cluster_is_turned_away(beside: Cluster, agent: Any) -> None:
    line = refusal(agent(cluster="staging", coordinator=agents_endpoint(beside)))
    assert '"code": "cluster"' in line
    assert "'staging'" in line
    assert "correct 'cluster' or 'coordinator'" in line


def test_an_agent_that_is_not_listed_is_turned_away(beside: Cluster, agent: Any) -> None:
    line = refusal(agent(node="n77", coordinator=agents_endpoint(beside)))
    assert '"code": "node"' in line
    assert "'n77'" in line
    assert "n1, n2, n3, n4, n5" in line


def test_an_agent_whose_name_is_taken_is_turned_away(beside: Cluster, agent: Any) -> None:
    line = refusal(agent(node="n3", coordinator=agents_endpoint(beside)))
    assert '"code": "node"' in line
    assert "a live agent has this name" in line


def test_an_agent_of_another_protocol_version_is_turned_away(beside: Cluster, agent: Any) -> None:
    newcomer = agent(coordinator=agents_endpoint(beside))
    script = [sys.executable, "-c", AGENT_OF_ANOTHER_PROTOCOL, "--config", str(newcomer.config)]
    line = refusal(newcomer, script)
    assert '"code": "protocol"' in line
    assert "install the same version" in line
    until(
        lambda: any(
            "protocol" in e["problem"] for e in events(beside, "coordinator", "foreign_bytes")
        ),
        "the coordinator's journal to speak of it too",
    )


def test_an_agent_without_a_coordinator_waits_for_one(agent: Any, coordinator: Any) -> None:
    """The order in which an operator starts things does not matter."""
    (port,) = free_ports(1)
    waiting = agent(coordinator=f"tcp://127.0.0.1:{port}")
    waiting.start()
    until(lambda: "daemon_started" in waiting.said, "the agent to be up")
    late = coordinator(agents_port=port)
    late.start()
    until(lambda: '"plan_formed"' in late.said, "a plan")
    until(lambda: '"plan_accepted"' in waiting.said, "the agent to obey it")
