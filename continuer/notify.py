"""What a daemon tells systemd: that it is ready, reloads, stops, and that its work goes on.

The protocol of sd_notify(3): datagrams to the socket that ``NOTIFY_SOCKET`` names. Without one
everything here does nothing; a socket that has gone is no reason to stop working.

The watchdog is fed by whoever watches the working threads: each stamps a ``Pulse`` in every
round of its loop, idle or not. A thread that hangs in one place stops stamping, so the feed
stops and systemd starts the daemon afresh, while heartbeats of another thread would go on.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# So many chances to feed in the time that systemd allows: one that is late must not be fatal.
FEEDS = 4


class Pulse:
    """One thread's sign that its loop comes around; written by it, read by the watchdog."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.beat_ns = time.monotonic_ns()

    def adopt(self) -> None:
        """To be called first by the thread: gives it its name in lists such as ``top -H``."""
        with contextlib.suppress(OSError):  # a convenience; not every system has it
            path = Path(f"/proc/self/task/{threading.get_native_id()}/comm")
            path.write_text(self.name[:15], encoding="ascii")
        self.beat()

    def beat(self) -> None:
        """The loop has come around. Costs a tenth of a microsecond."""
        self.beat_ns = time.monotonic_ns()


class Watchdog:
    """Decides when to feed the watchdog. Sans-IO.

    A feed has to be earned: every thread has come around since the last one. So whatever one
    round takes, an inference or the loading of a part, may take as long as systemd allows.
    ``interval_ns``: what systemd allows between two feeds; None where it does not watch.
    """

    def __init__(self, interval_ns: int | None, pulses: Sequence[Pulse], now: int) -> None:
        self._interval_ns = interval_ns
        self._pulses = pulses
        self._fed_ns = now
        self._said: set[str] = set()

    def feed(self, now: int) -> bool:
        """True when a feed is due and every thread has earned it."""
        if self._interval_ns is None or now - self._fed_ns < self._interval_ns // FEEDS:
            return False
        if any(pulse.beat_ns <= self._fed_ns for pulse in self._pulses):
            return False
        self._fed_ns = now
        return True

    def newly_hung(self, now: int) -> list[str]:
        """Threads that stand still for half of what systemd allows; each is named once."""
        if self._interval_ns is None:
            return []
        half_ns = self._interval_ns // 2
        hung = {pulse.name for pulse in self._pulses if now - pulse.beat_ns > half_ns}
        new = sorted(hung - self._said)
        self._said = hung
        return new


class Notifier:
    """Tells the service manager; ``environment`` is the process's unless given."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        # '@' stands for the zero byte of Linux's abstract socket names.
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self.watchdog_ns = _watchdog_ns(environment)

    def ready(self, status: str) -> None:
        """The daemon listens, or has reloaded."""
        self._tell("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """One line for ``systemctl status``."""
        self._tell(f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read anew; ``ready`` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """The daemon ends on purpose."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def feed(self) -> None:
        """The work goes on."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        text = "\n".join(" ".join(line.split("\n")) for line in lines)
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.sendto(text.encode(), socket.MSG_DONTWAIT, self._address)


def _watchdog_ns(environment: Mapping[str, str]) -> int | None:
    """What systemd allows this very process; None where it does not watch it."""
    try:
        interval_us = int(environment.get("WATCHDOG_USEC", ""))
        owner = int(environment.get("WATCHDOG_PID") or os.getpid())
    except ValueError:
        return None
    return interval_us * 1000 if interval_us > 0 and owner == os.getpid() else None
