"""What systemd's own tools say of the units. They need no systemd that runs, only its programs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

UNITS = Path(__file__).parents[2] / "systemd"
MOST_EXPOSED = 1.5


@pytest.fixture(params=["agent", "coordinator"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit whose program exists."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze not found: run 'apt-get install systemd'")
    name = f"continuer-{request.param}.service"
    text = (UNITS / name).read_text()
    (tmp_path / name).write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    return tmp_path / name


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/usr/bin/systemd-analyze", *arguments], capture_output=True, text=True)


def test_a_unit_has_no_mistake(unit: Path) -> None:
    ended = analyze("verify", "--recursive-errors=no", str(unit))
    assert ended.returncode == 0, ended.stderr
    assert unit.name not in ended.stderr


def test_a_unit_is_hardened(unit: Path) -> None:
    ended = analyze("security", "--offline=true", str(unit))
    found = re.search(r"exposure level for \S+: ([\d.]+)", ended.stdout)
    assert found is not None, ended.stdout + ended.stderr
    assert float(found.group(1)) <= MOST_EXPOSED, ended.stdout
