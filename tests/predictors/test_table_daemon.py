"""A real coordinator with a good table, and with one that it has to refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from continuer import table as tables
from continuer.demo.cluster import Cluster
from tests.predictors.test_table import table_of
from tests.unit.harness import BUNDLE


def run_with(directory: Path, table: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Status and journal of a coordinator with one agent and this table."""
    cluster = Cluster(directory, BUNDLE.directory, ["n1"], coordinator={"tables": str(table)})
    try:
        cluster.start_all()
        state = cluster.status()
    finally:
        cluster.stop_all()
    events = [json.loads(line) for line in cluster.log("coordinator").read_text().splitlines()]
    return state, events


@pytest.mark.parametrize("damage", ["good", "corrupt", "foreign"])
def test_service_goes_on_whatever_the_table_is(tmp_path: Path, damage: str) -> None:
    table = tmp_path / "fleet.table"
    tables.save(table_of(**({"bundle": b"\x02" * 32} if damage == "foreign" else {})), table)
    if damage == "corrupt":
        table.write_bytes(table.read_bytes()[:-1])
    state, events = run_with(tmp_path, table)
    assert state["health"] == "full"
    said = state["predictions"]
    assert said["file"] == str(table)
    names = [event["event"] for event in events]
    if damage == "good":
        assert said["in_use"] is True
        assert "table_loaded" in names
        return
    why = {"corrupt": "truncated or altered", "foreign": "made for bundle"}[damage]
    assert said["in_use"] is False
    assert why in said["problem"]
    (refused,) = [event for event in events if event["event"] == "table_refused"]
    assert why in refused["problem"]
