"""``continuer deploy``: another bundle on every box, under load; and what keeps it from that."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from continuer import bundle as bundles
from continuer import load
from continuer.bundle import Bundle
from continuer.catalog import find_bundle
from continuer.demo.cluster import Cluster
from continuer.demo.report import Oracle
from continuer.outage import RequestRecord
from continuer.security import signing
from tests.integration.conftest import CALM
from tests.integration.support import (
    Stream,
    assert_all_well,
    cli,
    events,
    kill,
    node_state,
    state,
    until,
)

NODES = ["n1", "n2", "n3"]
RATE = 15.0
# Two networks are loaded by three agents on a machine that does other things too: no node is to
# be suspected for that.
PATIENT = {**CALM, "heartbeat_timeout_ms": 900}

Make = Callable[..., Cluster]


@pytest.fixture(scope="module")
def second() -> Bundle:
    """Another network for the same images."""
    return bundles.load(find_bundle("mobilenetv2-cifar10"))


@pytest.fixture(scope="module")
def second_oracle(second: Bundle, inputs: list[load.Array]) -> Oracle:
    """Runs any path of the other network in this process."""
    return Oracle(second, inputs)


@pytest.fixture
def make(bundle: Bundle, tmp_path: Path) -> Iterator[Make]:
    """Makes clusters whose agents have room for more than the bundle that was copied there."""
    made: list[Cluster] = []

    def make(served: Path = bundle.directory, **agent: Any) -> Cluster:
        cluster = Cluster(
            tmp_path, served, NODES, agent=agent, coordinator=PATIENT, secured=bool(agent)
        )
        for node in NODES if not agent else ():
            path = tmp_path / f"{node}.toml"
            path.write_text(path.read_text() + f'state_dir = "{tmp_path / node}"\n')
        made.append(cluster)
        cluster.start_all()
        return cluster

    yield make
    for cluster in made:
        cluster.stop_all()


def deploy(cluster: Cluster, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of ``continuer deploy``."""
    ended = cli("deploy", *arguments, "--coordinator", cluster.control)
    return ended.returncode, ended.stdout, ended.stderr


def serve(cluster: Cluster, seconds: float = 1.0) -> list[RequestRecord]:
    """Requests of a moment."""
    with Stream(cluster.endpoints, rate=RATE, seconds=seconds, keys=cluster.keys) as stream:
        pass
    return stream.records


def of(records: Sequence[RequestRecord], bundle: Bundle) -> list[RequestRecord]:
    """Those that a bundle answered, and those that none did."""
    return [r for r in records if not r.bundle or bundle.hash.hex().startswith(r.bundle)]


def copied(bundle: Bundle, directory: Path, version: str) -> Path:
    """The bundle under another version."""
    shutil.copytree(bundle.directory, directory)
    (directory / signing.FILE).unlink(missing_ok=True)
    bundles.dump(msgspec.structs.replace(bundle.manifest, version=version), directory)
    return directory


def with_bad_part(bundle: Bundle, directory: Path, name: str) -> Path:
    """A bundle that is what its manifest says, and has a part that is no model."""
    copied(bundle, directory, "bad")
    content = b"no model, but as long as one may be\n" * 100
    (directory / bundle.parts[name].file).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    parts = tuple(
        msgspec.structs.replace(part, sha256=digest, bytes=len(content))
        if part.name == name
        else part
        for part in bundle.manifest.parts
    )
    bundles.dump(msgspec.structs.replace(bundle.manifest, version="bad", parts=parts), directory)
    return directory


def test_no_request_is_lost_when_a_bundle_is_deployed_and_taken_back(
    make: Make, bundle: Bundle, second: Bundle, oracle: Oracle, second_oracle: Oracle
) -> None:
    cluster = make()
    with Stream(cluster.endpoints, rate=RATE, seconds=40) as stream:
        stream.flowing(10)
        code, out, err = deploy(cluster, second.name, "--json")
        assert code == 0, err
        assert json.loads(out)["bundle"] == second.hash.hex()
        until(lambda: len(of(stream.records, second)) > 10, "answers of the new bundle")
        code, out, err = deploy(cluster, "--rollback")
        assert code == 0, err
        assert bundle.hash.hex()[:16] in out
    records = [*stream.records, *serve(cluster)]
    assert bundle.hash.hex().startswith(records[-1].bundle)
    assert all(record.bundle for record in records), [r.error for r in records if not r.bundle]
    assert_all_well(oracle, bundle, of(records, bundle))
    assert_all_well(second_oracle, second, of(records, second))
    assert len(of(records, bundle)) + len(of(records, second)) == len(records)
    assert state(cluster)["failovers"] == []
    assert [e["digest"] for e in events(cluster, "coordinator", "deployed")] == [
        second.hash.hex()[:16],
        bundle.hash.hex()[:16],
    ]
    for node in NODES:
        switched = [e["bundle"] for e in events(cluster, node, "bundle_switched")]
        assert switched == [second.name, bundle.name]


