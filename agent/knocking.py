"""Knocking at the data ports of peers, to learn whether anyone lives there.

A libzmq that lives greets whoever connects. A stopped process does not, although its kernel
takes the connection; nothing listens any more where a process has died.
"""

from __future__ import annotations

import socket as tcp
from typing import Any

import zmq

from agent.repairs import MS, Answer, Knock
from continuer import sockets

GREETING_MS = 100


class Knocking:
    """Connection attempts under way, for one thread and its poller."""

    def __init__(self, poller: zmq.Poller) -> None:
        self._poller: Any = poller  # typed for ZeroMQ sockets, takes descriptors too
        self._open: dict[int, tuple[tcp.socket, Knock, int]] = {}

    def __contains__(self, fd: object) -> bool:
        """A descriptor that ``finish`` wants when the poller reports it."""
        return fd in self._open

    def start(self, knock: Knock, now: int) -> Answer | None:
        """Knock; returns the answer where it is known at once."""
        sock, refused = sockets.connect_probe(knock.endpoint)
        if refused:
            sock.close()
            return "refused"
        self._open[sock.fileno()] = (sock, knock, now)
        self._poller.register(sock.fileno(), zmq.POLLIN | zmq.POLLERR)
        return None

    def finish(self, fd: int) -> tuple[Knock, Answer]:
        """The answer at a descriptor; silence where there is none by now."""
        sock, knock, _ = self._open.pop(fd)
        self._poller.unregister(fd)
        answer: Answer = "silent"
        try:
            if sockets.probe_refused(sock):
                answer = "refused"
            elif sock.recv(1):
                answer = "answered"
        except OSError:  # nothing has come, or the connection broke
            answer = "silent"
        sock.close()
        return knock, answer

    def expired(self, now: int) -> list[int]:
        """Descriptors that have had time enough."""
        return [fd for fd, entry in self._open.items() if now - entry[2] > GREETING_MS * MS]

    def close(self) -> None:
        """Give all attempts up."""
        for fd in list(self._open):
            self.finish(fd)
