"""Handing out files by their SHA-256, in chunks, to whoever asks: a thread of both daemons.

It has a ZeroMQ context of its own and runs with low priority, so that no tensor and no
heartbeat waits for it. What a reader has not taken is bounded by the socket's queue: beyond
that its questions are dropped, and it asks elsewhere.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from continuer import sockets, wire
from continuer.chunks import CHUNK_BYTES, Allowance, outline_of
from continuer.errors import WireError
from continuer.security import access
from continuer.wire import AskChunk, AskOutline, Chunk, Lacking, Message, Outline

QUEUE = 32
POLL_MS = 200
MAX_OUTLINES = 256
LOW_PRIORITY = 10


def yield_to_others() -> None:
    """Let every other thread go first; its ZeroMQ threads too, if they are started later."""
    if sys.platform.startswith("linux"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)


class Shelf(threading.Thread):
    """Binds at once (raises ConfigError), serves until ``stop``.

    ``find`` gives the path of the file of a digest, None where there is none; it is called in
    this thread.
    """

    def __init__(
        self,
        listen: str,
        port: int,
        find: Callable[[bytes], Path | None],
        on_foreign: Callable[[str, str, int], None],
        mib_per_s: float | None = None,
    ) -> None:
        super().__init__(name="shelf", daemon=True)
        self._find = find
        self._on_foreign = on_foreign
        self._foreign = 0
        self._allowance = Allowance(mib_per_s * (1 << 20)) if mib_per_s else None
        self._outlines: dict[tuple[bytes, int], tuple[int, bytes]] = {}
        self._stopping = threading.Event()
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = sockets.make(
            self._context, zmq.ROUTER, wire.MAX_HEADER_BYTES, high_water=QUEUE
        )
        self.port = sockets.bind(self._socket, "store_port", listen, port)
        self._gate = access.gate("store")

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()

    def run(self) -> None:
        """Answer questions, one at a time."""
        yield_to_others()
        while not self._stopping.is_set():
            if not self._socket.poll(POLL_MS):
                continue
            try:
                frames, _ = self._gate.receive(self._socket)
            except zmq.Again:
                continue
            try:
                if len(frames) != 2:
                    raise WireError(f"{len(frames)} frames; expected 2")
                asked = wire.decode(frames[1], AskOutline, AskChunk)
            except WireError as error:
                self._foreign += 1
                self._on_foreign("store", str(error), self._foreign)
                continue
            self._send(frames[0], *self._answer(asked))
        sockets.end(self._context)

    def _answer(self, asked: Message) -> tuple[Message, bytes | None]:
        assert isinstance(asked, (AskOutline, AskChunk))
        path = self._find(asked.digest)
        try:
            if path is None:
                return Lacking(asked.digest), None
            if isinstance(asked, AskOutline):
                return self._outline(asked.digest, path), None
            return self._chunk(asked, path)
        except OSError:
            return Lacking(asked.digest), None

    def _outline(self, digest: bytes, path: Path) -> Message:
        """The outline of the file as it is now; remembered until the file changes."""
        key = (digest, path.stat().st_mtime_ns)
        if key not in self._outlines:
            if len(self._outlines) >= MAX_OUTLINES:
                del self._outlines[next(iter(self._outlines))]
            self._outlines[key] = outline_of(path)
        nbytes, hashes = self._outlines[key]
        return Outline(digest, nbytes, CHUNK_BYTES, hashes)

    def _chunk(self, asked: AskChunk, path: Path) -> tuple[Message, bytes | None]:
        if asked.index < 0:
            return Lacking(asked.digest), None
        with path.open("rb") as file:
            file.seek(asked.index * CHUNK_BYTES)
            data = file.read(CHUNK_BYTES)
        if not data:
            return Lacking(asked.digest), None
        if self._allowance is not None:
            self._stopping.wait(self._allowance.wait_ns(time.monotonic_ns()) / 1e9)
            self._allowance.spend(len(data), time.monotonic_ns())
        return Chunk(asked.digest, asked.index), data

    def _send(self, link: bytes, message: Message, data: bytes | None) -> None:
        try:
            frames = [link, wire.encode(message), *([] if data is None else [data])]
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError:
            return  # gone, or not reading: it asks again elsewhere
