"""A soak of seconds: it does real faults, checks every answer, and goes on where it was left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import soak
from tests.root.network import lacking

pytestmark = pytest.mark.root

RATE_PER_S = 20
SLICE_S = 10
# Stop, kill, cut, descriptors used up, the coordinator killed and stopped, restart of everything.
SEEDS = ("s2086", "s2940")


def test_a_short_soak_spoils_nothing_and_is_continued(tmp_path: Path) -> None:
    if reason := lacking():
        pytest.skip(reason)
    for seed in SEEDS:
        soak.run(tmp_path, seconds=SLICE_S, seed=seed, rate_per_s=RATE_PER_S, slice_s=SLICE_S)
    found = soak.summary(tmp_path)
    slices = [json.loads(line) for line in (tmp_path / "slices.jsonl").read_text().splitlines()]
    assert [each["seed"] for each in slices] == [f"{seed}-0" for seed in SEEDS]
    assert {key: found[key] for key in soak.FAULTLESS} == dict.fromkeys(soak.FAULTLESS, 0), slices
    assert found["requests"] >= 2 * RATE_PER_S * SLICE_S
    assert found["fault_count"] == 11
    assert found["most_descriptors"] > 0
