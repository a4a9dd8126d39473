"""Asking a daemon's control endpoint."""

from __future__ import annotations

from typing import Any

import zmq

from continuer import sockets, wire
from continuer.errors import ContinuerError, UnreachableError, WireError
from continuer.wire import Ask, Tell


def ask(endpoint: str, verb: str, timeout_ms: int = 2000, **arguments: Any) -> dict[str, Any]:
    """Send a verb, return its data.

    Raises UnreachableError where nothing answers, ContinuerError where the daemon refuses.
    """
    context: zmq.Context[Any] = zmq.Context()
    try:
        sock = sockets.make(context, zmq.DEALER, wire.MAX_CONTROL_BYTES)
        sock.set(zmq.IMMEDIATE, 0)  # one question: it may wait for the connection
        try:
            sock.connect(endpoint)
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
        raise ContinuerError(answer.error)
    return answer.data
