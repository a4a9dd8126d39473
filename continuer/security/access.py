"""How this process shows who it is, and whom it lets in: one ``Access`` per daemon.

A daemon calls ``install`` before it makes a socket; from then on ``sockets.bind`` guards and
``sockets.dial`` introduces by themselves, so that no socket can be forgotten. A process that
has installed nothing speaks in the clear.
"""

from __future__ import annotations

import contextlib
import os
import socket as tcp
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import zmq

from continuer import frames
from continuer.errors import ConfigError, WireError
from continuer.security import ring, roles, zap
from continuer.security.identity import Identity, check_key, split
from continuer.security.keys import KeyPair
from continuer.security.ring import Ring
from continuer.wire import Join, Message

EXIT_DEAD = 70
JOIN = "join"


class RefusedError(WireError):
    """The sender may not say this, or is not known any more."""


class Emitter(Protocol):
    """What writes events: a ``Journal``."""

    def emit(self, name: str, /, **fields: Any) -> None:
        """Write one event."""


class Access:
    """Own key pair and ring, and what follows from both. Raises nothing by itself.

    ``directory``: where the ring is kept. ``strangers_welcome``: whether the door for joining
    is open now; it is asked in another thread.
    """

    def __init__(
        self, pair: KeyPair, identities: Iterable[Identity], directory: Path, journal: Emitter
    ) -> None:
        self.pair = pair
        self.ring = Ring(identities)
        self.directory = directory
        self.strangers_welcome: Callable[[], bool] = lambda: False
        self._journal = journal
        self._doorkeepers: dict[zmq.Context[Any], zap.Doorkeeper] = {}
        self._gates: list[Gate] = []
        self._refused = 0
        self._counting = threading.Lock()

    def guard(self, sock: Any, door: str) -> None:
        """Before a socket is bound. Raises ContinuerError where strangers are not kept out."""
        if door != JOIN and not roles.admitted(door):
            raise ConfigError(f"{door}_port", door, "no role may come in here; add it to roles.py")
        context = sock.context
        if context not in self._doorkeepers:
            self._doorkeepers[context] = zap.Doorkeeper(
                context, self._admits, self._key_refused, self._died
            )
            zap.prove(context, self.pair)
        zap.guard(sock, door, self.pair)

    def introduce(self, sock: Any, endpoint: str) -> str:
        """Before a socket connects. Returns where to; raises ConfigError without a key."""
        return introduce(self.pair, sock, endpoint)

    def gate(self, door: str) -> Gate:
        """What messages of one guarded socket have to pass."""
        made = Gate(door, self)
        self._gates.append(made)
        return made

    def learn(self, identities: Iterable[Identity]) -> None:
        """From now on these are known; whoever is not any more is cut off at once."""
        before = set(self.ring.identities)
        gone = self.ring.replace(identities)
        after = set(self.ring.identities)
        for doorkeeper in self._doorkeepers.values():
            doorkeeper.mailbox.post(True)  # whose key is news may be waiting at the door
        for gate in self._gates:
            gate.cut(gone)
        if before != after:
            added, removed = (sorted(map(str, who)) for who in (after - before, before - after))
            self._journal.emit("keys_changed", added=added, removed=removed)

    def keep(self) -> None:
        """Write the ring, so that it is known after a restart too. Raises OSError."""
        ring.save(self.directory, self.ring.identities)

    def close(self, context: zmq.Context[Any]) -> None:
        """Before a context is ended."""
        doorkeeper = self._doorkeepers.pop(context, None)
        if doorkeeper is not None:
            doorkeeper.stop()

    def refused(self, door: str, sender: str, problem: str) -> None:
        """Count a message that was refused; said at 1, 2, 4, 8, ..."""
        with self._counting:
            self._refused += 1
            count = self._refused
        if count & (count - 1) == 0:
            self._journal.emit(
                "message_refused", socket=door, node=sender, problem=problem, dropped=count
            )

    def _admits(self, door: str, public: str) -> bool:
        if door == JOIN:
            return self.strangers_welcome()
        identity = self.ring.find(public)
        return identity is not None and identity.role in roles.admitted(door)

    def _key_refused(self, door: str, address: str, public: str) -> None:
        if door == zap.PROOF_DOOR:
            return
        with self._counting:
            self._refused += 1
            count = self._refused
        if count & (count - 1) == 0:
            self._journal.emit(
                "key_refused", socket=door, address=address, key=public, dropped=count
            )

    def _died(self, error: Exception) -> None:
        self._journal.emit("daemon_stopped", role="doorkeeper", reason=repr(error))
        os._exit(EXIT_DEAD)


