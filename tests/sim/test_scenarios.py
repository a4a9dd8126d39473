"""Every story ends as it should, with all parts in memory and with as few as possible."""

from __future__ import annotations

import pytest

from tests.sim.run import explain, tell
from tests.sim.scenarios import STORIES


@pytest.mark.parametrize("name", sorted(STORIES))
def test_a_story_ends_well(name: str) -> None:
    for seed in (1,) if "minutes" in name else (1, 2):
        report = tell(name, seed=seed)
        assert not report.rule, explain(report)
