"""``continuer config``: samples, and what is wrong with files, alone and together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from continuer import cli
from continuer.errors import EXIT_CONFIG, EXIT_OK
from tests.unit.test_config import AGENT_TOML, COORDINATOR_TOML


def check(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = cli.main(["config", "check", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("role", ["agent", "coordinator"])
def test_a_sample_passes_the_check(
    role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["config", "sample", role]) == EXIT_OK
    path = write(tmp_path, "any.toml", capsys.readouterr().out)
    assert check(capsys, path) == (EXIT_OK, f"{path}: ok ({role})\n", "")


def test_key_value_and_remedy_are_said_with_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "agent.toml", AGENT_TOML + "heartbeet_ms = 5.0\n")
    code, out, err = check(capsys, path)
    assert (code, out) == (EXIT_CONFIG, "")
    assert err == f"{path}: heartbeet_ms = 5.0: unknown key; did you mean 'heartbeat_ms'?\n"


def test_every_file_is_checked_and_json_says_it_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path, "n1.toml", AGENT_TOML)
    bad = write(tmp_path, "coordinator.toml", COORDINATOR_TOML + "dead_after_ms = 1.0\n")
    code, out, err = check(capsys, good, bad, "--json")
    assert (code, err) == (EXIT_CONFIG, "")
    first, second = json.loads(out)["files"]
    assert (first["ok"], first["role"]) == (True, "agent")
    assert (second["ok"], second["key"], second["value"]) == (False, "dead_after_ms", 1.0)
    assert "heartbeat_timeout_ms" in second["remedy"]


def test_the_environment_of_the_user_has_no_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTINUER_HEARTBEAT_MS", "soon")
    code, _, err = check(capsys, write(tmp_path, "agent.toml", AGENT_TOML))
    assert (code, err) == (EXIT_OK, "")


def test_a_bad_drop_in_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "agent.toml", AGENT_TOML)
    (tmp_path / "agent.d").mkdir()
    extra = write(tmp_path / "agent.d", "50.toml", "max_inflight = 0\n")
    code, _, err = check(capsys, path)
    assert code == EXIT_CONFIG
    assert f"(from {extra})" in err


def test_a_file_that_is_nobodys_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = check(capsys, write(tmp_path, "x.toml", 'cluster = "c"\n'))
    assert code == EXIT_CONFIG
    assert "--role" in err
    code, _, err = check(capsys, tmp_path / "absent.toml")
    assert code == EXIT_CONFIG
    assert "give a readable file" in err


@pytest.mark.parametrize(
    ("agent", "key", "said"),
    [
        ({"node": '"n9"'}, "node", "the coordinator expects n1, n2"),
        ({"cluster": '"other"'}, "cluster", "'continuer'"),
        ({"heartbeat_ms": "20.0"}, "heartbeat_ms", "at most 15, or there at least 40"),
        ({"coordinator": '"tcp://10.0.0.1:7401"'}, "coordinator", "agents_port is 7400"),
    ],
)
def test_files_that_contradict_each_other_are_refused(
    agent: dict[str, str],
    key: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values: dict[str, Any] = {
        "node": '"n1"',
        "bundle": '"/bundles/m"',
        "coordinator": '"tcp://10.0.0.1:7400"',
    }
    text = "".join(f"{k} = {v}\n" for k, v in {**values, **agent}.items())
    files = (
        write(tmp_path, "coordinator.toml", COORDINATOR_TOML),
        write(tmp_path, "agent.toml", text),
    )
    code, out, err = check(capsys, *files)
    assert code == EXIT_CONFIG
    assert out == f"{files[0]}: ok (coordinator)\n"
    assert err.startswith(f"{files[1]}: {key} = ")
    assert said in err


def test_two_boxes_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write(tmp_path, f"{name}.toml", AGENT_TOML) for name in ("a", "b")]
    code, out, err = check(capsys, *files)
    assert code == EXIT_CONFIG
    assert out == f"{files[0]}: ok (agent)\n"
    assert "name each box once" in err
