"""Configuration files: a wrong one is refused as a whole, naming key, value and remedy."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from continuer import config
from continuer.config import AgentConfig, C, CoordinatorConfig
from continuer.demo.cluster import program
from continuer.errors import ConfigError
from continuer.placement import Link

AGENT = {"node": "n1", "bundle": "/bundles/m", "coordinator": "tcp://10.0.0.1:7400"}
COORDINATOR = {"bundle": "/bundles/m", "nodes": ["n1", "n2"]}
AGENT_TOML = 'node = "n1"\nbundle = "/bundles/m"\ncoordinator = "tcp://10.0.0.1:7400"\n'
COORDINATOR_TOML = 'bundle = "/bundles/m"\nnodes = ["n1", "n2"]\n'
NAN, INF = float("nan"), float("inf")


def refused(raw: dict[str, Any], kind: type[C]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.parse(raw, kind)
    error = caught.value
    assert str(error) == f"{error.key} = {error.value!r}: {error.remedy}"
    assert error.exit_code == 78
    return error


def test_the_smallest_configurations_are_taken_with_the_documented_defaults() -> None:
    agent = config.parse(AGENT, AgentConfig)
    assert (agent.cluster, agent.listen, agent.standby) == ("continuer", "127.0.0.1", "all")
    assert (agent.ingress_port, agent.data_port, agent.answers_port) == (7410, 7411, 7412)
    assert agent.heartbeat_ms == 10
    coordinator = config.parse(COORDINATOR, CoordinatorConfig)
    assert coordinator.nodes == ("n1", "n2")
    assert (coordinator.agents_port, coordinator.control_port) == (7400, 7401)
    assert (coordinator.heartbeat_timeout_ms, coordinator.dead_after_ms) == (30, 1000)
    assert coordinator.objectives.weight_accuracy == 0.6


@pytest.mark.parametrize(
    "values",
    [
        {"ingress_port": 0, "data_port": 0, "answers_port": 0},
        {"listen": "0.0.0.0", "advertise": "10.0.0.2"},  # noqa: S104  # a value, nothing is bound
        {"advertise": "box-2.example"},
        {"coordinator": "tcp://box-1:1"},
        {"coordinator": "tcp://[fe80::1]:65535"},
        {"node": "a" * 63},
        {"heartbeat_ms": 5},
        {"memory_mib": 32},
    ],
    ids=str,
)
def test_an_agent_may_be_configured_so(values: dict[str, Any]) -> None:
    agent = config.parse({**AGENT, **values}, AgentConfig)
    assert all(getattr(agent, key) == value for key, value in values.items())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("node", ""),
        ("node", "N1"),
        ("node", "-n1"),
        ("node", "n 1"),
        ("node", "n1\n"),
        ("node", "a" * 64),
        ("cluster", "é"),
        ("coordinator", "10.0.0.1:7400"),
        ("coordinator", "udp://10.0.0.1:7400"),
        ("coordinator", "tcp://10.0.0.1"),
        ("coordinator", "tcp://:7400"),
        ("coordinator", "tcp://*:7400"),
        ("coordinator", "tcp://10.0.0.1:0"),
        ("coordinator", "tcp://10.0.0.1:65536"),
        ("listen", "localhost"),
        ("listen", ""),
        ("advertise", ""),
        ("advertise", "0.0.0.0"),  # noqa: S104  # a value, nothing is bound
        ("advertise", "tcp://10.0.0.2"),
        ("advertise", "10.0.0.2:7411"),
        ("ingress_port", -1),
        ("data_port", 65536),
        ("answers_port", 65536),
        ("heartbeat_ms", 0),
        ("heartbeat_ms", NAN),
        ("heartbeat_ms", 60_001),
        ("max_inflight", 0),
        ("max_inflight_mib", 0),
        ("max_inflight_mib", INF),
        ("resend_after_ms", 0),
        ("memory_mib", 0),
        ("memory_mib", NAN),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_an_agent(key: str, value: object) -> None:
    error = refused({**AGENT, key: value}, AgentConfig)
    assert error.key == key
    assert error.value == value or value != value
    assert error.remedy


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("cluster", "", "use 1 to 63 of"),
        ("deployment", "a/b", "use 1 to 63 of"),
        ("nodes", [], "name 1 to 200 nodes"),
        ("nodes", [f"n{i}" for i in range(201)], "name 1 to 200 nodes"),
        ("listen", "box-1", "IP address"),
        ("agents_port", 70000, "port from 1 to 65535"),
        ("control_port", -5, "port from 1 to 65535"),
        ("control_port", 7400, "differ from agents_port"),
        ("heartbeat_timeout_ms", 1.9, "from 2 to 600000"),
        ("heartbeat_timeout_ms", INF, "from 2 to"),
        ("dead_after_ms", 0.5, "from 1 to"),
        ("dead_after_ms", 29, r"at least heartbeat_timeout_ms \(30"),
        ("return_stable_ms", -1, "from 0 to"),
        ("form_timeout_ms", NAN, "from 0 to"),
        ("expected_rate_per_s", -1, "from 0 to"),
        ("hop_us", -1, "from 0 to"),
        ("max_utilisation", 0, "from 0.01 to 1"),
        ("max_utilisation", 80, "from 0.01 to 1"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_a_coordinator(
    key: str, value: object, remedy: str
) -> None:
    error = refused({**COORDINATOR, key: value}, CoordinatorConfig)
    assert error.key == key
    assert error.value == value or value != value
    assert re.search(remedy, error.remedy)


def test_a_node_that_is_named_badly_or_twice_is_named() -> None:
    assert refused({**COORDINATOR, "nodes": ["n1", "N2"]}, CoordinatorConfig).value == "N2"
    error = refused({**COORDINATOR, "nodes": ["n1", "n2", "n1"]}, CoordinatorConfig)
    assert (error.key, error.value) == ("nodes", "n1")
    assert "once" in error.remedy


def test_listening_everywhere_needs_an_address_that_peers_can_dial() -> None:
    error = refused({**AGENT, "listen": "0.0.0.0"}, AgentConfig)  # noqa: S104  # a value
    assert error.key == "advertise"
    assert "0.0.0.0" in error.remedy  # noqa: S104  # a value


@pytest.mark.parametrize(
    ("key", "other"),
    [("data_port", "ingress_port"), ("answers_port", "data_port"), ("store_port", "ingress_port")],
)
def test_two_sockets_of_an_agent_cannot_share_a_port(key: str, other: str) -> None:
    error = refused({**AGENT, key: 7500, other: 7500}, AgentConfig)
    assert "four different ports" in error.remedy


@pytest.mark.parametrize(
    ("key", "meant"), [("heartbeat_msec", "heartbeat_ms"), ("standy", "standby")]
)
def test_an_unknown_key_is_refused_with_the_one_that_was_meant(key: str, meant: str) -> None:
    error = refused({**AGENT, key: 1}, AgentConfig)
    assert (error.key, error.value) == (key, 1)
    assert f"did you mean {meant!r}" in error.remedy


def test_an_unknown_key_that_resembles_nothing_is_to_be_removed() -> None:
    assert "remove it" in refused({**AGENT, "zzz": 1}, AgentConfig).remedy


def test_an_agent_without_a_bundle_needs_a_place_to_fetch_one_into() -> None:
    without = {k: v for k, v in AGENT.items() if k != "bundle"}
    error = refused(without, AgentConfig)
    assert error.key == "bundle"
    assert "state_dir" in error.remedy
    config.parse({**without, "state_dir": "/var/lib/continuer"}, AgentConfig)


def test_the_coordinators_store_needs_a_port_of_its_own() -> None:
    error = refused({**COORDINATOR, "store_port": 7401}, CoordinatorConfig)
    assert error.key == "store_port"


@pytest.mark.parametrize(
    ("link", "key"),
    [
        ({"between": ["n1", "n1"]}, "links.between"),
        ({"between": ["n1", "n9"]}, "links.between"),
        ({"between": ["n1", "n2"], "hop_us": -1.0}, "links.hop_us"),
        ({"between": ["n1", "n2"], "mbit_per_s": 0.0}, "links.mbit_per_s"),
    ],
)
def test_a_link_between_no_two_nodes_or_with_absurd_figures_is_refused(
    link: dict[str, Any], key: str
) -> None:
    error = refused({**COORDINATOR, "nodes": ["n1", "n2"], "links": [link]}, CoordinatorConfig)
    assert error.key == key


def test_a_slow_link_counts_in_both_directions() -> None:
    link = {"between": ["n1", "n2"], "mbit_per_s": 8.0}
    raw = {**COORDINATOR, "nodes": ["n1", "n2"], "hop_us": 200.0, "links": [link]}
    found = config.parse(raw, CoordinatorConfig).slow_links
    # 8 Mbit/s is a byte a microsecond.
    assert found == {("n1", "n2"): Link(200.0, 1.0), ("n2", "n1"): Link(200.0, 1.0)}


@pytest.mark.parametrize("key", ["node", "coordinator"])
def test_a_missing_key_is_named(key: str) -> None:
    error = refused({k: v for k, v in AGENT.items() if k != key}, AgentConfig)
    assert error.key == key
    assert "missing" in error.remedy


@pytest.mark.parametrize(
    ("raw", "key", "value"),
    [
        ({"heartbeat_timeout_ms": "30"}, "heartbeat_timeout_ms", "30"),
        ({"agents_port": 7400.5}, "agents_port", 7400.5),
        ({"agents_port": True}, "agents_port", True),
        ({"nodes": "n1"}, "nodes", "n1"),
        ({"nodes": ["n1", 2]}, "nodes[1]", 2),
        ({"technique": "prayer"}, "technique", "prayer"),
        ({"objectives": 5}, "objectives", 5),
        ({"objectives": {"min_accuracy": "high"}}, "objectives.min_accuracy", "high"),
    ],
)
def test_a_value_of_a_wrong_type_is_named(raw: dict[str, Any], key: str, value: object) -> None:
    error = refused({**COORDINATOR, **raw}, CoordinatorConfig)
    assert (error.key, error.value) == (key, value)
    assert "$" not in error.remedy


def test_objectives_are_checked_under_their_own_name() -> None:
    def with_objectives(**objectives: Any) -> dict[str, Any]:
        return {**COORDINATOR, "objectives": objectives}

    taken = config.parse(with_objectives(min_accuracy=0.8), CoordinatorConfig)
    assert taken.objectives.min_accuracy == 0.8
    error = refused(with_objectives(min_acuracy=0.8), CoordinatorConfig)
    assert error.key == "objectives.min_acuracy"
    assert "'min_accuracy'" in error.remedy
    assert refused(with_objectives(min_accuracy=80), CoordinatorConfig).value == 80
    error = refused(with_objectives(weight_latency=-1), CoordinatorConfig)
    assert error.key == "objectives.weight_latency"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"node = ", "not valid TOML"),
        (b"node = n1\n", "not valid TOML"),
        (b'node = "n1"\nnode = "n2"\n', "not valid TOML"),
        (b'node = "\xff"\n', "not valid TOML"),
        (b"a = " + b"[" * 5000, "not valid TOML"),
        (b"", "missing"),
    ],
    ids=["no value", "no quotes", "twice", "not UTF-8", "nested without end", "empty"],
)
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        config.load(path, AgentConfig)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(ConfigError, match="give a readable file") as caught:
            config.load(path, AgentConfig)
        assert (caught.value.key, caught.value.value) == ("--config", str(path))


# --- the daemons themselves -----------------------------------------------------------------


def check(daemon: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [*program(daemon), "--config", str(path), "--check"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("daemon", "right"),
    [("continuer-agent", AGENT_TOML), ("continuer-coordinator", COORDINATOR_TOML)],
)
def test_a_daemon_checks_its_configuration_and_ends(
    tmp_path: Path, daemon: str, right: str
) -> None:
    path = tmp_path / "daemon.toml"
    path.write_text(right)
    ended = check(daemon, path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    path.write_text(right + 'listen = "everywhere"\n')
    ended = check(daemon, path)
    assert (ended.returncode, ended.stdout) == (78, "")
    assert ended.stderr.startswith(f"{daemon}: listen = 'everywhere': give the IP address")
    assert "Traceback" not in ended.stderr


def test_a_daemon_without_a_configuration_says_how_it_is_called(tmp_path: Path) -> None:
    ended = subprocess.run(program("continuer-agent"), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "--config" in ended.stderr
    assert check("continuer-agent", tmp_path / "absent.toml").returncode == 78


def test_a_daemon_whose_bundle_is_missing_ends_before_it_serves(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.toml"
    path.write_text(f'bundle = "{tmp_path}/none"\nnodes = ["n1"]\n')
    command = [*program("continuer-coordinator"), "--config", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 78
    assert f"{tmp_path}/none" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_key_without_a_letter_is_named_as_it_stands_in_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse({"": 1}, AgentConfig)
    assert caught.value.key == '""'
