"""Asking a daemon's control endpoint."""

from __future__ import annotations

import argparse
from typing import Any

import zmq

from continuer import sockets, wire
from continuer.errors import ContinuerError, UnreachableError, WireError
from continuer.wire import Ask, Tell

DEFAULT_CONTROL = "tcp://127.0.0.1:7401"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every verb that asks the coordinator."""
    parser.add_argument("--coordinator", default=DEFAULT_CONTROL, metavar="tcp://HOST:PORT")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def ask(endpoint: str, verb: str, timeout_ms: int = 2000, **arguments: Any) -> dict[str, Any]:
    """Send a verb, return its data.

    Raises UnreachableError where nothing answers, ContinuerError where the daemon refuses.
    """
    context: zmq.Context[Any] = zmq.Context()
    try:
        sock = sockets.make(context, zmq.DEALER, wire.MAX_CONTROL_BYTES)
        sock.set(zmq.IMMEDIATE, 0)  # one question: it may wait for the connection
        try:
            sockets.dial(sock, endpoint)
            sock.send(wire.encode(Ask(verb, arguments)))
            if not sock.poll(timeout_ms):
                raise UnreachableError(
                    f"no coordinator answers at {endpoint} within {timeout_ms} ms; check the "
                    "address and that continuer-coordinator runs"
                )
            answer = wire.decode(sock.recv(), Tell)
        except (zmq.ZMQError, WireError) as error:
            raise UnreachableError(f"{endpoint}: {error}") from error
    finally:
        context.destroy(linger=0)
    if answer.error:
        problem = ContinuerError(answer.error)
        problem.exit_code = answer.exit_code
        raise problem
    return answer.data
