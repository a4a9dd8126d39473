"""What ends with exit code 78 instead of an open door, and bundles that do not run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from continuer import bundle as bundles
from continuer.bundle import Bundle
from continuer.demo.cluster import Cluster, program, toml
from continuer.security import keys, signing
from tests.integration.conftest import CALM

OPEN = "0.0.0.0"  # noqa: S104  # what is to be refused


def ended(program_name: str, directory: Path, **values: Any) -> subprocess.CompletedProcess[str]:
    """Run a daemon that is expected to end by itself."""
    path = directory / "daemon.toml"
    path.write_text(toml({"state_dir": str(directory / "state"), **values}))
    command = [*program(program_name), "--config", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def agent(directory: Path, bundle: Bundle, **values: Any) -> subprocess.CompletedProcess[str]:
    ports = {"ingress_port": 0, "data_port": 0, "answers_port": 0, "store_port": 0}
    common = {"node": "n1", "bundle": str(bundle.directory), "advertise": "127.0.0.1"}
    known = {"coordinator": f"tcp://127.0.0.1:1#{'k' * 40}"}
    return ended("continuer-agent", directory, **{**ports, **common, **known, **values})


def test_a_daemon_that_others_can_reach_does_not_start_without_a_key(
    bundle: Bundle, tmp_path: Path
) -> None:
    coordinator = {"bundle": str(bundle.directory), "nodes": ["n1"]}
    for result, remedy in (
        (agent(tmp_path, bundle, listen=OPEN), "continuer token create"),
        (ended("continuer-coordinator", tmp_path, listen=OPEN, **coordinator), "node init"),
    ):
        assert result.returncode == 78, result.stderr
        assert remedy in result.stderr
        assert 'security = "off"' in result.stderr
        assert "daemon_started" not in result.stderr


def test_a_key_that_others_can_read_is_not_used(bundle: Bundle, tmp_path: Path) -> None:
    keys.save(tmp_path / "state" / "keys", keys.make())
    (tmp_path / "state" / "keys" / keys.FILE).chmod(0o644)
    result = agent(tmp_path, bundle)
    assert result.returncode == 78, result.stderr
    assert "chmod 600" in result.stderr


def test_an_agent_with_a_key_runs_no_bundle_that_nobody_signed(
    bundle: Bundle, tmp_path: Path
) -> None:
    keys.save(tmp_path / "state" / "keys", keys.make())
    undecided = agent(tmp_path, bundle)
    assert undecided.returncode == 78, undecided.stderr
    assert "trusted_keys" in undecided.stderr
    public = signing.new_key(tmp_path / "signer.pem")
    unsigned = agent(tmp_path, bundle, trusted_keys=[public])
    assert unsigned.returncode == 78, unsigned.stderr
    assert "not signed" in unsigned.stderr
    copied = Path(shutil.copytree(bundle.directory, tmp_path / "bundle"))
    signing.new_key(tmp_path / "other.pem")
    signing.sign(bundles.load(copied), tmp_path / "other.pem")
    foreign = agent(tmp_path, bundles.load(copied), trusted_keys=[public])
    assert foreign.returncode == 78, foreign.stderr
    assert "nobody whom this box trusts" in foreign.stderr


@pytest.mark.parametrize("fetched", [False, True], ids=["copied", "fetched"])
def test_a_signed_bundle_serves_a_fleet(bundle: Bundle, tmp_path: Path, fetched: bool) -> None:
    """Signed with the command, copied to the boxes or fetched by them."""
    copied = Path(shutil.copytree(bundle.directory, tmp_path / "bundle"))
    environ = {**os.environ}
    for words in (
        ("keygen", str(tmp_path / "signer.pem")),
        ("sign", str(copied), "--key", str(tmp_path / "signer.pem")),
    ):
        command = [*program("continuer"), "model", *words]
        made = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
        assert made.returncode == 0, made.stderr
    public = made.stdout.split('"')[1]
    values: dict[str, Any] = {"development": False, "trusted_keys": [public]}
    cluster = Cluster(tmp_path, copied, ["n1", "n2"], coordinator=CALM, agent=values, secured=True)
    if fetched:
        for node in cluster.nodes:
            path = tmp_path / f"{node}.toml"
            lines = path.read_text().splitlines(keepends=True)
            path.write_text("".join(line for line in lines if not line.startswith("bundle =")))
    try:
        cluster.start_all()
    finally:
        cluster.stop_all()
