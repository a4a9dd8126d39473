"""ZeroMQ sockets with the options that CONTINUER needs everywhere, in one place.

Every socket has bounded queues and message sizes, a short handshake limit (the default of
30 s lets a stranger hold a connection open), and no linger: what is unsent when a process
ends is replayed from elsewhere.
"""

from __future__ import annotations

import errno
import ipaddress
import socket as tcp
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import zmq

from continuer.errors import ConfigError
from continuer.security import access
from continuer.security.identity import split, with_key
from continuer.security.keys import KeyPair

if TYPE_CHECKING:
    Socket = zmq.Socket[bytes]

HANDSHAKE_MS = 1000
RECONNECT_MS = 20
RECONNECT_MAX_MS = 500
# TCP tries again after twice the time, each time: a link that was cut for a minute would stand
# still for up to another one after it is mended. Give such a connection up and make a new one.
UNACKNOWLEDGED_MS = 1000
CONNECT_MS = 500
# The other end of a connection given up may never hear of it; ask it when it has long been quiet.
KEEPALIVE_S = 10
HIGH_WATER = 1000
# What a socket's monitor says of a connection that the other side would not have.
TURNED_AWAY = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
KEYS_DIFFER = (
    "no entry: it demands a key and we show none, or one that it does not know, or its own is not "
    "the one we expect; see 'continuer join'"
)


def make(
    context: zmq.Context[Socket], kind: int, max_bytes: int, high_water: int = HIGH_WATER
) -> Socket:
    """A socket with bounded queues (messages) and message size (bytes)."""
    made: Socket = context.socket(kind)
    made.linger = 0
    made.set(zmq.MAXMSGSIZE, max_bytes)
    made.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    made.set(zmq.SNDHWM, high_water)
    made.set(zmq.RCVHWM, high_water)
    made.set(zmq.RECONNECT_IVL, RECONNECT_MS)
    made.set(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    made.set(zmq.TCP_MAXRT, UNACKNOWLEDGED_MS)
    made.set(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    made.set(zmq.TCP_KEEPALIVE, 1)
    made.set(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
    made.set(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_S)
    if kind in (zmq.DEALER, zmq.PUSH):
        # Never queue for a peer that is not there: a restarted one would get stale work.
        made.set(zmq.IMMEDIATE, 1)
    if kind == zmq.ROUTER:
        # Without this, messages to an unknown peer vanish without an error.
        made.set(zmq.ROUTER_MANDATORY, 1)
    return made


def bind(sock: Socket, key: str, host: str, port: int) -> int:
    """Bind and return the port; raises ConfigError naming the configuration key.

    Where this process has keys, only those get in whom it knows, each to what its role allows:
    the door's name is the configuration key's, without ``_port``.
    """
    sock.ipv6 = ":" in host
    own = access.installed()
    if own is not None:
        own.guard(sock, key.removesuffix("_port"))
    try:
        sock.bind(endpoint(host, port or "*"))
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            remedy = "the port is in use; stop what uses it or give another, 0 for any"
        else:
            remedy = f"cannot listen on {host}: {error.strerror}"
        raise ConfigError(key, port, remedy) from error
    return int(sock.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2])


def endpoint(host: str, port: int | str) -> str:
    """``tcp://HOST:PORT``, with an IPv6 address in brackets."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def announce(host: str, port: int | str) -> str:
    """The endpoint that others are told; it names our key, where we have one."""
    own = access.installed()
    return with_key(endpoint(host, port), own.pair.public if own else None)


def end(context: zmq.Context[Any], linger: int | None = 0) -> None:
    """Close a context's sockets, and the context; ``linger`` (ms) for what is unsent."""
    own = access.installed()
    if own is not None:
        own.close(context)
    context.destroy(linger=linger)


def dial(sock: Socket, endpoint: str, pair: KeyPair | None = None) -> None:
    """Connect to an endpoint, over IPv6 where that is what it names. Raises ZMQError.

    ``pair``: whom to be there; by default whom this process is. Raises ConfigError where only
    one side has a key.
    """
    own = access.installed()
    where = access.introduce(pair or (own.pair if own else None), sock, endpoint)
    sock.ipv6 = "[" in where
    sock.connect(where)


def resolve(key: str, host: str) -> str:
    """A host's address in numbers; raises ConfigError naming the key where there is none.

    For what is told to others: libzmq looks names up in the thread that moves all data, so a
    name that cannot be resolved where it is dialled would hold up everything there.
    """
    try:
        return str(tcp.getaddrinfo(host, None, type=tcp.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise ConfigError(key, host, f"cannot be resolved ({error}); give an address") from error


def connect_probe(endpoint: str) -> tuple[tcp.socket, bool | None]:
    """Start a TCP connection attempt to a ``tcp://`` endpoint without waiting for it.

    Returns the socket and the outcome where it is known at once (True: refused). Otherwise
    the socket becomes writable when ``probe_refused`` can tell. A host name is not looked up,
    since that may take seconds: nothing is learned of it (False).
    """
    parts = urlsplit(split(endpoint)[0])
    family = tcp.AF_INET6 if ":" in (parts.hostname or "") else tcp.AF_INET
    sock = tcp.socket(family, tcp.SOCK_STREAM)
    sock.setblocking(False)
    try:
        ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return sock, False
    code = sock.connect_ex((parts.hostname or "", parts.port or 0))
    if code == errno.EINPROGRESS:
        return sock, None
    return sock, code == errno.ECONNREFUSED


def probe_refused(sock: tcp.socket) -> bool:
    """The outcome of a finished connection attempt."""
    return sock.getsockopt(tcp.SOL_SOCKET, tcp.SO_ERROR) == errno.ECONNREFUSED
