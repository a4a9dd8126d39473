"""Whole messages to and from ZeroMQ's sockets, at the least cost.

What ``send_multipart`` and ``recv_multipart`` do, in half the time: those check the type of each
frame, and compute with enumerations for each. They are called at every hop of a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq

NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
# As plain numbers: Python's flags take half a microsecond for each operation.
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)


def has_mail(sock: Any) -> bool:
    """Something can be received now. Asking makes the socket's descriptor worth waiting for."""
    return bool(int(sock.get(_EVENTS)) & _POLLIN)


def send(sock: Any, message: Sequence[Any]) -> None:
    """Send all frames, without waiting. Raises ``zmq.Again``, and ZMQError as ``send`` does."""
    last = len(message) - 1
    for index in range(last):
        sock.send(message[index], _MORE)
    sock.send(message[last], NOBLOCK)


def receive(sock: Any, flags: int = NOBLOCK) -> list[bytes]:
    """All frames of the next message; raises ``zmq.Again``.

    Without ``NOBLOCK`` among the flags it waits as long as the socket's ``RCVTIMEO`` says.
    """
    frame = sock.recv(flags, False)
    message = [frame.bytes]
    while frame.more:
        frame = sock.recv(flags, False)
        message.append(frame.bytes)
    return message
