"""Boxes on which CONTINUER is installed with pip, and made a service by ``continuer install``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.root.fleet import ROOT, Fleet
from tests.root.network import Network
from tests.root.nspawn import lacking

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]

NODES = ["n1", "n2"]
HOME = "/opt/continuer"
NOT_SOURCES = (".git", ".venv*", "build", "dist", "*.egg-info", ".*_cache", "__pycache__")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip would fetch, since boxes of a test have no way out: and pip itself."""
    if reason := lacking():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("wheels")
    sources = directory / "sources"
    # Of a copy: building leaves traces beside the sources.
    shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns(*NOT_SOURCES))
    built = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"),
            *("--wheel-dir", directory / "wheels", f"{sources}[agent,coordinator,images]", "pip"),
        ],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return directory / "wheels"


@pytest.fixture
def booted(tmp_path: Path) -> Iterator[Fleet]:
    """A coordinator's box and two nodes; nothing is installed on them."""
    if reason := lacking():
        pytest.skip(reason)
    network = Network([*NODES, "coordinator", "client"])
    fleet = Fleet(network, tmp_path, {}, NODES)
    try:
        with ThreadPoolExecutor(len(fleet.boxes)) as pool:
            list(pool.map(fleet.boot, fleet.boxes))
        yield fleet
    finally:
        fleet.close()
        network.close()


def install(fleet: Fleet, name: str, wheels: Path) -> None:
    """What docs/operations.md says, with wheels in the place of a registry."""
    box, role = fleet.boxes[name], "coordinator" if name == "coordinator" else "agent"
    shutil.copytree(wheels, box.root / "root/wheels")
    (pip,) = wheels.glob("pip-*.whl")
    box.run("python3", "-m", "venv", "--without-pip", HOME)
    box.run(
        *("env", f"PYTHONPATH=/root/wheels/{pip.name}", f"{HOME}/bin/python", "-m", "pip"),
        *("install", "--quiet", "--no-index", "--find-links", "/root/wheels"),
        f"continuer[{role}]",
    )
    box.run(f"{HOME}/bin/continuer", "install", f"--{role}")
    box.run("systemctl", "enable", f"continuer-{role}")
    fleet.configure(name)


def test_what_pip_installed_becomes_services_that_answer(booted: Fleet, wheels: Path) -> None:
    with ThreadPoolExecutor(len(booted.boxes)) as pool:
        list(pool.map(lambda name: install(booted, name, wheels), booted.boxes))
    booted.wait_for_answers_of_all("both nodes")
    box = booted.boxes["n2"]
    assert box.run("stat", "-c", "%U", "/var/lib/continuer-agent").stdout == "continuer-agent\n"

    box.power_cut()
    booted.wait_for("a plan without n2", without="n2")
    box.boot()  # starts its agent by itself
    booted.wait_for_answers_of_all("n2 to be back")

    box.run(f"{HOME}/bin/continuer", "uninstall", "--agent")
    assert box.run("systemctl", "cat", "continuer-agent", check=False).returncode != 0
    assert (box.root / "etc/continuer/agent.toml").exists()  # the administrator's
    booted.wait_for("a plan without n2", without="n2")
    assert set(booted.infer().nodes) == {"n1"}
