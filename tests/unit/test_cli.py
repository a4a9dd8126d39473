"""The ``continuer`` command: exit codes, streams, and what it says when called wrongly."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from continuer import __version__, cli
from continuer.control import ask
from continuer.demo.cluster import Cluster, program
from continuer.errors import ContinuerError, UnreachableError
from tests.unit.harness import BUNDLE

TIMEOUT_S = 60


def run(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """The installed command, with output buffered as it is for users."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [*program("continuer"), *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        env=environment,
    )


def usage_error(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What argparse or we say to a wrong call; exit code 2 either way."""
    try:
        code: object = cli.main(arguments)
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[str]:
    """Control endpoint of a coordinator that no agent has joined."""
    cluster = Cluster(tmp_path, BUNDLE.directory, ["n1"])
    try:
        cluster.start("coordinator")
        cluster.wait_until(bool, "the coordinator to answer")
        yield cluster.control
    finally:
        cluster.stop_all()


@pytest.fixture
def closed_port() -> str:
    """An endpoint where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{sock.getsockname()[1]}"


# --- called wrongly -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["prophesy"], "prophesy"),
        (["status", "--colour"], "--colour"),
        (["load"], "--endpoint"),
        (["demo", "--kill", "n9"], "--kill n9: there are n1, n2, n3, n4, n5"),
        (["demo", "--fault", "unplug"], "--fault"),
        (["demo", "--model", "no-such-model"], "shipped: "),
        (["load", "--endpoint", "tcp://h:1", "--rate", "0"], "--rate 0: give a number above 0"),
        (["load", "--endpoint", "tcp://h:1", "--rate", "nan"], "--rate nan: give a number"),
        (["load", "--endpoint", "tcp://h:1", "--seconds", "inf"], "--seconds inf: give a number"),
        (["load", "--endpoint", "tcp://h:1", "--budget-ms", "-1"], "--budget-ms -1: give"),
        (["load", "--endpoint", "tcp://h:1", "--seed", "-1"], "--seed -1: give 0 or more"),
        (["model", "inspect"], "BUNDLE"),
        (["model", "inspect", "no-such-model"], "shipped: "),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_a_usage_error_that_says_what_is_wrong(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in usage_error(arguments, capsys)


def test_a_damaged_bundle_is_a_configuration_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_text("{")
    assert cli.main(["model", "inspect", str(tmp_path)]) == 78
    assert str(tmp_path) in capsys.readouterr().err


# --- nobody there ---------------------------------------------------------------------------


def test_status_without_a_coordinator_is_unreachable(closed_port: str) -> None:
    ended = run("status", "--coordinator", closed_port)
    assert (ended.returncode, ended.stdout) == (69, "")
    assert ended.stderr.startswith(f"continuer: no coordinator answers at {closed_port}")
    assert "continuer-coordinator runs" in ended.stderr


def test_load_without_an_agent_is_unreachable(closed_port: str) -> None:
    ended = run("load", "--endpoint", closed_port)
    assert (ended.returncode, ended.stdout) == (69, "")
    assert f"no agent answers at {closed_port}" in ended.stderr


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://", "tcp://127.0.0.1:notaport", "udp://x"])
def test_an_endpoint_that_is_none_is_named(endpoint: str) -> None:
    for arguments in (("load", "--endpoint", endpoint), ("status", "--coordinator", endpoint)):
        ended = run(*arguments)
        assert ended.returncode == 69, arguments
        assert endpoint in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_coordinator_that_says_nothing_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        endpoint = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(UnreachableError, match="within 50 ms"):
            ask(endpoint, "status", timeout_ms=50)


# --- somebody there -------------------------------------------------------------------------


def test_status_of_a_cluster_that_cannot_answer_is_unhealthy(coordinator: str) -> None:
    ended = run("status", "--coordinator", coordinator)
    assert ended.returncode == 1
    assert ended.stdout.startswith("resnet32-cifar10 (default): no_plan")
    assert ended.stderr == ""
    ended = run("status", "--coordinator", coordinator, "--json")
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["health"] == "no_plan"


def test_a_verb_that_the_coordinator_does_not_know_is_an_error_that_names_it(
    coordinator: str,
) -> None:
    with pytest.raises(ContinuerError, match="verb = 'prophesy': unknown"):
        ask(coordinator, "prophesy")


# --- as a good citizen of a shell -----------------------------------------------------------


def test_version_and_help_go_to_standard_output() -> None:
    for name in ("continuer", "continuer-agent", "continuer-coordinator"):
        ended = subprocess.run(
            [*program(name), "--version"], capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{name} {__version__}\n", "")
    ended = run("--help")
    assert ended.returncode == 0
    for verb in ("demo", "status", "model", "load"):
        assert f"\n    {verb} " in ended.stdout


@pytest.mark.parametrize("blocks", [1, 17], ids=["short output", "long output"])
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path, blocks: int) -> None:
    manifest = json.loads((BUNDLE.directory / "manifest.json").read_text())
    if blocks == 1:  # an output that fits the buffer is written only when the program ends
        manifest["blocks"] = manifest["blocks"][:1]
        manifest["parts"] = [
            part
            for part in manifest["parts"]
            if part["name"] in (manifest["blocks"][0]["part"], manifest["blocks"][0].get("exit"))
        ]
        manifest["accuracy"]["variants"] = []
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    seen = run("model", "inspect", str(tmp_path))
    assert seen.returncode == 0, seen.stderr
    assert (len(seen.stdout) < 8192) == (blocks == 1)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = run("model", "inspect", str(tmp_path), stdout=writer)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_interrupt_ends_a_command_without_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(TIMEOUT_S)
        endpoint = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        process = subprocess.Popen(
            [*program("continuer"), "load", "--endpoint", endpoint],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            link, _ = mute.accept()  # it is at work, and waits for a welcome
            with link:
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
