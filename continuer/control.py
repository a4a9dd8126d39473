"""Asking a daemon's control endpoint."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import zmq

from continuer import sockets, wire
from continuer.errors import ContinuerError, UnreachableError, WireError
from continuer.security import credentials
from continuer.security.keys import KeyPair
from continuer.wire import Ask, Tell

DEFAULT_CONTROL = "tcp://127.0.0.1:7401"
CONTROL_VARIABLE = "CONTINUER_CONTROL"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every verb that asks the coordinator."""
    parser.add_argument(
        "--coordinator",
        default=os.environ.get(CONTROL_VARIABLE) or credentials.known_control() or DEFAULT_CONTROL,
        metavar="tcp://HOST:PORT",
        help=f"its control endpoint; what {CONTROL_VARIABLE} says, or that of the cluster that was "
        f"joined, or {DEFAULT_CONTROL}",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


class Connection:
    """A link to a daemon's control endpoint, for several questions one after the other.

    ``keys``: the directory of keys to use, as for ``continuer.client.Client``, or the pair.

    Raises UnreachableError where the endpoint is none, or nothing answers. After that the next
    question begins afresh: an answer that is late belongs to a question nobody waits for.
    """

    def __init__(self, endpoint: str, keys: Path | KeyPair | None = None) -> None:
        self._endpoint = endpoint
        self._pair = keys if isinstance(keys, KeyPair) else None
        if not isinstance(keys, KeyPair):
            found = credentials.find(keys)
            if found is not None:
                self._endpoint = found.control(endpoint)
                self._pair = found.pair_for(self._endpoint)
        self._context: zmq.Context[Any] = zmq.Context()
        self._sock: sockets.Socket | None = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def ask(self, verb: str, timeout_ms: int = 2000, **arguments: Any) -> dict[str, Any]:
        """Send a verb, return its data; ContinuerError where the daemon refuses."""
        try:
            sock = self._sock or self._dial()
            sock.send(wire.encode(Ask(verb, arguments)))
            if not sock.poll(timeout_ms):
                self._hang_up()
                raise UnreachableError(
                    f"no coordinator answers at {self._endpoint} within {timeout_ms} ms; check "
                    "the address and that continuer-coordinator runs; where it demands keys, "
                    f"that {credentials.directory()} has the right ones (continuer join)"
                )
            answer = wire.decode(sock.recv(), Tell)
        except (zmq.ZMQError, WireError) as error:
            self._hang_up()
            raise UnreachableError(f"{self._endpoint}: {error}") from error
        if answer.error:
            problem = ContinuerError(answer.error)
            problem.exit_code = answer.exit_code
            raise problem
        return answer.data

    def _dial(self) -> sockets.Socket:
        self._sock = sockets.make(self._context, zmq.DEALER, wire.MAX_CONTROL_BYTES)
        self._sock.set(zmq.IMMEDIATE, 0)  # one question: it may wait for the connection
        sockets.dial(self._sock, self._endpoint, self._pair)
        return self._sock

    def _hang_up(self) -> None:
        if self._sock is not None:
            self._sock.close(linger=0)
            self._sock = None


def ask(endpoint: str, verb: str, timeout_ms: int = 2000, **arguments: Any) -> dict[str, Any]:
    """Ask one question over a link of its own.

    Raises UnreachableError where nothing answers, ContinuerError where the daemon refuses.
    """
    with Connection(endpoint) as connection:
        return connection.ask(verb, timeout_ms, **arguments)
