"""The coordinator gets a new key: agents find it again, requests never notice."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from continuer.bundle import Bundle
from continuer.demo.cluster import Cluster, program
from continuer.demo.report import Oracle
from continuer.security import keys, ring
from continuer.security.identity import split, with_key
from tests.integration.conftest import CALM
from tests.integration.support import Stream, assert_all_well, events, make_whole, until


@pytest.fixture
def fleet(bundle: Bundle, tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes, a coordinator and an operator, all with keys."""
    made = Cluster(tmp_path, bundle.directory, ["n1", "n2"], coordinator=CALM, secured=True)
    try:
        made.start_all()
        yield made
    finally:
        made.stop_all()


def cli(fleet: Cluster, *arguments: str) -> Any:
    """Run ``continuer`` with the operator's keys; the finished process."""
    environ = {**os.environ, "CONTINUER_KEYS": str(fleet.keys)}
    return subprocess.run(
        [*program("continuer"), *arguments], env=environ, capture_output=True, text=True, timeout=90
    )


def known_to(fleet: Cluster) -> list[list[str]]:
    """The coordinator's keys in each node's copy of the ring."""
    rings = [ring.load(fleet.directory / node / "keys") for node in fleet.nodes]
    return [[i.public for i in found if i.role == "coordinator"] for found in rings]


def test_the_coordinators_key_is_replaced_and_no_request_is_lost(
    fleet: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    make_whole(fleet)
    where = fleet.directory / "state" / "keys"
    old = keys.load(where)
    with Stream(fleet.endpoints, rate=10, seconds=12, keys=fleet.keys) as stream:
        stream.flowing(20)
        made = cli(fleet, "node", "rotate-coordinator")
        assert made.returncode == 0, made.stderr
        new = keys.load(where, keys.NEXT)
        assert f"continuer node trust {new.public}" in made.stdout
        until(lambda: all(new.public in known for known in known_to(fleet)), "all to hear of it")
        again = cli(fleet, "node", "rotate-coordinator")
        assert again.returncode != 0
        assert "waiting already" in again.stderr
        fleet.processes["coordinator"].terminate()
        fleet.processes["coordinator"].wait()
        fleet.start("coordinator")
        fleet.control = with_key(split(fleet.control)[0], new.public)
        make_whole(fleet)
    assert_all_well(oracle, bundle, stream.records)
    assert keys.load(where) == new
    assert not (where / keys.NEXT).exists()
    # Whoever has the old key is nobody to them now.
    until(lambda: all(known == [new.public] for known in known_to(fleet)), "all to forget it")
    assert old != new
    assert cli(fleet, "status").returncode == 69  # the operator still insists on the old one
    assert cli(fleet, "node", "trust", new.public).returncode == 0
    assert cli(fleet, "status").returncode == 0
    # A node that starts anew finds the coordinator too.
    fleet.processes["n2"].terminate()
    fleet.processes["n2"].wait()
    fleet.start("n2")
    make_whole(fleet)
    assert not events(fleet, "coordinator", "key_refused")
