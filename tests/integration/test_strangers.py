"""Garbage on every socket: nobody falls, nobody is blamed, everyone is still answered."""

from __future__ import annotations

import random
import socket
import struct
from contextlib import ExitStack

import pytest
import zmq

from continuer.client import Client
from continuer.demo.cluster import Cluster
from tests.integration.strangers import (
    GREETING,
    IMAGE,
    NODE,
    PEER_OF,
    connect,
    endpoints,
    frame,
    journalled,
    nasty,
    ready,
    shake_hands,
    throw,
)
from tests.integration.support import BUDGET_MS, kill, state, until


@pytest.mark.parametrize("name", PEER_OF)
def test_messages_that_are_none_are_dropped_and_counted(unharmed: Cluster, name: str) -> None:
    endpoint = endpoints(unharmed, NODE)[name]
    before = len(journalled(unharmed, name))

    def said() -> bool:
        """Only every power of two is said, so as much again is sent until it is."""
        throw(endpoint, PEER_OF[name], nasty(seed=1))
        return len(journalled(unharmed, name)) > before

    until(said, f"the journal to speak of foreign bytes at {name}")
    assert all(e["problem"] for e in journalled(unharmed, name))


@pytest.mark.parametrize("name", PEER_OF)
def test_raw_bytes_over_tcp_harm_nobody(unharmed: Cluster, name: str) -> None:
    endpoint = endpoints(unharmed, NODE)[name]
    chance = random.Random(7)
    pieces = [
        *(chance.randbytes(chance.randrange(1, 3000)) for _ in range(30)),
        GREETING[:11],  # half a greeting
        GREETING + chance.randbytes(500),
        GREETING.replace(b"NULL", b"CURV") + bytes(100),
        GREETING + ready(zmq.PUSH)[:-2] + b"??" + frame(b"x"),
        GREETING + b"\x06" + struct.pack(">Q", 2**62),  # a command of four exabytes
        b"\xff" * 10_000,
        b"\x00" * 10_000,
    ]
    for piece in pieces:
        with connect(endpoint) as sock:
            sock.sendall(piece)
            if len(piece) % 2:  # a reset instead of an orderly end
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("name", PEER_OF)
def test_frames_beyond_the_cap_close_the_connection(unharmed: Cluster, name: str) -> None:
    endpoint = endpoints(unharmed, NODE)[name]
    for size in (2**20 + 1 if name in ("agents", "control") else 2**26 + 1, 2**40, 2**63):
        with connect(endpoint) as sock:
            shake_hands(sock, PEER_OF[name])
            sock.sendall(b"\x02" + struct.pack(">Q", size) + bytes(100))
            assert sock.recv(1) == b"", "the connection is still open"


def test_half_open_and_silent_connections_harm_nobody(unharmed: Cluster) -> None:
    """Some say nothing, some stop in the middle of the greeting, some after it."""
    with ExitStack() as held:
        for name, endpoint in endpoints(unharmed, NODE).items():
            for k in range(60):
                sock = held.enter_context(connect(endpoint))
                sock.sendall((b"", GREETING[:20], GREETING, GREETING + ready(PEER_OF[name]))[k % 4])
        with Client(unharmed.endpoints) as client:
            for _ in range(20):
                assert client.infer(IMAGE, BUDGET_MS).technique == "none"


def test_connections_that_come_and_go_harm_nobody(unharmed: Cluster) -> None:
    for name, endpoint in endpoints(unharmed, NODE).items():
        for k in range(40):
            with connect(endpoint) as sock:
                if k % 2:
                    shake_hands(sock, PEER_OF[name])
                    sock.sendall(frame(b"\x93\x01\x02\x03"))


def test_after_strangers_a_death_is_still_seen_by_its_closed_link(cluster: Cluster) -> None:
    """Descriptors are reused: the closing of an agent's link must not pass for a stranger's."""
    agents = endpoints(cluster, NODE)["agents"]
    kill(cluster, "n3")
    until(lambda: state(cluster)["health"] == "reduced", "a plan without n3")
    for _ in range(20):
        with connect(agents) as sock:
            shake_hands(sock, zmq.DEALER)
            sock.sendall(frame(b"\x93\x01\x02\x03"))
    cluster.start("n3")
    until(lambda: state(cluster)["health"] == "full", "its return")
    before = len(state(cluster)["failovers"])
    kill(cluster, "n3")
    until(lambda: len(state(cluster)["failovers"]) > before, "the failover")
    assert state(cluster)["failovers"][-1]["reasons"] == ["link closed"]
