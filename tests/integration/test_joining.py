"""Who may join: strangers are told why not, by the coordinator and in their own journal."""

from __future__ import annotations

import msgspec
import pytest
import zmq

from continuer import wire
from continuer.bundle import Bundle
from continuer.control import ask
from continuer.demo.cluster import Cluster
from continuer.demo.report import Oracle
from continuer.errors import ContinuerError
from continuer.plan import Member, Version
from continuer.wire import (
    Hello,
    Join,
    Refuse,
    Welcome,
)
from tests.integration.strangers import CLIENT, NODE, Peer, endpoints
from tests.integration.support import (
    Stream,
    assert_all_well,
    kill,
    node_state,
    running,
    state,
    until,
)


def join(shipped: Bundle, /, **changes: object) -> Join:
    """A Join of a node that is not there, which would be taken in were it not for the changes."""
    member = Member("n9", 1, *(f"tcp://127.0.0.1:{port}" for port in (1, 2, 3)))
    good = Join("continuer", member, shipped.name, shipped.hash, Version(), 0, "none", ())
    return msgspec.structs.replace(good, **changes)


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"cluster": "staging"}, "cluster", "'staging'"),
        ({"bundle": bytes(32)}, "bundle", "copy the same bundle here"),
        ({}, "node", "'n9'"),
        ({"cluster": "x" * 100_000}, "cluster", "xxx"),
        ({"bundle": b"x" * 100_000}, "bundle", "copy the same bundle here"),
        ({"bundle": bytes(32), "model": "x" * 100_000}, "bundle", "xxx"),
        ({"member": Member("x" * 100_000, 1, "", "", "")}, "node", "xxx"),
    ],
)
def test_a_stranger_who_wants_to_join_is_told_why_not(
    unharmed: Cluster, bundle: Bundle, changes: dict[str, object], code: str, said: str
) -> None:
    with Peer(endpoints(unharmed, NODE)["agents"], zmq.DEALER) as peer:
        peer.tell(join(bundle, **changes))
        refusal = peer.hear(Refuse)
    assert refusal.code == code
    assert said in refusal.message


@pytest.mark.parametrize(
    "endpoint",
    ["", "nonsense", "tcp://127.0.0.1:99999", "tcp://127.0.0.1", "tcp://*:5", "ipc:///tmp/x"],
)
def test_a_node_that_cannot_be_dialled_is_refused(
    cluster: Cluster, oracle: Oracle, bundle: Bundle, endpoint: str
) -> None:
    """Otherwise every agent would be told to connect to it, and could not."""
    kill(cluster, "n3")
    until(lambda: state(cluster)["health"] == "reduced", "a plan without n3")
    whole = Member("n3", 1, *(f"tcp://127.0.0.1:{port}" for port in (1, 2, 3)))
    with Peer(endpoints(cluster, NODE)["agents"], zmq.DEALER) as peer:
        for field in ("data", "answers", "ingress"):
            member = msgspec.structs.replace(whole, **{field: endpoint})
            peer.tell(join(bundle, member=member))
            refusal = peer.hear(Refuse)
            assert refusal.code == "endpoint"
            assert f"{field} = {endpoint!r}" in refusal.message
    with Stream(cluster.endpoints, seconds=0.5) as stream:
        pass
    assert_all_well(oracle, bundle, stream.records)
    assert sum(running(cluster).values()) == len(cluster.nodes)


def test_a_node_whose_name_nobody_can_resolve_brings_nobody_down(
    cluster: Cluster, bundle: Bundle
) -> None:
    """It is well formed, joins, and dies: the coordinator cannot even knock at its door."""
    kill(cluster, "n3")
    until(lambda: state(cluster)["health"] == "reduced", "a plan without n3")
    member = Member("n3", 1, *(f"tcp://no-such-host.invalid:{port}" for port in (1, 2, 3)))
    with Peer(endpoints(cluster, NODE)["agents"], zmq.DEALER) as peer:
        peer.tell(join(bundle, member=member))
        peer.hear(wire.Members)
    until(lambda: node_state(cluster, "n3") in ("suspect", "dead"), "its end to be known")
    assert sum(running(cluster).values()) == len(cluster.nodes)


def test_an_unknown_verb_is_refused_however_long(cluster: Cluster) -> None:
    with pytest.raises(ContinuerError, match=r"verb = 'dance': unknown"):
        ask(cluster.control, "dance")
    with pytest.raises(ContinuerError, match="unknown"):
        ask(cluster.control, "\0" * 400_000)
    assert cluster.processes["coordinator"].poll() is None


def test_a_welcome_tells_a_client_what_is_served(cluster: Cluster, bundle: Bundle) -> None:
    with Peer(cluster.endpoints[2], zmq.DEALER) as peer:
        peer.tell(Hello("continuer", CLIENT))
        welcome = peer.hear(Welcome)
    assert (welcome.cluster, welcome.node, welcome.model) == ("continuer", "n3", bundle.name)
    assert welcome.bundle == bundle.hash
    assert [name for name, _ in welcome.ingresses] == cluster.nodes
    assert [address for _, address in welcome.ingresses] == cluster.endpoints
    assert welcome.preferred == "n1"
    assert welcome.unavailable == ()
