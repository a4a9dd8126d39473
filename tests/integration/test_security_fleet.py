"""A fleet with keys: it works, knows everyone by their key, and does without whoever is out."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq

from continuer import wire
from continuer.bundle import Bundle
from continuer.client import Client
from continuer.control import Connection
from continuer.demo.cluster import Cluster, program
from continuer.demo.report import Oracle
from continuer.errors import ConfigError, ContinuerError, UnreachableError
from continuer.security import keys
from continuer.security.access import introduce
from continuer.security.identity import split
from continuer.security.keys import KeyPair, mark
from tests.integration.conftest import CALM
from tests.integration.strangers import IMAGE
from tests.integration.support import (
    BUDGET_MS,
    Stream,
    assert_all_well,
    events,
    make_whole,
    node_state,
    running,
    until,
)


@pytest.fixture(scope="module")
def fleet(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("fleet")
    nodes = ["n1", "n2", "n3", "n4"]
    made = Cluster(directory, bundle.directory, nodes, coordinator=CALM, secured=True)
    try:
        made.start_all()
        yield made
    finally:
        made.stop_all()


def key_of(fleet: Cluster, name: str) -> KeyPair:
    where = fleet.keys if name == "operator" else fleet.directory / name / "keys"
    assert where is not None
    return keys.load(where)


class Peer:
    """A socket with a key of somebody's, that says whatever it is given."""

    def __init__(self, endpoint: str, kind: int, pair: KeyPair) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self.socket = self._context.socket(kind)
        self.socket.set(zmq.IMMEDIATE, 1)
        self.socket.connect(introduce(pair, self.socket, endpoint))

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._context.destroy(linger=0)

    @property
    def inside(self) -> bool:
        """Whether there is a connection now."""
        return bool(self.socket.poll(0, zmq.POLLOUT))

    def tell(self, message: wire.Message) -> None:
        assert self.socket.poll(10_000, zmq.POLLOUT), "no entry"
        self.socket.send(wire.encode(message))


def door(fleet: Cluster, node: str, name: str) -> str:
    """An endpoint of a node or of the coordinator, with the key that answers there."""
    port = events(fleet, node, "daemon_started")[-1]["endpoints"][name]
    own = {"coordinator": fleet.control, **dict(zip(fleet.nodes, fleet.endpoints, strict=True))}
    where = own[node]
    return f"tcp://127.0.0.1:{port}#{split(where)[1]}"


def refusals(fleet: Cluster, node: str, event: str) -> int:
    """How often something was refused there, as far as it was said."""
    found = events(fleet, node, event)
    return max((e["dropped"] for e in found), default=0)


def assert_turned_away(fleet: Cluster, name: str, endpoint: str, kind: int, pair: KeyPair) -> None:
    """Nobody with this key gets in there. Only every power of two is said, so several try."""
    before = refusals(fleet, name, "key_refused")
    with ExitStack() as stack:
        peers: list[Peer] = []

        def said() -> bool:
            peers.append(stack.enter_context(Peer(endpoint, kind, pair)))
            return refusals(fleet, name, "key_refused") > before

        until(said, f"{name} to say so", 60)
        assert not any(peer.inside for peer in peers)


def cli(fleet: Cluster, *arguments: str, key_directory: Path | None = None) -> Any:
    """Run ``continuer`` with an operator's keys, or others; the finished process."""
    environ = {**os.environ, "CONTINUER_KEYS": str(key_directory or fleet.keys)}
    return subprocess.run(
        [*program("continuer"), *arguments], env=environ, capture_output=True, text=True, timeout=90
    )


# --- it works -----------------------------------------------------------------------------


def test_requests_are_answered_through_a_failure_as_they_are_without_keys(
    fleet: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    make_whole(fleet)
    with Stream(fleet.endpoints, rate=50, seconds=3, keys=fleet.keys) as stream:
        stream.flowing(30)
        fleet.processes["n3"].kill()
        fleet.processes["n3"].wait()
    assert_all_well(oracle, bundle, stream.records)
    make_whole(fleet)


def test_operators_commands_find_the_coordinator_by_their_keys(fleet: Cluster) -> None:
    make_whole(fleet)
    status = cli(fleet, "status", "--json")
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)["health"] == "full"
    listed = json.loads(cli(fleet, "node", "list", "--json").stdout)
    assert {(n["name"], n["role"]) for n in listed["nodes"]} >= {
        ("coordinator", "coordinator"),
        ("operator", "operator"),
        ("n1", "agent"),
    }


