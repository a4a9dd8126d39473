"""Where beacons arrive: a UDP socket at the number of ``agents_port``.

Beacons are read when silence is to be judged and not when they arrive, so a thousand of them
cost no wake-up each. The kernel notes when each one came: neither that nor an observer that was
late makes a gap look longer than it was.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator

import msgspec

from continuer import beacon

READ_AT_MOST = 5000
BUFFER_BYTES = 4 << 20
# Linux's numbers, which Python's socket module lacks.
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_STAMP = struct.Struct("@ll")  # two longs: 32 bits each on a box of 32 bits
_ANCILLARY_BYTES = socket.CMSG_SPACE(16)


class Session(msgspec.Struct):
    """One agent's life since its latest join, and the key of its beacons."""

    number: int
    key: bytes
    node: str
    incarnation: int
    unseal: Callable[[bytes], tuple[int, int] | None]


class Beacon(msgspec.Struct):
    """A beacon that is what it claims to be. ``at_ns``: when it came, by the clock of ``now``."""

    node: str
    incarnation: int
    sequence: int
    interval_ns: int
    at_ns: int


class BeaconDoor:
    """``on_foreign`` is told of datagrams that nobody we know has sent.

    Where the port is taken there are no beacons (``is_open``), and heartbeats have to do.
    """

    def __init__(self, host: str, port: int, on_foreign: Callable[[str], None]) -> None:
        self._on_foreign = on_foreign
        self._sessions: dict[int, Session] = {}
        self._by_node: dict[str, Session] = {}
        self._read_ns = 0
        self._sock = _listen(host, port)

    @property
    def is_open(self) -> bool:
        """Beacons can arrive."""
        return self._sock is not None

    def admit(self, node: str, incarnation: int) -> Session:
        """The session of a node's life; a new life, or a new join of this one, ends the former."""
        self.forget(node)
        number = secrets.randbits(63) + 1
        key = secrets.token_bytes(beacon.KEY_BYTES)
        made = Session(number, key, node, incarnation, beacon.opener(key))
        self._sessions[number] = self._by_node[node] = made
        return made

    def session(self, node: str) -> Session | None:
        """The session that a node has."""
        return self._by_node.get(node)

    def forget(self, node: str) -> None:
        """Its beacons count for nothing any more."""
        ended = self._by_node.pop(node, None)
        if ended is not None:
            del self._sessions[ended.number]

    def read(self, now: int) -> Iterator[Beacon]:
        """All that have arrived, in order. ``now``: ns of the monotonic clock."""
        since_ns, self._read_ns = now - self._read_ns, now
        if self._sock is None:
            return
        wall_ns = time.time_ns()
        for _ in range(READ_AT_MOST):
            try:
                raw, ancillary, _, _ = self._sock.recvmsg(beacon.SIZE + 1, _ANCILLARY_BYTES)
            except OSError:  # no more; or the network complains of what we never sent
                return
            number = beacon.session_of(raw)
            session = self._sessions.get(number) if number is not None else None
            if number is not None and session is None:
                continue  # to an earlier life of ours, or by one of theirs
            opened = session.unseal(raw) if session is not None else None
            if session is None or opened is None:
                self._on_foreign(f"a datagram of {len(raw)} bytes that no node here has sent")
                continue
            # A clock that was set meanwhile must not date a beacon before those read earlier.
            age_ns = min(max(wall_ns - _stamp_ns(ancillary, wall_ns), 0), since_ns)
            sequence, interval_us = opened
            yield Beacon(
                session.node, session.incarnation, sequence, interval_us * 1000, now - age_ns
            )

    def close(self) -> None:
        """Give the port back."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def _listen(host: str, port: int) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        return None
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # only root may exceed the system's limit
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    return sock


def _stamp_ns(ancillary: list[tuple[int, int, bytes]], otherwise: int) -> int:
    """When the kernel received a datagram, by the clock on the wall."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _STAMP.unpack_from(data)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return otherwise
