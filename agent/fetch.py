"""Fetching files by their SHA-256 from other agents and the coordinator into the store.

In a thread of its own with low priority and a ZeroMQ context of its own: inference goes on.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import msgspec
import zmq

from continuer import sockets, wire
from continuer.chunks import (
    CHUNK_BYTES,
    WINDOW,
    Allowance,
    Command,
    Download,
    Keep,
    Outlined,
    WantChunk,
    WantOutline,
)
from continuer.errors import BundleError, ConfigError, WireError
from continuer.shelf import yield_to_others
from continuer.store import Store
from continuer.wire import AskChunk, AskOutline, Chunk, Lacking, Outline

POLL_MS = 50
MAX_SOURCES = 16


class Wanted(msgspec.Struct, frozen=True):
    """A file to fetch: its SHA-256, how large it may be, and what it is, for messages."""

    digest: bytes
    max_bytes: int
    what: str


class Fetched(msgspec.Struct):
    """What came of it: bytes that crossed the network, in how long, and one problem per file."""

    nbytes: int = 0
    took_us: int = 0
    problems: list[str] = []


class Fetcher:
    """``fetch`` blocks its caller, a background thread, until all is there or given up."""

    def __init__(self, store: Store, mib_per_s: float | None = None) -> None:
        self._store = store
        self._allowance = Allowance(mib_per_s * (1 << 20)) if mib_per_s else None
        # Bundles may share files, and each is put together by one thread at a time.
        self._locks: dict[bytes, threading.Lock] = {}

    def fetch(
        self,
        wanted: Sequence[Wanted],
        sources: Sequence[str],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Fetched:
        """Have these files in the store. What was begun stays, and is resumed another time.

        ``sources`` are endpoints. ``interrupted`` is looked at every few milliseconds: once
        true, the rest is left for another time.
        """
        outcome = Fetched()
        worker = threading.Thread(
            target=self._work, args=(wanted, sources, interrupted, outcome), name="fetch"
        )
        worker.start()
        worker.join()
        return outcome

    def _work(
        self,
        wanted: Sequence[Wanted],
        sources: Sequence[str],
        interrupted: Callable[[], bool],
        outcome: Fetched,
    ) -> None:
        yield_to_others()
        started = time.monotonic_ns()
        transfer = _Transfer(self._store, sources[:MAX_SOURCES], self._allowance, interrupted)
        try:
            for item in wanted:
                if interrupted():
                    break
                try:
                    with self._locks.setdefault(item.digest, threading.Lock()):
                        if self._store.find(item.digest) is None:
                            transfer.run(item)
                except BundleError as error:
                    outcome.problems.append(str(error))
        finally:
            transfer.close()
        outcome.nbytes = transfer.nbytes
        outcome.took_us = (time.monotonic_ns() - started) // 1000


class _Transfer:
    """Links to the sources, and one download after the other over them."""

    def __init__(
        self,
        store: Store,
        sources: Sequence[str],
        allowance: Allowance | None,
        interrupted: Callable[[], bool],
    ) -> None:
        self.nbytes = 0
        self._store = store
        self._allowance = allowance
        self._interrupted = interrupted
        self._context: zmq.Context[Any] = zmq.Context()
        self._poller = zmq.Poller()
        self._links: dict[str, sockets.Socket] = {}
        for source in sources:
            link = sockets.make(
                self._context, zmq.DEALER, wire.MAX_CONTROL_BYTES, high_water=2 * WINDOW
            )
            link.set(zmq.IMMEDIATE, 0)  # the first question may wait for the connection
            try:
                sockets.dial(link, source)
            except (zmq.ZMQError, ConfigError):
                continue  # no endpoint, or no key for it: the others are asked
            self._links[source] = link
            self._poller.register(link, zmq.POLLIN)

    def close(self) -> None:
        """Drop the links."""
        self._context.destroy(linger=0)

    def run(self, item: Wanted) -> None:
        """Fetch one file. Raises BundleError where it cannot be had, or not written."""
        path = self._store.partial(item.digest)
        download = Download(item.digest, item.max_bytes, list(self._links), time.monotonic_ns())
        try:
            with path.open("r+b" if path.exists() else "w+b") as file:
                self._perform(download, file, download.start())
                while not self._interrupted():
                    self._turn(download, file)
                    if download.failed:
                        raise BundleError(_problem(item, download))
                    if download.complete and self._settled(download, file):
                        return
        except OSError as error:
            path.unlink(missing_ok=True)  # a full disk gets its room back
            raise BundleError(
                f"{item.what}: {path}: {error.strerror}; make room, or give another 'state_dir'"
            ) from error

    def _settled(self, download: Download, file: BinaryIO) -> bool:
        """Take the whole file in; where it is wrong, begin anew without those who sent it."""
        file.flush()
        if self._store.accept(download.digest):
            return True
        self._perform(download, file, download.on_whole_wrong())
        return False

    def _turn(self, download: Download, file: BinaryIO) -> None:
        """Ask for what may be asked for, then take what arrives within some milliseconds."""
        now = time.monotonic_ns()
        wait_ms = POLL_MS
        self._perform(download, file, download.on_tick(now))
        if self._allowance is None:
            self._perform(download, file, download.next(now))
        elif self._allowance.wait_ns(now) == 0:
            asked = download.next(now, at_most=1)
            self._allowance.spend(CHUNK_BYTES * len(asked), now)
            self._perform(download, file, asked)
        else:
            wait_ms = min(POLL_MS, 1 + self._allowance.wait_ns(now) // 1_000_000)
        ready = dict(self._poller.poll(wait_ms))
        for source, link in self._links.items():
            if link in ready:
                self._receive(download, file, source, link)

    def _receive(
        self, download: Download, file: BinaryIO, source: str, link: sockets.Socket
    ) -> None:
        while True:
            try:
                frames = link.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = wire.decode(frames[0], Outline, Chunk, Lacking)
                if len(frames) != (2 if isinstance(message, Chunk) else 1):
                    raise WireError(f"{len(frames)} frames")
            except WireError:
                self._perform(download, file, download.on_lacking(source))
                continue
            self._perform(download, file, self._obey(download, source, message, frames))

    def _obey(
        self, download: Download, source: str, message: wire.Message, frames: list[bytes]
    ) -> list[Command]:
        now = time.monotonic_ns()
        if getattr(message, "digest", None) != download.digest:
            return []  # late: it belongs to a file before this one
        if isinstance(message, Outline):
            return download.on_outline(
                source, message.nbytes, message.chunk_bytes, message.hashes, now
            )
        if isinstance(message, Chunk):
            self.nbytes += len(frames[1])
            return download.on_chunk(source, message.index, frames[1], now)
        return download.on_lacking(source)

    def _perform(self, download: Download, file: BinaryIO, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Keep):
                file.seek(command.offset)
                file.write(command.data)
            elif isinstance(command, Outlined):
                self._resume(download, file, command.nbytes)
            else:
                self._ask(download.digest, command)

    def _resume(self, download: Download, file: BinaryIO, nbytes: int) -> None:
        """What an earlier attempt left on disk is not asked for again where it is right."""
        if file.seek(0, os.SEEK_END) > nbytes:
            file.truncate(nbytes)
        for index, offset, count in download.pieces():
            file.seek(offset)
            data = file.read(count)
            if len(data) < count:
                return
            download.on_kept(index, data)

    def _ask(self, digest: bytes, command: WantOutline | WantChunk) -> None:
        question: wire.Message = AskOutline(digest)
        if isinstance(command, WantChunk):
            question = AskChunk(digest, command.index)
        try:
            self._links[command.source].send(wire.encode(question), zmq.NOBLOCK)
        except zmq.Again:
            return  # its silence will tell


def _problem(item: Wanted, download: Download) -> str:
    said = "; ".join(download.problems) or "nobody to ask"
    return f"{item.what}: cannot be fetched ({said}); bring a box up that has it"