# --- strangers ----------------------------------------------------------------------------


def test_a_stranger_gets_in_nowhere(fleet: Cluster) -> None:
    make_whole(fleet)
    kinds = {"ingress": zmq.DEALER, "data": zmq.PUSH, "answers": zmq.PUSH}
    for name, kind in kinds.items():
        assert_turned_away(fleet, "n2", door(fleet, "n2", name), kind, keys.make())
    for name in ("agents", "control"):
        endpoint = door(fleet, "coordinator", name)
        assert_turned_away(fleet, "coordinator", endpoint, zmq.DEALER, keys.make())
    assert all(running(fleet).values())


def test_a_client_without_a_key_is_told_so(fleet: Cluster) -> None:
    plain = [split(endpoint)[0] for endpoint in fleet.endpoints]
    with pytest.raises(UnreachableError, match="demands a key"):
        Client(plain, connect_timeout_ms=3000)
    with pytest.raises(ConfigError, match="demands a key"):
        Client(fleet.endpoints)


def test_a_client_with_a_key_that_nobody_knows_is_told_so(fleet: Cluster, tmp_path: Path) -> None:
    assert fleet.keys is not None
    (tmp_path / "joined.toml").write_text((fleet.keys / "joined.toml").read_text())
    keys.save(tmp_path, keys.make())
    with pytest.raises(UnreachableError, match="does not know"):
        Client(fleet.endpoints, keys=tmp_path, connect_timeout_ms=4000)


# --- everyone is who their key says -------------------------------------------------------


def test_nobody_speaks_in_anothers_name(fleet: Cluster) -> None:
    """With n1's key, n2's death is announced: nothing comes of it but a line in the journal."""
    make_whole(fleet)
    before = fleet.status(brief=True)
    incarnation = events(fleet, "coordinator", "node_joined")
    life = {e["node"]: e["incarnation"] for e in incarnation}
    with Peer(door(fleet, "coordinator", "agents"), zmq.DEALER, key_of(fleet, "n1")) as thief:
        for _ in range(8):
            thief.tell(wire.Leave("n2", life["n2"]))
            thief.tell(wire.Accuse("n3", life["n3"], "n2", life["n2"], "a lie"))
        until(
            lambda: any(
                "speaks as" in e["problem"] for e in events(fleet, "coordinator", "message_refused")
            ),
            "the coordinator to say so",
        )
    assert node_state(fleet, "n2") == "active"
    assert fleet.status(brief=True)["failovers"] == before["failovers"]


def test_nobody_asks_in_another_clients_name(fleet: Cluster) -> None:
    make_whole(fleet)
    pair = key_of(fleet, "operator")
    with Peer(door(fleet, "n2", "ingress"), zmq.DEALER, pair) as peer:
        before = refusals(fleet, "n2", "message_refused")

        def said() -> bool:
            peer.tell(wire.Hello("continuer", b"somebody else id"))
            return refusals(fleet, "n2", "message_refused") > before

        until(said, "n2 to say so")
        assert not peer.socket.poll(0)
        peer.tell(wire.Hello("continuer", mark(pair.public) + b"mine, ok"))
        assert peer.socket.poll(10_000)


def test_an_agents_key_opens_no_door_for_clients_and_gives_no_orders(fleet: Cluster) -> None:
    make_whole(fleet)
    pair = key_of(fleet, "n1")
    with Connection(fleet.control, pair) as connection:
        with pytest.raises(ContinuerError, match=r"n1 \(agent\) may not ask for 'drain'") as caught:
            connection.ask("drain", node="n2")
        assert caught.value.exit_code == 77
        with pytest.raises(ContinuerError, match="may not ask"):
            connection.ask("token.create", role="operator", ttl_s=60)
    assert_turned_away(fleet, "n2", door(fleet, "n2", "ingress"), zmq.DEALER, pair)


