"""What both daemons do as services: signals, reloading, and telling systemd how they are.

SIGTERM and SIGINT ask for an orderly end, a second one for an end at once. SIGHUP has the
configuration read anew; what is wrong with it is said in the journal, and the old one stays.
"""

from __future__ import annotations

import faulthandler
import signal
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from continuer.config import AgentConfig, CoordinatorConfig
from continuer.errors import ContinuerError
from continuer.journal import Journal
from continuer.notify import Notifier, Pulse, Watchdog

C = TypeVar("C", AgentConfig, CoordinatorConfig)


def unwritable(state_dir: object, error: OSError) -> str:
    """What to say where a state directory cannot be written; the daemon goes on."""
    return (
        f"state_dir = {str(state_dir)!r}: {error.strerror or error}; make room there or give it to "
        "the daemon's user; until then nothing new is kept across a restart"
    )


class Service(Generic[C]):
    """``read`` gives the configuration as it is now; ``live``: keys taken anew while running."""

    def __init__(
        self, config: C, read: Callable[[], C], live: frozenset[str], journal: Journal
    ) -> None:
        self.config: C = config
        self.stops = 0
        self._read: Callable[[], C] = read
        self._live = live | {"log_level"}
        self._journal = journal
        self._notifier = Notifier()
        self._reload = False
        self._status = ""
        journal.set_level(config.log_level)

    def arrange(self, wake: Callable[[], None]) -> None:
        """Take signals; ``wake`` is called in the handler, so that a waiting loop looks."""

        def stop(*_: object) -> None:
            self.stops += 1
            wake()

        def reload(*_: object) -> None:
            self._reload = True
            wake()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, reload)

    def ready(self, status: str, pulses: Sequence[Pulse]) -> None:
        """The daemon listens; from now on these threads earn the watchdog's feed."""
        if self._notifier.watchdog_ns is not None:
            faulthandler.enable()  # the watchdog's SIGABRT then says where every thread stands
        self._watchdog = Watchdog(self._notifier.watchdog_ns, pulses, time.monotonic_ns())
        self._status = status
        self._notifier.ready(status)

    def turn(self, now: int, status: str) -> None:
        """Once in a while: feed the watchdog if that was earned, renew the line of status."""
        if self._watchdog.feed(now):
            self._notifier.feed()
        hung = self._watchdog.newly_hung(now)
        if hung:
            self._journal.emit("thread_hung", threads=hung)
        if status != self._status:
            self._status = status
            self._notifier.status(status)

    def stopping(self, status: str) -> None:
        """The daemon has begun to end."""
        self._notifier.stopping(status)

    def reloaded(self) -> C | None:
        """The configuration to go on with, if SIGHUP has come and the file is right."""
        if not self._reload:
            return None
        self._reload = False
        self._notifier.reloading()
        try:
            found = self._read()
        except ContinuerError as error:
            self._journal.emit("reload_refused", problem=str(error))
            self._notifier.ready(self._status)
            return None
        new, old = msgspec.structs.asdict(found), msgspec.structs.asdict(self.config)
        different = {key for key in new if new[key] != old[key]}
        changed = {key: new[key] for key in sorted(different & self._live)}
        self.config = msgspec.structs.replace(self.config, **changed)
        self._journal.set_level("info")  # this is said at any level
        self._journal.emit(
            "reloaded",
            changed=msgspec.to_builtins(changed),
            restart_needed=sorted(different - self._live),
        )
        self._journal.set_level(found.log_level)
        self._notifier.ready(self._status)
        return self.config
