"""Sends beacons to where the control link goes; see ``continuer/beacon.py``."""

from __future__ import annotations

import contextlib
import os
import socket


class Beacons:
    """One UDP socket. Whatever goes wrong with it is silence, and the link's heartbeats go on."""

    def __init__(self) -> None:
        self._sock: socket.socket | None = None

    def aim(self, descriptor: int) -> None:
        """Send to the address and port that this TCP connection goes to."""
        self.close()
        try:
            with socket.socket(fileno=os.dup(descriptor)) as link:
                family, peer = link.family, link.getpeername()
            made = socket.socket(family, socket.SOCK_DGRAM)
        except OSError:  # it has closed already, or the system permits no such socket
            return
        made.setblocking(False)
        try:
            made.connect(peer)
        except OSError:
            made.close()
            return
        self._sock = made

    def send(self, raw: bytes) -> None:
        """Send one."""
        if self._sock is not None:
            with contextlib.suppress(OSError):  # nobody listens there, no route, a full queue
                self._sock.send(raw)

    def close(self) -> None:
        """Send no more."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
