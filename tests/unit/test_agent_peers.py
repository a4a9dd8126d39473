"""Links to other agents, over real sockets: waiting, dropping, restarted peers."""

from __future__ import annotations

import random
import socket as tcp
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from agent import peers as peers_module
from agent.peers import PeerKey, Peers
from continuer import sockets, wire
from continuer.plan import Member

PATIENCE_S = 20.0
OWN: PeerKey = ("n1", 1)


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    made: zmq.Context[Any] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def links(context: zmq.Context[Any]) -> Iterator[Peers]:
    made = Peers(context, OWN, "inproc://own", lambda member: member.data)
    yield made
    made.close()


def member(name: str, incarnation: int, port: int) -> Member:
    return Member(name, incarnation, f"tcp://127.0.0.1:{port}", "tcp://-:1", "tcp://-:2")


def listen(context: zmq.Context[Any], port: int = 0) -> tuple[sockets.Socket, int]:
    """A data socket as an agent has it, and its port."""
    sock = sockets.make(context, zmq.PULL, wire.MAX_TENSOR_BYTES)
    return sock, sockets.bind(sock, "data_port", "127.0.0.1", port)


def free_port() -> int:
    """A port where nobody listens, below those that the system gives out by itself."""
    for port in random.sample(range(20_000, 30_000), 100):
        with tcp.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def until(condition: Callable[[], Any]) -> Any:
    """What the condition returns as soon as it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.001)
    raise AssertionError("the condition did not become true")


def received(sock: sockets.Socket, links: Peers) -> list[bytes]:
    """The next message at a socket, while what waits is tried again."""

    def look() -> list[bytes] | None:
        links.flush()
        return sock.recv_multipart() if sock.poll(1) else None

    found: list[bytes] = until(look)
    return found


def test_what_is_sent_arrives_frame_by_frame(context: zmq.Context[Any], links: Peers) -> None:
    sock, port = listen(context)
    links.update([member("n2", 7, port)])
    links.send(("n2", 7), [b"header", b"tensor"])
    assert received(sock, links) == [b"header", b"tensor"]
    until(lambda: not links.waiting)


def test_messages_to_one_peer_keep_their_order(context: zmq.Context[Any], links: Peers) -> None:
    sock, port = listen(context)
    links.update([member("n2", 7, port)])
    for number in range(50):  # the first wait for the connection, the last need not
        links.send(("n2", 7), [b"%d" % number])
    assert [received(sock, links) for _ in range(50)] == [[b"%d" % n] for n in range(50)]


def test_nothing_overtakes_what_waits(
    context: zmq.Context[Any], links: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers_module, "KEEP_NS", 60_000_000_000)
    port = free_port()
    links.update([member("n2", 7, port)])
    links.send(("n2", 7), [b"first"])
    sock, _ = listen(context, port)
    assert links._sockets["n2", 7][1].poll(int(PATIENCE_S * 1000), zmq.POLLOUT)  # connected by now
    links.send(("n2", 7), [b"second"])
    assert [received(sock, links) for _ in range(2)] == [[b"first"], [b"second"]]


def test_what_cannot_be_sent_yet_waits_for_its_peer(
    context: zmq.Context[Any], links: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers_module, "KEEP_NS", 60_000_000_000)  # however slow this machine is
    port = free_port()
    links.update([member("n2", 7, port)])
    links.send(("n2", 7), [b"early"])
    assert links.waiting
    assert links.flush() == {}
    sock, _ = listen(context, port)
    assert received(sock, links) == [b"early"]


def test_what_waits_for_a_hundred_milliseconds_is_dropped_and_counted(links: Peers) -> None:
    port = free_port()
    links.update([member("n2", 7, port), member("n3", 8, port)])
    begun = time.monotonic()
    for key in (("n2", 7), ("n2", 7), ("n3", 8)):
        links.send(key, [b"never"])
    dropped: dict[PeerKey, int] = {}

    def flushed() -> bool:
        for key, count in links.flush().items():
            dropped[key] = dropped.get(key, 0) + count
        return not links.waiting

    until(flushed)
    assert dropped == {("n2", 7): 2, ("n3", 8): 1}
    assert time.monotonic() - begun >= 0.1  # a lower bound holds on any machine


def test_nothing_is_sent_to_strangers(context: zmq.Context[Any], links: Peers) -> None:
    sock, port = listen(context)
    links.send(("n2", 7), [b"before anybody was announced"])
    links.update([member("n2", 7, port)])
    links.send(("n2", 6), [b"an earlier life"])
    links.send(("n9", 7), [b"another name"])
    assert not links.waiting
    links.send(("n2", 7), [b"right"])
    assert received(sock, links) == [b"right"]


def test_a_restarted_peer_gets_nothing_of_its_predecessors_work(
    context: zmq.Context[Any], links: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers_module, "KEEP_NS", 60_000_000_000)
    port = free_port()
    links.update([member("n2", 1, port)])
    links.send(("n2", 1), [b"stale"])
    assert links.waiting
    links.update([member("n2", 2, port)])
    assert not links.waiting
    sock, _ = listen(context, port)
    links.send(("n2", 1), [b"stale too"])
    links.send(("n2", 2), [b"fresh"])
    assert received(sock, links) == [b"fresh"]
    links.send(("n2", 2), [b"the next"])
    assert received(sock, links) == [b"the next"]


def test_every_life_of_a_peer_has_a_socket_of_its_own(
    context: zmq.Context[Any], links: Peers
) -> None:
    sock, port = listen(context)
    links.update([member("n2", 1, port)])
    first = links._sockets["n2", 1][1]
    links.update([member("n2", 1, port)])
    assert links._sockets["n2", 1][1] is first  # the same life keeps its connection
    links.update([member("n2", 2, port)])
    assert list(links._sockets) == [("n2", 2)]
    assert links._sockets["n2", 2][1] is not first
    assert first.closed
    sock.close(linger=0)


def test_a_peer_that_moved_is_sent_to_its_new_address(
    context: zmq.Context[Any], links: Peers
) -> None:
    _, old_port = listen(context)
    sock, port = listen(context)
    links.update([member("n2", 1, old_port)])
    links.update([member("n2", 1, port)])
    links.send(("n2", 1), [b"moved"])
    assert received(sock, links) == [b"moved"]


def test_what_an_agent_sends_to_itself_takes_no_network(
    context: zmq.Context[Any], links: Peers
) -> None:
    sock = sockets.make(context, zmq.PULL, wire.MAX_TENSOR_BYTES)
    sock.bind("inproc://own")
    links.update([member(*OWN, port=1)])
    links.send(OWN, [b"to myself"])
    assert received(sock, links) == [b"to myself"]


def test_one_absent_peer_does_not_hold_up_another(context: zmq.Context[Any], links: Peers) -> None:
    sock, port = listen(context)
    links.update([member("n2", 1, free_port()), member("n3", 1, port)])
    links.send(("n2", 1), [b"stuck"])
    links.send(("n3", 1), [b"through"])
    assert received(sock, links) == [b"through"]


def test_closing_leaves_no_socket_and_nothing_waiting(links: Peers) -> None:
    links.update([member("n2", 1, free_port())])
    links.send(("n2", 1), [b"stuck"])
    (_, sock) = links._sockets["n2", 1]
    links.close()
    assert sock.closed
    assert not links.waiting