# --- enrolment ----------------------------------------------------------------------------


def line_for(fleet: Cluster, *arguments: str) -> list[str]:
    """The words of the line that ``token create`` prints."""
    made = cli(fleet, "token", "create", *arguments, "--json")
    assert made.returncode == 0, made.stderr
    answer = json.loads(made.stdout)
    words = subprocess.run(
        ["/bin/sh", "-c", f"printf '%s\\n' {answer['line'].removeprefix('continuer ')}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return words.stdout.splitlines()


def test_a_watcher_joins_by_one_line_and_may_only_watch(fleet: Cluster, tmp_path: Path) -> None:
    make_whole(fleet)
    line = line_for(fleet, "--role", "observer", "--name", "wall")
    joined = cli(fleet, *line, "--keys", str(tmp_path / "wall"))
    assert joined.returncode == 0, joined.stderr
    assert (tmp_path / "wall" / "own.key").stat().st_mode & 0o777 == 0o600
    status = cli(fleet, "status", "--json", key_directory=tmp_path / "wall")
    assert status.returncode == 0, status.stderr
    drain = cli(fleet, "drain", "n1", key_directory=tmp_path / "wall")
    assert drain.returncode == 77, drain.stderr
    assert "may not ask" in drain.stderr
    with pytest.raises(UnreachableError):
        Client(fleet.endpoints, keys=tmp_path / "wall", connect_timeout_ms=3000)


def test_a_token_is_good_for_one_box_only(fleet: Cluster, tmp_path: Path) -> None:
    line = line_for(fleet, "--role", "client")
    cli(fleet, "token", "create")  # another one keeps the door open
    first = cli(fleet, *line, "--name", "c1", "--keys", str(tmp_path / "c1"))
    second = cli(fleet, *line, "--name", "c2", "--keys", str(tmp_path / "c2"))
    assert first.returncode == 0, first.stderr
    assert second.returncode != 0
    assert "ask for a new one" in second.stderr
    assert not (tmp_path / "c2").exists(), "a key was left behind that nobody knows"
    with Client([], keys=tmp_path / "c1") as client:
        assert client.infer(IMAGE, BUDGET_MS).technique == "none"


def test_a_token_that_was_revoked_opens_nothing(fleet: Cluster, tmp_path: Path) -> None:
    line = line_for(fleet, "--role", "client", "--name", "late")
    open_now = json.loads(cli(fleet, "token", "list", "--json").stdout)["tokens"]
    identifier = next(t["id"] for t in open_now if t["name"] == "late")
    assert cli(fleet, "token", "revoke", identifier).returncode == 0
    joined = cli(fleet, *line, "--keys", str(tmp_path / "late"))
    assert joined.returncode != 0


def test_a_box_sends_no_token_to_a_server_that_has_another_key(
    fleet: Cluster, tmp_path: Path
) -> None:
    """A false coordinator, at the right address: it never learns the token."""
    line = line_for(fleet, "--role", "client", "--name", "careful")
    impostor = keys.make()
    context: zmq.Context[Any] = zmq.Context()
    server = context.socket(zmq.ROUTER)
    server.curve_server = 1
    server.curve_secretkey = impostor.secret.encode()
    port = server.bind_to_random_port("tcp://127.0.0.1")
    false = f"tcp://127.0.0.1:{port}#{split(line[1])[1]}"
    joined = cli(fleet, "join", false, line[2], "--keys", str(tmp_path / "careful"))
    heard = server.poll(0)
    context.destroy(linger=0)
    assert joined.returncode == 69, joined.stderr
    assert not heard


def test_a_name_that_is_taken_needs_a_token_for_that_very_name(
    fleet: Cluster, tmp_path: Path
) -> None:
    line = line_for(fleet)
    joined = cli(fleet, *line, "--name", "n1", "--keys", str(tmp_path / "n1"))
    assert joined.returncode != 0
    assert "somebody has it" in joined.stderr
    assert node_state(fleet, "n1") == "active"


# --- rotation and revocation --------------------------------------------------------------


def test_a_box_gets_a_new_key_and_no_request_is_lost(
    fleet: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    make_whole(fleet)
    where = fleet.directory / "n2" / "keys"
    old = keys.load(where)
    with Stream(fleet.endpoints, rate=40, seconds=4, keys=fleet.keys) as stream:
        stream.flowing(20)
        rotated = cli(fleet, "node", "rotate", "--keys", str(where))
        assert rotated.returncode == 0, rotated.stderr
        fleet.processes["n2"].terminate()
        fleet.processes["n2"].wait()
        fleet.start("n2")
    assert_all_well(oracle, bundle, stream.records)
    make_whole(fleet)
    assert keys.load(where) != old
    endpoint = door(fleet, "coordinator", "agents")
    assert_turned_away(fleet, "coordinator", endpoint, zmq.DEALER, old)


def test_a_revoked_box_is_cut_off_and_its_work_goes_on_elsewhere(
    fleet: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    make_whole(fleet)
    endpoints = [e for n, e in zip(fleet.nodes, fleet.endpoints, strict=True) if n != "n4"]
    stolen = key_of(fleet, "n4")
    with Peer(door(fleet, "n1", "data"), zmq.PUSH, stolen) as thief:
        assert thief.socket.poll(10_000, zmq.POLLOUT)
        with Stream(endpoints, rate=40, seconds=3, keys=fleet.keys) as stream:
            stream.flowing(20)
            thief.tell(wire.Leave("n4", 1))  # no work, but n1 knows the connection by it
            revoked = cli(fleet, "node", "revoke", "n4")
            assert revoked.returncode == 0, revoked.stderr
            until(lambda: not thief.inside, "n1 to cut the thief off")
            until(lambda: node_state(fleet, "n4") in ("left", "dead"), "n4 to be left out")
        assert not thief.inside
    assert_all_well(oracle, bundle, stream.records)
    until(lambda: events(fleet, "n4", "coordinator_lost"), "n4 to notice")
    assert all("n4" not in record.nodes for record in stream.records[-20:])
    assert running(fleet)["n4"], "it may live on; nobody listens to it"
    # Set up anew, with a token for its name, it is welcome again.
    fleet.processes["n4"].terminate()
    fleet.processes["n4"].wait()
    where = fleet.directory / "n4" / "keys"
    where.rename(fleet.directory / "n4" / "keys.old")
    joined = cli(fleet, *line_for(fleet, "--name", "n4"), "--keys", str(where))
    assert joined.returncode == 0, joined.stderr
    fleet.start("n4")
    until(lambda: node_state(fleet, "n4") == "active", "n4 to be back")


def test_a_revoked_client_is_cut_off(fleet: Cluster, tmp_path: Path) -> None:
    line = line_for(fleet, "--role", "client", "--name", "gone")
    assert cli(fleet, *line, "--keys", str(tmp_path / "gone")).returncode == 0
    pair = keys.load(tmp_path / "gone")
    with Peer(door(fleet, "n1", "ingress"), zmq.DEALER, pair) as peer:
        peer.tell(wire.Hello("continuer", mark(pair.public) + bytes(8)))
        assert peer.socket.poll(10_000)
        assert cli(fleet, "node", "revoke", "gone").returncode == 0
        until(lambda: not peer.inside, "n1 to cut it off")
    assert "gone" not in cli(fleet, "node", "list").stdout


def test_without_the_coordinator_keys_are_still_checked_and_known(fleet: Cluster) -> None:
    """A restarted agent knows its peers and clients from its own copy of the ring."""
    make_whole(fleet)
    fleet.processes["coordinator"].kill()
    fleet.processes["coordinator"].wait()
    fleet.processes["n1"].terminate()
    fleet.processes["n1"].wait()
    fleet.start("n1")
    until(lambda: len(events(fleet, "n1", "daemon_started")) >= 2, "n1 to listen")
    with Peer(door(fleet, "n1", "data"), zmq.PUSH, key_of(fleet, "n2")) as friend:
        assert friend.socket.poll(10_000, zmq.POLLOUT)
    assert_turned_away(fleet, "n1", door(fleet, "n1", "data"), zmq.PUSH, keys.make())
    fleet.start("coordinator")
    make_whole(fleet)
