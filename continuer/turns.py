"""Whose turn it is at a client's sockets: a caller who waits for an answer, or a thread of ours.

ZeroMQ's sockets are for one thread at a time. Were that always a thread of ours, each request
would change threads twice, to be handed over and to have its answer handed back. So a caller
drives the sockets while it waits for its own answer, where nobody else does. Who does not get the
turn is served by who has it. The thread drives where an answer is expected and no caller waits,
or several do, and looks around now and then.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from typing import Any, TypeVar

TICK_MS = 10
MS = 1_000_000
# A caller who has just driven is likely to come again. So long the thread leaves it the turn.
GRACE_S = 0.005
# With nothing on its way, news of the ingresses may wait: a request reads them before it is sent.
LOOK_EVERY_S = 0.05

T = TypeVar("T")


class Turns(threading.Thread):
    """Gives the turn out, and takes it where nobody else does.

    ``drive`` works at the sockets and waits there for at most so many ms; ``busy`` is true while
    an answer is expected; ``wake`` ends a wait in ``drive``, from any thread; ``end`` is called
    last, when nobody will drive any more.
    """

    def __init__(
        self,
        drive: Callable[[float], None],
        busy: Callable[[], bool],
        wake: Callable[[], None],
        end: Callable[[], None],
    ) -> None:
        super().__init__(name="continuer-client", daemon=True)
        self._drive = drive
        self._busy = busy
        self._wake = wake
        self._end = end
        self._turn = threading.Lock()
        self._called = threading.Event()
        self._is_ours = False  # the turn is this thread's
        self._wished = False  # a caller asks this thread for the turn
        self._watching = False  # this thread looks within GRACE_S whether anybody drives
        self._led_ns = 0
        self._followers = 0
        self._counting = threading.Lock()
        self._ended = False

    # --- for callers ------------------------------------------------------------------

    def act(self, action: Callable[[], None]) -> bool:
        """Do something at the sockets in the caller's thread, now; False if it is not its turn."""
        if not self._turn.acquire(blocking=False):
            return False
        try:
            action()
        finally:
            self._turn.release()
        return True

    def call(self) -> None:
        """Something is to be done, and whoever has the turn may not see it."""
        self._called.set()

    def expect(self) -> None:
        """An answer is expected, and perhaps nobody will wait for it."""
        if not self._watching:
            self._called.set()

    def wait(self, future: Future[T], timeout_s: float | None) -> None:
        """Wait until a future has its outcome, driving the sockets where nobody else does."""
        until_ns = None if timeout_s is None else time.monotonic_ns() + int(timeout_s * 1e9)
        if future.done() or self._lead(future, until_ns):
            return
        with self._counting:
            self._followers += 1
        self._called.set()
        try:
            with contextlib.suppress(futures.TimeoutError, futures.CancelledError):
                Future.exception(future, _left_s(until_ns))
        finally:
            with self._counting:
                self._followers -= 1

    def close(self) -> None:
        """End the thread, which calls ``end`` before."""
        self._ended = True
        self._called.set()
        self._wake()
        self.join()

    def _lead(self, future: Future[Any], until_ns: int | None) -> bool:
        if not self._take(until_ns):
            return False
        try:
            while not (future.done() or self._ended):
                left_s = _left_s(until_ns)
                if left_s == 0:
                    break
                self._drive(TICK_MS if left_s is None else min(TICK_MS, left_s * 1000))
        finally:
            self._led_ns = time.monotonic_ns()
            self._turn.release()
        return not self._ended

    def _take(self, until_ns: int | None) -> bool:
        if self._turn.acquire(blocking=False):
            return True
        if not self._is_ours or self._followers or self._wished:
            return False
        self._wished = True
        self._wake()
        left_s = _left_s(until_ns)
        taken = self._turn.acquire(timeout=-1 if left_s is None else left_s)
        self._wished = False
        return taken

    # --- the thread -------------------------------------------------------------------

    def run(self) -> None:
        """Drive where nobody else does, until closed."""
        while not self._ended:
            self._park()
            self._called.clear()
            with self._turn:
                self._is_ours = True
                if not self._ended:
                    self._drive(0)
                while self._busy() and not (self._wished or self._ended):
                    self._drive(TICK_MS)
                if self._wished:
                    self._called.clear()  # who wishes for the turn sees what there is to do
                self._is_ours = False
        with self._turn:
            self._end()

    def _park(self) -> None:
        """Stay away from the sockets until it is our turn."""
        grace_s = GRACE_S
        while True:
            if not self._busy():
                if self._called.wait(LOOK_EVERY_S) or not self._turn.locked():
                    return
                continue
            self._watching = True
            called = self._called.wait(grace_s)
            self._watching = False
            if self._turn.locked():  # the longer a caller drives, the less often we look
                grace_s = min(2 * grace_s, LOOK_EVERY_S)
                led = True
            else:
                grace_s = GRACE_S
                led = time.monotonic_ns() - self._led_ns < GRACE_S * 1e9
            if called or (self._busy() and not led):
                return


def _left_s(until_ns: int | None) -> float | None:
    return None if until_ns is None else max(0.0, (until_ns - time.monotonic_ns()) / 1e9)
