"""Flags over environment over drop-ins over the file; and every key is explained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from continuer import config, config_docs
from continuer.config import AgentConfig, CoordinatorConfig
from continuer.config_docs import TABLES, Table
from continuer.config_sources import settings
from continuer.errors import ConfigError
from tests.unit.test_config import AGENT_TOML, COORDINATOR_TOML


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(AGENT_TOML + "heartbeat_ms = 11.0\n")
    return path


@pytest.fixture
def coordinator(tmp_path: Path) -> Path:
    path = tmp_path / "coordinator.toml"
    path.write_text(COORDINATOR_TOML + "[objectives]\nmin_accuracy = 0.5\nweight_latency = 0.2\n")
    return path


def drop_in(file: Path, name: str, text: str) -> Path:
    directory = file.with_suffix(".d")
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(text)
    return path


# --- who wins -------------------------------------------------------------------------------


def test_a_later_source_overrides_an_earlier_one(agent: Path) -> None:
    def heartbeat(flags: dict[str, str], environ: dict[str, str]) -> float:
        return config.load(agent, AgentConfig, flags, environ).heartbeat_ms

    assert heartbeat({}, {}) == 11
    for name in ("40", "90", "10", "70", "60", "20", "80", "30", "50"):
        drop_in(agent, f"{name}.toml", f"heartbeat_ms = {13 if name == '90' else 12}.0\n")
    assert heartbeat({}, {}) == 13
    environ = {"CONTINUER_HEARTBEAT_MS": "14"}
    assert heartbeat({}, environ) == 14
    assert heartbeat({"--heartbeat-ms": "15"}, environ) == 15


def test_only_toml_files_beside_the_file_are_drop_ins(agent: Path) -> None:
    drop_in(agent, "10.toml.bak", "heartbeat_ms = 99.0\n")
    (agent.parent / "other.d").mkdir()
    (agent.parent / "other.d" / "10.toml").write_text("heartbeat_ms = 98.0\n")
    assert config.load(agent, AgentConfig, environ={}).heartbeat_ms == 11


def test_tables_are_joined_key_by_key(coordinator: Path) -> None:
    drop_in(coordinator, "10.toml", "[objectives]\nmin_accuracy = 0.7\n")
    environ = {"CONTINUER_OBJECTIVES_WEIGHT_DOWNTIME": "0.9"}
    found = config.load(coordinator, CoordinatorConfig, environ=environ).objectives
    assert (found.min_accuracy, found.weight_latency, found.weight_downtime) == (0.7, 0.2, 0.9)


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("CONTINUER_NODES", "a,b", "nodes", ("a", "b")),
        ("CONTINUER_NODES", '["a", "b"]', "nodes", ("a", "b")),
        ("CONTINUER_REALTIME", "false", "realtime", False),
        ("CONTINUER_CLUSTER", "17", "cluster", "17"),
        ("CONTINUER_STATE_DIR", "/x", "state_dir", "/x"),
        ("CONTINUER_TECHNIQUE", "skip", "technique", "skip"),
        ("CONTINUER_CONTROL_PORT", "7999", "control_port", 7999),
        ("CONTINUER_CLUSTER", "", "cluster", "continuer"),
    ],
)
def test_a_text_of_the_environment_becomes_what_the_key_takes(
    coordinator: Path, variable: str, text: str, key: str, value: object
) -> None:
    found = config.load(coordinator, CoordinatorConfig, environ={variable: text})
    assert getattr(found, key) == value


def test_what_is_wrong_is_said_with_its_source(agent: Path) -> None:
    with pytest.raises(ConfigError, match=r"from CONTINUER_HEARTBEAT_MS") as caught:
        config.load(agent, AgentConfig, environ={"CONTINUER_HEARTBEAT_MS": "soon"})
    assert (caught.value.key, caught.value.value) == ("heartbeat_ms", "soon")
    path = drop_in(agent, "10.toml", "max_inflight = 0\n")
    with pytest.raises(ConfigError, match=re.escape(f"from {path}")):
        config.load(agent, AgentConfig, environ={})
    path.write_text("max_inflight = ")
    with pytest.raises(ConfigError, match="not valid TOML") as caught:
        config.load(agent, AgentConfig, environ={})
    assert caught.value.value == str(path)


def test_a_misspelt_variable_is_refused_and_a_strange_one_is_not_ours(agent: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'CONTINUER_HEARTBEAT_MS'"):
        config.load(agent, AgentConfig, environ={"CONTINUER_HEARTBEATS_MS": "5"})
    environ = {"CONTINUER_SOMETHING_ELSE": "5", "HEARTBEAT_MS": "7"}
    assert config.load(agent, AgentConfig, environ=environ).heartbeat_ms == 11


@pytest.mark.parametrize("kind", [AgentConfig, CoordinatorConfig])
def test_every_flag_and_variable_has_one_key(kind: type[msgspec.Struct]) -> None:
    found = list(settings(kind))
    assert len({s.flag for s in found}) == len({s.variable for s in found}) == len(found)
    assert not {s.flag for s in found} & {"--config", "--check", "--version", "--help"}


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("9464", "HOST:PORT"),
        ("localhost:9464", "HOST:PORT"),
        ("127.0.0.1:", "HOST:PORT"),
        ("127.0.0.1:65536", "HOST:PORT"),
        ("127.0.0.1:7400", "no other key names"),
    ],
)
def test_a_place_for_metrics_that_cannot_be_is_refused(value: str, remedy: str) -> None:
    raw = {"bundle": "/b", "nodes": ["n1"], "metrics": value}
    with pytest.raises(ConfigError, match=remedy) as caught:
        config.parse(raw, CoordinatorConfig)
    assert (caught.value.key, caught.value.value) == ("metrics", value)
    assert config.parse({**raw, "metrics": "[::1]:0"}, CoordinatorConfig).metrics == "[::1]:0"


# --- what is explained ----------------------------------------------------------------------

ALL_TABLES = [table for tables in TABLES.values() for table in tables]


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda t: f"{t.kind.__name__}{t.head}")
def test_every_key_is_explained_and_no_other(table: Table) -> None:
    keys = {field.encode_name for field in msgspec.structs.fields(table.kind)}
    assert table.keys.keys() == keys
    for name, key in table.keys.items():
        assert key.meaning.endswith("."), name
        assert key.unit, name


@pytest.mark.parametrize("role", ["agent", "coordinator"])
def test_a_sample_is_a_right_configuration_with_the_defaults(role: str, tmp_path: Path) -> None:
    kinds: dict[str, Any] = {"agent": AgentConfig, "coordinator": CoordinatorConfig}
    path = tmp_path / f"{role}.toml"
    path.write_text(config_docs.sample(role))
    found = config.load(path, kinds[role], environ={})
    set_there = {key for key, about in TABLES[role][0].keys.items() if about.example is not None}
    for field in msgspec.structs.fields(kinds[role]):
        if not field.required and field.encode_name not in set_there and field.default is not None:
            assert getattr(found, field.name) == field.default or field.name == "objectives"
    assert found.metrics.startswith("127.0.0.1:")


@pytest.mark.parametrize("role", ["agent", "coordinator"])
def test_what_a_sample_comments_out_are_values_that_work(role: str, tmp_path: Path) -> None:
    text = config_docs.sample(role)
    shown = re.sub(r"(?m)^# (\w+ = (?!\.\.\.).*|\[+[\w.]+\]+)$", r"\1", text)
    shown = re.sub(r"(?m)^# \w+ = \.\.\.$", "", shown)
    path = tmp_path / f"{role}.toml"
    path.write_text(shown)
    kinds: dict[str, Any] = {"agent": AgentConfig, "coordinator": CoordinatorConfig}
    config.load(path, kinds[role], environ={})