def test_a_late_box_gets_the_bundle_and_a_restarted_coordinator_remembers_it(
    make: Make, bundle: Bundle, second: Bundle, second_oracle: Oracle
) -> None:
    cluster = make()
    kill(cluster, "n3")
    until(lambda: node_state(cluster, "n3") == "dead", "n3 to be missed")
    code, _, err = deploy(cluster, second.name)
    assert code == 0, err
    cluster.start("n3")  # with the bundle of its own that is not served any more
    until(lambda: node_state(cluster, "n3") == "active", "n3 to be at work", timeout_s=60)
    assert events(cluster, "n3", "bundle_staged")
    kill(cluster, "coordinator")
    cluster.start("coordinator")
    until(lambda: state(cluster).get("health") == "full", "a plan again", timeout_s=60)
    assert state(cluster)["bundle"] == second.hash.hex()
    (said,) = events(cluster, "coordinator", "bundle_remembered")
    assert said["bundle"] == second.name
    assert_all_well(second_oracle, second, serve(cluster))
    code, _, err = deploy(cluster, "--rollback")
    assert code == 0, err
    assert state(cluster)["bundle"] == bundle.hash.hex()


def test_a_bundle_that_a_box_cannot_load_changes_nothing(
    make: Make, bundle: Bundle, oracle: Oracle, tmp_path: Path
) -> None:
    cluster = make()
    before = state(cluster)["version"]
    bad = with_bad_part(bundle, tmp_path / "bad", "block03")
    with Stream(cluster.endpoints, rate=RATE, seconds=10) as stream:
        stream.flowing(10)
        code, out, err = deploy(cluster, str(bad))
    assert code == 1
    assert out == ""
    assert "given up on n" in err
    assert "block03" in err
    assert f"{bundle.name} {bundle.manifest.version}" in err
    assert_all_well(oracle, bundle, stream.records)
    now = state(cluster)
    assert (now["version"], now["bundle"]) == (before, bundle.hash.hex())
    assert now["rollout"]["state"] == "failed"
    told = cli("status", "--coordinator", cluster.control).stdout
    assert f"{bundle.hash.hex()[:16]}): in force" in told
    assert f"{bundles.load(bad).hash.hex()[:16]}): given up on n" in told
    (said,) = events(cluster, "coordinator", "deploy_failed")
    assert "block03" in said["problem"]


def test_with_keys_in_force_only_a_signed_bundle_is_deployed(
    make: Make, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "signing.pem"
    public = signing.new_key(key)
    first = copied(bundle, tmp_path / "first", "first")
    following = copied(bundle, tmp_path / "following", "following")
    signing.sign(bundles.load(first), key)
    cluster = make(first, development=False, trusted_keys=[public])
    assert cluster.keys is not None
    monkeypatch.setenv("CONTINUER_KEYS", str(cluster.keys))
    code, _, err = deploy(cluster, str(following))
    assert code == 1
    assert "not signed" in err
    assert cluster.status(brief=True)["bundle"] == bundles.load(first).hash.hex()
    signing.sign(bundles.load(following), key)
    code, _, err = deploy(cluster, str(following))
    assert code == 0, err
    wanted = bundles.load(following).hash.hex()
    assert cluster.status(brief=True)["bundle"] == wanted
    records = serve(cluster)
    assert records
    assert all(r.bundle and wanted.startswith(r.bundle) for r in records)
    (told,) = {len(events(cluster, node, "parts_fetched")) for node in NODES}
    assert told == 1  # its files were those of the bundle before, but that lay in a directory
