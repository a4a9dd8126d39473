"""The simulator finds defects: each of those that are planted."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS, find


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_planted_defect_is_found(name: str) -> None:
    report = find(MUTANTS[name])
    assert report is not None, f"nothing has noticed that {name.replace('_', ' ')}"


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 12
