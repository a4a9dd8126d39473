"""The units, and ``continuer install``: what systemd and an administrator will find."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from continuer import cli
from continuer.config import AgentConfig, CoordinatorConfig, parse
from continuer.config_sources import read_toml
from continuer.errors import EXIT_CONFIG, EXIT_OK, EXIT_PERMISSION, EXIT_USAGE
from continuer.install_cli import files

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
ROLES = ["agent", "coordinator"]


def read(role: str, file: Path) -> AgentConfig | CoordinatorConfig:
    """A configuration, checked as the daemon does."""
    raw = read_toml(file)
    return parse(raw, AgentConfig) if role == "agent" else parse(raw, CoordinatorConfig)


def settings(role: str) -> dict[str, list[str]]:
    """The unit's keys; a key may be given several times."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / f"continuer-{role}.service").read_text().splitlines():
        if re.match(r"\w+=", line):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_says_what_systemd_must_know_of_a_daemon(role: str) -> None:
    unit = {key: values[-1] for key, values in settings(role).items()}
    assert unit["Type"] == "notify"
    assert int(unit["WatchdogSec"]) > 0
    assert unit["Restart"] == "always"
    assert str(EXIT_CONFIG) in unit["RestartPreventExitStatus"].split()
    assert "network-online.target" in unit["After"]
    assert "network-online.target" in unit["Wants"]
    assert unit["User"] == unit["StateDirectory"] == f"continuer-{role}"
    assert unit["LimitRTPRIO"] == "1"
    # The shell's own kill: a minimal Debian has no other.
    assert unit["ExecReload"] == '/bin/sh -c "kill -HUP ${MAINPID}"'


def test_an_agent_has_the_time_to_hand_its_work_over() -> None:
    drain_timeout_s = AgentConfig("n", "b", "tcp://h:1").drain_timeout_s
    assert int(settings("agent")["TimeoutStopSec"][-1]) > drain_timeout_s + 5


@pytest.mark.parametrize("role", ROLES)
def test_the_sample_configuration_is_right_as_it_stands(role: str) -> None:
    found = read(role, UNITS / f"{role}.toml")
    assert str(found.bundle).startswith(f"/usr/lib/continuer-{role}/bundles/")
    if isinstance(found, CoordinatorConfig):
        assert found.state_dir == f"/var/lib/{settings(role)['StateDirectory'][-1]}"


@pytest.mark.parametrize("role", ROLES)
def test_the_user_is_the_one_that_the_unit_names(role: str) -> None:
    lines = (UNITS / f"continuer-{role}.sysusers").read_text().splitlines()
    assert [line.split()[:2] for line in lines if not line.startswith("#")] == [
        ["u", settings(role)["User"][-1]]
    ]


# --- continuer install ------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_what_is_installed_starts_this_very_installation(role: str, tmp_path: Path) -> None:
    program, bundle = Path(f"/opt/c/bin/continuer-{role}"), Path("/opt/c/bundles/resnet")
    unit, user, sample = files(role, program, bundle)
    assert f"ExecStart={program} --config {sample.path}" in unit.text
    assert "/usr/bin/continuer" not in unit.text
    assert str(unit.path) == f"/etc/systemd/system/continuer-{role}.service"
    assert str(user.path) == f"/etc/sysusers.d/continuer-{role}.conf"
    (tmp_path / "sample").write_text(sample.text)
    assert read(role, tmp_path / "sample").bundle == str(bundle)
    assert (unit.is_configuration, sample.is_configuration) == (False, True)


@pytest.fixture
def opt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An installation at a place that services can use, as far as the command can tell."""
    prefix = tmp_path / "opt"
    (prefix / "bin").mkdir(parents=True)
    for role in ROLES:
        (prefix / "bin" / f"continuer-{role}").touch()
    monkeypatch.setattr("sys.prefix", str(prefix))
    monkeypatch.setattr("continuer.install_cli.HIDDEN", ("/home",))
    return prefix


@pytest.mark.parametrize("role", ROLES)
def test_installing_writes_and_uninstalling_removes_all_but_the_configuration(
    opt: Path, tmp_path: Path, role: str
) -> None:
    root = tmp_path / "system"
    assert cli.main(["install", f"--{role}", "--root", str(root)]) == EXIT_OK
    unit = root / f"etc/systemd/system/continuer-{role}.service"
    sample = root / f"etc/continuer/{role}.toml"
    assert f"ExecStart={opt}/bin/continuer-{role}" in unit.read_text()
    sample.write_text("# mine\n")
    assert cli.main(["install", f"--{role}", "--root", str(root)]) == EXIT_OK
    assert sample.read_text() == "# mine\n"
    assert cli.main(["uninstall", f"--{role}", "--root", str(root)]) == EXIT_OK
    left = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    assert left == [Path(f"etc/continuer/{role}.toml")]


@pytest.mark.usefixtures("opt")
def test_a_dry_run_shows_everything_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "system"
    assert cli.main(["install", "--agent", "--dry-run", "--root", str(root)]) == EXIT_OK
    assert not root.exists()
    shown = capsys.readouterr().out
    assert "WatchdogSec=" in shown
    assert 'node = "n1"' in shown


def test_an_installation_that_no_service_can_reach_is_refused(
    opt: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("continuer.install_cli.HIDDEN", (str(opt.parent),))
    assert cli.main(["install", "--agent", "--dry-run"]) == EXIT_USAGE
    assert "/opt/continuer" in capsys.readouterr().err


@pytest.mark.usefixtures("opt")
def test_a_system_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    code = cli.main(["install", "--agent", "--root", str(tmp_path / "file")])
    assert code in (EXIT_CONFIG, EXIT_PERMISSION)
    assert str(tmp_path / "file/etc/systemd/system") in capsys.readouterr().err
