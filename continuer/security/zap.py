"""Who gets in: the thread that answers ZeroMQ's questions about the keys of new connections.

CURVE by itself only encrypts: with nobody to answer, libzmq lets every key in. So a socket that
is guarded also has a ZAP domain that is enforced (then no answer means no entry), the thread is
there before the socket is bound, it is tried out with a key that nobody knows, and a process
whose thread has died ends.

A key that is not known is kept waiting for a moment, since news of it may be on its way, and is
then refused for now (status 300): a box whose key becomes known later gets in by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from continuer.errors import ContinuerError
from continuer.mailbox import Mailbox
from continuer.security import keys
from continuer.security.keys import KeyPair

ENDPOINT = "inproc://zeromq.zap.01"
ENFORCE_DOMAIN = 93  # ZMQ_ZAP_ENFORCE_DOMAIN, which pyzmq does not name
PATIENCE_NS = 200_000_000
TURN_MS = 50
MAX_WAITING = 256
PROOF_MS = 5000
PROOF_DOOR = "proof"

Socket = Any
Decide = Callable[[str, str], bool]
"""From a door's name and a public key to whether it is let in."""


def guard(sock: Socket, door: str, pair: KeyPair) -> None:
    """Have a socket, before it is bound, let in only whom the context's doorkeeper knows."""
    sock.curve_server = 1
    sock.curve_secretkey = pair.secret.encode("ascii")
    sock.zap_domain = door.encode("ascii")
    sock.set(ENFORCE_DOMAIN, 1)


def introduce(sock: Socket, pair: KeyPair, server: str) -> None:
    """Have a socket, before it connects, show its key, and insist on the other side's."""
    sock.curve_publickey = pair.public.encode("ascii")
    sock.curve_secretkey = pair.secret.encode("ascii")
    sock.curve_serverkey = server.encode("ascii")


class Doorkeeper(threading.Thread):
    """One per ZeroMQ context with guarded sockets; starts at once.

    ``on_refused(door, address, key)`` is called in this thread, and so is ``on_death``, if it
    ends without an order: then nobody new gets in, and the process has to end too.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        decide: Decide,
        on_refused: Callable[[str, str, str], None],
        on_death: Callable[[Exception], None],
    ) -> None:
        super().__init__(name="doorkeeper", daemon=True)
        self.mailbox: Mailbox[bool] = Mailbox()  # True: look again, False: end
        self._decide = decide
        self._on_refused = on_refused
        self._on_death = on_death
        self._waiting: dict[bytes, tuple[int, list[bytes]]] = {}
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(ENDPOINT)
        self.start()

    def stop(self) -> None:
        """End the thread, not the process; from now on nobody new gets in."""
        self.mailbox.post(False)
        self.join()

    def run(self) -> None:
        """Answer until ``stop``."""
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not go unseen
            self._on_death(error)
        finally:
            self._socket.close(linger=0)

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self.mailbox.fd, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(TURN_MS if self._waiting else None))
            if self.mailbox.fd in ready and False in self.mailbox.take():
                return
            if self._socket in ready:
                self._receive()
            self._look_again(time.monotonic_ns())

    def _receive(self) -> None:
        frames = self._socket.recv_multipart()
        # routing id, empty, version, request, domain, address, identity, mechanism, credentials
        if len(frames) < 9 or frames[7] != b"CURVE" or len(frames[8]) != 32:
            self._answer(frames[:4], None)
            return
        if self._admit(frames):
            return
        door = frames[4].decode("ascii", "replace")
        patience_ns = 0 if door == PROOF_DOOR else PATIENCE_NS
        if len(self._waiting) >= MAX_WAITING:
            patience_ns = 0
        self._waiting[frames[0]] = (time.monotonic_ns() + patience_ns, frames)

    def _admit(self, frames: list[bytes]) -> bool:
        key = z85.encode(frames[8]).decode("ascii")
        if not self._decide(frames[4].decode("ascii", "replace"), key):
            return False
        self._answer(frames[:4], key)
        return True

    def _look_again(self, now: int) -> None:
        for link, (until_ns, frames) in list(self._waiting.items()):
            if self._admit(frames):
                del self._waiting[link]
            elif now >= until_ns:
                del self._waiting[link]
                self._answer(frames[:4], None)
                door, address = (frame.decode("ascii", "replace") for frame in frames[4:6])
                self._on_refused(door, address, z85.encode(frames[8]).decode("ascii"))

    def _answer(self, head: list[bytes], key: str | None) -> None:
        status = (b"300", b"unknown key", b"") if key is None else (b"200", b"", key.encode())
        try:
            self._socket.send_multipart([*head, *status, b""], zmq.NOBLOCK)
        except zmq.ZMQError:
            return  # the connection that this was about has gone


def prove(context: zmq.Context[Any], pair: KeyPair) -> None:
    """Try the context's doorkeeper out: raises ContinuerError unless a stranger is refused."""
    server: Socket = context.socket(zmq.ROUTER)
    server.linger = 0
    monitor = server.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    )
    outside: zmq.Context[Any] = zmq.Context()
    try:
        guard(server, PROOF_DOOR, pair)
        port = server.bind_to_random_port("tcp://127.0.0.1")
        stranger = outside.socket(zmq.DEALER)
        introduce(stranger, keys.make(), pair.public)
        stranger.connect(f"tcp://127.0.0.1:{port}")
        if not monitor.poll(PROOF_MS):
            raise ContinuerError("security: the doorkeeper does not answer; nobody is let in")
        if recv_monitor_message(monitor)["event"] != zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            raise ContinuerError("security: a key that nobody knows was let in; not starting")
    finally:
        outside.destroy(linger=0)
        server.disable_monitor()
        monitor.close(linger=0)
        server.close(linger=0)
