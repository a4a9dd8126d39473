"""The bundles that can be run here: the one in force, and one beside it.

The other one is the next, which is being brought in, or the former, to which requests may still
be on their way: its parts leave memory some time after the change, and are loaded on the spot
where they are asked for all the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from agent.engine import Engine
from agent.loader import Loader
from continuer.bundle import Bundle
from continuer.wire import BUNDLE_ID_BYTES

LINGER_NS = 10_000_000_000


class Model(NamedTuple):
    """A bundle, the engine that runs it, and the thread that brings its parts into memory."""

    bundle: Bundle
    engine: Engine
    loader: Loader


class Models:
    """For any thread. ``on_change`` is told what can be run, before it is relied upon."""

    def __init__(self, first: Model, on_change: Callable[[list[Model]], None]) -> None:
        self.current = first
        self._other: Model | None = None
        self._on_change = on_change
        self._lock = threading.Lock()
        self._term: int | None = None
        self._ran = first.bundle.hash
        self._left_ns: int | None = None

    def all(self) -> list[Model]:
        """The one in force, then the other one, if there is one."""
        other = self._other
        return [self.current] if other is None else [self.current, other]

    def find(self, digest: bytes) -> Model | None:
        """The model of a bundle's hash, or of the beginning of it that messages carry."""
        wanted = digest[:BUNDLE_ID_BYTES]
        found = (m for m in self.all() if not wanted or m.bundle.hash.startswith(wanted))
        return next(found, None)

    def add(self, model: Model) -> None:
        """Have one more, instead of the present other one."""
        with self._lock:
            gone = self._replace(model)
        _end(gone)

    def drop(self, digest: bytes) -> None:
        """Do without a bundle, unless it is the one in force."""
        with self._lock:
            held = self._other is not None and self._other.bundle.hash == digest
            gone = self._replace(None) if held else None
        _end(gone)

    def adopt(self, digest: bytes) -> bool:
        """Take this bundle for the one in force; False where it is not held."""
        with self._lock:
            other = self._other
            if other is not None and other.bundle.hash == digest:
                self.current, self._other = other, self.current
            return self.current.bundle.hash == digest

    def in_force(self, digest: bytes, term: int, now: int) -> bool:
        """A plan came into force; True where its bundle is another one than before.

        A new term begins with a new bundle, or with a new life of the coordinator. In either
        case the other bundle is not waited for any more.
        """
        self.adopt(digest)
        before, self._ran = self._ran, digest
        if self._term is not None and term != self._term:
            self._left_ns = now
        self._term = term
        return self._ran != before

    def release(self, now: int) -> None:
        """Free the memory of a bundle that has not been in force for long enough."""
        with self._lock:
            if self._left_ns is not None and now - self._left_ns >= LINGER_NS:
                self._left_ns = None
                if self._other is not None:
                    self._other.engine.release()

    def _replace(self, other: Model | None) -> Model | None:
        gone, self._other, self._left_ns = self._other, other, None
        self._on_change(self.all())
        return gone


def _end(gone: Model | None) -> None:
    """Let a model go, once what it may be running is done."""
    if gone is not None:
        gone.loader.post(None)
        with gone.engine.lock:
            gone.engine.stop()
