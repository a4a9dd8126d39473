"""Bytes that no CONTINUER program would send: raw TCP, ZMTP by hand, damaged messages."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgpack
import numpy as np
import zmq

from continuer import wire
from continuer.demo.cluster import Cluster
from tests.integration.support import events

# What a peer of each of our sockets would be.
PEER_OF = {
    "ingress": zmq.DEALER,
    "data": zmq.PUSH,
    "answers": zmq.PUSH,
    "agents": zmq.DEALER,
    "control": zmq.DEALER,
}
NODE = "n2"
CLIENT = b"a stranger's id!"
IMAGE = np.zeros((1, 32, 32, 3), np.float32)
IMAGE_META = (wire.TensorMeta("float32", (1, 32, 32, 3)),)
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def endpoints(cluster: Cluster, node: str) -> dict[str, str]:
    """Every socket that listens: those of a node and those of the coordinator."""
    own = events(cluster, node, "daemon_started")[-1]["endpoints"]
    coordinator = events(cluster, "coordinator", "daemon_started")[-1]["endpoints"]
    ports = {**own, **coordinator}
    assert ports.keys() == PEER_OF.keys()
    return {name: f"tcp://127.0.0.1:{port}" for name, port in ports.items()}


def connect(endpoint: str) -> socket.socket:
    """A plain TCP connection."""
    parts = urlsplit(endpoint)
    return socket.create_connection((parts.hostname, parts.port or 0), timeout=5)


def ready(kind: int) -> bytes:
    """The READY command of a peer of that kind."""
    name = zmq.SocketType(kind).name.encode()
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(name)) + name
    return bytes([4, len(body)]) + body


def frame(body: bytes, *, more: bool = False) -> bytes:
    """A ZMTP message frame."""
    if len(body) < 256:
        return bytes([int(more), len(body)]) + body
    return bytes([2 | int(more)]) + struct.pack(">Q", len(body)) + body


def shake_hands(sock: socket.socket, kind: int) -> None:
    """Greeting and READY, both ways, by hand."""
    sock.sendall(GREETING)
    receive_exactly(sock, 64)
    sock.sendall(ready(kind))
    _, length = receive_exactly(sock, 2)
    receive_exactly(sock, length)


def receive_exactly(sock: socket.socket, count: int) -> bytes:
    """So many bytes; raises ConnectionError where the other side closes before."""
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise ConnectionError(f"closed after {len(data)} of {count} bytes")
        data += piece
    return data


class Peer:
    """A ZeroMQ socket that sends whatever it is given."""

    def __init__(self, endpoint: str, kind: int) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self.socket = self._context.socket(kind)
        self.socket.linger = 1000
        self.socket.set(zmq.SNDTIMEO, 5000)
        self.socket.set(zmq.RCVTIMEO, 5000)
        self.socket.connect(endpoint)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=1000)

    def send(self, *frames: Any) -> None:
        """Send one multipart."""
        self.socket.send_multipart(frames)

    def tell(self, message: wire.Message, *frames: Any) -> None:
        """Send a message of ours."""
        self.send(wire.encode(message), *frames)

    def hear(self, *kinds: type[wire.Message]) -> Any:
        """The next message that arrives."""
        return wire.decode(self.socket.recv_multipart()[0], *kinds)


def nasty(seed: int) -> list[tuple[bytes, ...]]:
    """Multiparts that are no message, or not one that is expected, from crude to subtle."""
    chance = random.Random(seed)
    found: list[tuple[bytes, ...]] = [
        (b"",),
        (b"", b"", b""),
        (b"\x00",),
        (b"\xc1",),  # never valid in msgpack
        (b"\x91" * 5000,),  # nested too deep
        (b"\xdd\xff\xff\xff\xff",),  # claims four thousand million elements
        (b"\xdb\xff\xff\xff\xff",),  # claims a string of 4 GiB
        (b"\xc7\x0c\xff" + bytes(12),),  # a timestamp
        (b"\xa5hello",),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",),
        (bytes(2000), bytes(2000)),
        (msgpack.packb([]),),
        (msgpack.packb([wire.PROTOCOL]),),
        (msgpack.packb({"protocol": 1}),),
        (msgpack.packb([wire.PROTOCOL, 10_000]),),
        (msgpack.packb([wire.PROTOCOL, [1], 2]),),
        (msgpack.packb([2**63, 12]),),
        (msgpack.packb([True, 12]),),
        (msgpack.packb([wire.PROTOCOL, 12, *[2**64 - 1] * 20]),),
        (msgpack.packb([wire.PROTOCOL, 80, "status", {"brief": {"x": [None]}}])[:-1],),
    ]
    # The right kind of message, with fields of the wrong types.
    fillers: list[object] = [None, -1, "x" * 50, [], [[]], 1e308, float("nan")]
    for number in wire.KINDS:
        for filler in fillers:
            fields: list[object] = [filler] * 16
            found.append((msgpack.packb([wire.PROTOCOL, number, *fields]),))
    found += [
        tuple(chance.randbytes(chance.randrange(200)) for _ in range(chance.randrange(1, 5)))
        for _ in range(60)
    ]
    return found


def throw(endpoint: str, kind: int, multiparts: Sequence[tuple[bytes, ...]]) -> None:
    """Send all of them over one connection."""
    with Peer(endpoint, kind) as peer:
        for frames in multiparts:
            peer.send(*frames)


def journalled(cluster: Cluster, socket_name: str) -> list[dict[str, object]]:
    """Events of foreign bytes on one socket."""
    name = "coordinator" if socket_name in ("agents", "control") else NODE
    return [e for e in events(cluster, name, "foreign_bytes") if e["socket"] == socket_name]
