"""The highest version accepted outlives the agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import accepted
from agent.plan_holder import PlanHolder, Refused
from continuer.errors import ConfigError
from continuer.plan import Hop, Plan, Step, Version

STEP = Step("none", None, (Hop("n1", 1, (0,)),), 0.8, 3.0, 5.0, 500.0)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    directory = str(tmp_path / "state")
    assert accepted.load(directory) == Version(0, 0)
    accepted.save(directory, Version(3, 14))
    accepted.save(directory, Version(3, 15))
    assert accepted.load(directory) == Version(3, 15)
    assert [path.name for path in (tmp_path / "state").iterdir()] == [accepted.FILE]


def test_an_agent_without_a_state_dir_begins_anew() -> None:
    assert accepted.load(None) == Version(0, 0)


def test_a_damaged_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / accepted.FILE).write_bytes(b"{")
    with pytest.raises(ConfigError, match="repair or remove it"):
        accepted.load(str(tmp_path))


def test_a_restarted_agent_refuses_what_is_older_than_what_it_had_accepted() -> None:
    holder = PlanHolder(b"b", Version(3, 14))
    assert holder.version == Version(3, 14)
    older = Plan(Version(3, 13), "default", b"b", (), (), STEP)
    assert isinstance(holder.on_plan(older), Refused)
    assert not isinstance(holder.on_plan(Plan(Version(3, 14), "d", b"b", (), (), STEP)), Refused)