class Gate:
    """One socket's messages: who sent them, and whether they may. For one thread, but ``cut``.

    Without an ``Access`` everything passes, as from nobody in particular.
    """

    def __init__(self, door: str, access: Access | None) -> None:
        self._door = door
        self._access = access
        self._links: dict[int, tuple[int, str]] = {}

    def receive(self, sock: Any, flags: int = frames.NOBLOCK) -> tuple[list[Any], Identity | None]:
        """The next message that is from somebody we know, and from whom; raises zmq.Again.

        The sender is None where it is this process itself, or nobody needs a key. ``flags`` as
        of ``frames.receive``.
        """
        if self._access is None:
            return frames.receive(sock, flags), None
        while True:
            first = frame = sock.recv(flags, copy=False)
            message = [first.bytes]
            while frame.more:
                frame = sock.recv(flags, copy=False)
                message.append(frame.bytes)
            try:
                return message, self.sender(first)
            except RefusedError:
                continue

    def sender(self, frame: zmq.Frame) -> Identity | None:
        """Who has sent a frame; raises RefusedError, and cuts it off, where it is unknown now."""
        if self._access is None:
            return None
        try:
            public = str(frame.get("User-Id"))
        except zmq.ZMQError:
            return None  # no connection: a thread of this process
        descriptor = int(frame.get(zmq.SRCFD))
        with contextlib.suppress(OSError):  # it may have gone
            self._links[descriptor] = (os.fstat(descriptor).st_ino, public)
        identity = self._access.ring.find(public)
        if identity is None or identity.role not in roles.admitted(self._door):
            self.cut({public})
            problem = "its key is not known any more"
            self._access.refused(self._door, public, problem)
            raise RefusedError(problem)
        return identity

    def check(self, sender: Identity | None, message: Message) -> None:
        """Raise RefusedError unless its sender may say this, under the name it gives."""
        if self._access is None:
            self._check_open(message)
        if self._access is None or sender is None:
            return
        problem = roles.problem(sender, message)
        if problem is not None:
            self._access.refused(self._door, sender.name, problem)
            raise RefusedError(problem)

    @staticmethod
    def _check_open(message: Message) -> None:
        if isinstance(message, Join) and "#" in message.member.data:
            raise RefusedError(f"{message.member.node[:64]!r} demands keys, which we do not use")

    def cut(self, public: Iterable[str]) -> None:
        """Close the connections of these keys; any thread may ask."""
        gone = frozenset(public)
        for descriptor, (inode, key) in list(self._links.items()):
            if key in gone:
                self._links.pop(descriptor, None)
                _shut(descriptor, inode)


def _shut(descriptor: int, inode: int) -> None:
    """End a connection that belongs to libzmq, which then sees the other side gone."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        return
    with tcp.socket(fileno=copy) as connection:
        # Descriptors are used again: it must be the connection that we mean.
        if os.fstat(copy).st_ino != inode:
            return
        try:
            connection.shutdown(tcp.SHUT_RDWR)
        except OSError:
            return  # it has ended by itself


def introduce(pair: KeyPair | None, sock: Any, endpoint: str) -> str:
    """Have a socket show a key to ``tcp://HOST:PORT#KEY``, and insist on that one.

    Returns the endpoint without the key. Raises ConfigError where only one side has a key:
    nobody shall believe a link to be safe that is not.
    """
    where, server = split(endpoint)
    if (server is None and pair is None) or where.startswith("inproc://"):
        return where  # in the clear, or from one thread to another
    if server is None:
        remedy = "name the key that has to answer there, as tcp://HOST:PORT#KEY"
        raise ConfigError("endpoint", endpoint, remedy)
    if pair is None:
        remedy = "it demands a key; say which one with --keys DIRECTORY"
        raise ConfigError("endpoint", endpoint, remedy)
    check_key("endpoint", server)
    zap.introduce(sock, pair, server)
    return where


_installed: Access | None = None


def install(access: Access | None) -> None:
    """Once in a daemon's life, before it makes a socket."""
    global _installed  # noqa: PLW0603  # a process is one party, whichever thread speaks
    _installed = access


def installed() -> Access | None:
    """How this process shows who it is; None where it needs no key."""
    return _installed


def gate(door: str) -> Gate:
    """What messages of one socket of this process have to pass."""
    return Gate(door, None) if _installed is None else _installed.gate(door)
