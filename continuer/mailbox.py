"""Passing objects between threads, with a descriptor that a poller can wait on."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Any thread posts; one thread polls ``fd`` for input, then takes everything."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._items: deque[T] = deque()

    @property
    def fd(self) -> int:
        """Readable while something may be waiting."""
        return self._read_fd

    def post(self, item: T) -> None:
        """Leave an object for the owner."""
        self._items.append(item)
        try:
            os.write(self._write_fd, b"\0")
        except BlockingIOError:
            return  # so many wake-ups are waiting already that one more says nothing new

    def take(self) -> list[T]:
        """Everything that was posted so far, oldest first."""
        # Nothing to read does not mean that nothing was posted: look in any case.
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_fd, 4096)
        items = []
        while self._items:
            items.append(self._items.popleft())
        return items
