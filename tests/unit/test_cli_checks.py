"""``continuer doctor``'s checks: each one sees the fault that it is there for."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from continuer import checks, cli, config
from continuer.checks import Finding
from continuer.config import AgentConfig
from tests.unit.harness import BUNDLE
from tests.unit.test_config import AGENT


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    found = checks.wheels("agent", lambda name: None if name == "ai-edge-litert" else "1.0")
    assert found.outcome == "fail"
    assert "ai-edge-litert" in found.found
    assert "continuer[agent]" in found.remedy
    assert checks.wheels("coordinator", lambda _: "1.0").outcome == "ok"


@pytest.mark.parametrize(
    ("now_s", "synchronised", "outcome"),
    [(0.0, True, "fail"), (1.8e9, False, "warn"), (1.8e9, True, "ok")],
)
def test_a_clock_that_was_never_set_is_worse_than_one_that_drifts(
    now_s: float, synchronised: bool, outcome: str
) -> None:
    assert checks.clock(now_s, synchronised=synchronised).outcome == outcome


def test_the_clock_of_this_machine_can_be_asked() -> None:
    assert checks.clock().check == "clock"


@pytest.mark.parametrize(
    ("governors", "outcome"),
    [
        ((), "ok"),
        (("performance", "performance"), "ok"),
        (("performance", "powersave"), "warn"),
        (("ondemand",), "warn"),
    ],
)
def test_a_governor_that_saves_power_is_warned_of(
    governors: tuple[str, ...], outcome: str, tmp_path: Path
) -> None:
    for number, name in enumerate(governors):
        directory = tmp_path / f"cpu{number}" / "cpufreq"
        directory.mkdir(parents=True)
        (directory / "scaling_governor").write_text(f"{name}\n")
    found = checks.governor(tmp_path)
    assert found.outcome == outcome
    if outcome == "warn":
        assert governors[-1] in found.found
        assert "performance" in found.remedy


def test_journald_and_real_time_are_looked_for(tmp_path: Path) -> None:
    assert checks.journald(tmp_path / "absent").outcome == "warn"
    assert checks.journald(tmp_path).outcome == "ok"
    assert checks.real_time(lambda: False).outcome == "warn"
    assert "LimitRTPRIO" in checks.real_time(lambda: False).remedy
    assert checks.real_time(lambda: True).outcome == "ok"


def test_a_port_in_use_is_seen_and_a_strange_address_too(listening: int) -> None:
    taken = checks.port("data_port", "127.0.0.1", listening)
    assert taken.outcome == "warn"
    assert str(listening) in taken.found
    assert checks.port("data_port", "127.0.0.1", 0).outcome == "ok"
    foreign = checks.port("data_port", "192.0.2.1", 7411)  # an address of documentation
    assert foreign.outcome == "fail"
    assert "listen" in foreign.remedy


def test_a_port_that_a_daemon_uses_is_well() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    try:
        number = router.bind_to_random_port("tcp://127.0.0.1")
        found = checks.port("data_port", "127.0.0.1", number)
    finally:
        context.destroy(linger=0)
    assert (found.check, found.outcome) == ("port", "ok")
    assert "is used, as by a daemon" in found.found


def test_all_ports_of_a_configuration_are_looked_at() -> None:
    settings = config.parse({**AGENT, "ingress_port": 0, "data_port": 0}, AgentConfig)
    texts = [finding.found for finding in checks.ports(settings)]
    for key in ("ingress_port", "data_port", "answers_port"):
        assert any(text.startswith(key) for text in texts), texts


def test_a_damaged_model_is_a_failure_and_a_whole_one_is_named(tmp_path: Path) -> None:
    good, bundle = checks.model(str(BUNDLE.directory))
    assert good.outcome == "ok"
    assert bundle is not None
    shutil.copytree(BUNDLE.directory, tmp_path / "b")
    part = next((tmp_path / "b").glob("*.tflite"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    bad, nothing = checks.model(str(tmp_path / "b"))
    assert bad.outcome == "fail"
    assert part.name in bad.found
    assert nothing is None


def test_a_configuration_that_all_may_write_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("")
    settings = config.parse({**AGENT, "state_dir": str(tmp_path / "new" / "state")}, AgentConfig)
    path.chmod(0o644)
    assert {f.outcome for f in checks.permissions(path, settings)} == {"ok"}
    path.chmod(0o666)
    found = {f.outcome: f for f in checks.permissions(path, settings)}
    assert found["fail"].remedy == f"chmod o-w {path}"


def test_a_state_directory_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("")
    settings = config.parse({**AGENT, "state_dir": str(path / "state")}, AgentConfig)
    assert "warn" in {f.outcome for f in checks.permissions(path, settings)}


def test_no_coordinator_is_a_failure_that_names_the_endpoint() -> None:
    (found,) = checks.cluster("tcp://127.0.0.1:1", None)
    assert found.outcome == "fail"
    assert "tcp://127.0.0.1:1" in found.found


@pytest.mark.parametrize(("outcome", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_only_a_failure_makes_the_exit_code_1(
    outcome: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = Finding("clock", outcome, "so it is", "do this" if outcome != "ok" else "")  # type: ignore[arg-type]  # a word of the three
    monkeypatch.setattr(checks, "clock", lambda: found)
    monkeypatch.setattr(checks, "wheels", lambda _: Finding("wheels", "ok", "all"))
    assert cli.main(["doctor", "--offline"]) == code
    out, err = capsys.readouterr()
    assert f"{outcome:<5}clock" in out
    assert ("-> do this" in out) == (outcome != "ok")
    assert "checks:" in err
