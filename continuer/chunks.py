"""Fetching a file by its SHA-256, in hashed chunks, from whoever has it. Sans-IO.

A file's *outline* is the SHA-256 of each of its chunks. One outline is followed at a time, and
whoever gave the same one may send chunks: each is checked on arrival, and a source whose chunk
is wrong is asked no more. The whole file is checked at the end; if it is wrong, the outline was,
and all who gave it are dropped. So no source can do more than waste one file's transfer.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

CHUNK_BYTES = 256 << 10
DIGEST_BYTES = 32
# Chunks asked of one source that have not arrived: what a transfer holds in memory at most.
WINDOW = 4
# A source that sends nothing for so long is given up.
SILENCE_MS = 2000
MS = 1_000_000

Source = str


class WantOutline(msgspec.Struct, frozen=True):
    """Ask the source for the file's outline."""

    source: Source


class WantChunk(msgspec.Struct, frozen=True):
    """Ask the source for a chunk."""

    source: Source
    index: int


class Keep(msgspec.Struct, frozen=True):
    """Write a chunk, which is right, at this position of the file."""

    offset: int
    data: bytes | memoryview


class Outlined(msgspec.Struct, frozen=True):
    """An outline is followed: report what is on disk already with ``on_kept``, then ``next``."""

    nbytes: int


Command = WantOutline | WantChunk | Keep | Outlined


class _Given(msgspec.Struct, frozen=True):
    """An outline as a source gave it."""

    nbytes: int
    chunk_bytes: int
    hashes: bytes


class _Peer(msgspec.Struct):
    """What is known of a source: its outline, what it was asked for, when it last sent."""

    heard_ns: int
    given: _Given | None = None
    asked: set[int] = set()


class Download:
    """One file. ``now`` is ns of a monotonic clock; ``max_bytes`` bounds what is accepted.

    Feed it what arrives and the time; perform what it returns. It ends in ``complete``, after
    which the caller checks the whole and says so, or in ``failed``.
    """

    def __init__(self, digest: bytes, max_bytes: int, sources: Sequence[Source], now: int) -> None:
        self.digest = digest
        self.problems: list[str] = []
        self._max_bytes = max_bytes
        self._peers = {source: _Peer(now) for source in sources}
        self._given: _Given | None = None
        self._todo: deque[int] = deque()
        self._left: set[int] = set()

    @property
    def complete(self) -> bool:
        """Every chunk of the outline is there."""
        return self._given is not None and not self._left

    @property
    def failed(self) -> bool:
        """Nobody is left who could send what is missing."""
        return not self.complete and not self._peers

    def start(self) -> list[Command]:
        """Ask everyone what the file consists of."""
        return [WantOutline(source) for source in self._peers]

    def next(self, now: int, at_most: int = WINDOW * 100) -> list[Command]:
        """Chunks to ask for: each source has a window, the fastest ones empty theirs soonest."""
        commands: list[Command] = []
        able = [(s, p) for s, p in self._peers.items() if p.given == self._given is not None]
        while self._todo and able and len(commands) < at_most:
            source, peer = min(able, key=lambda entry: len(entry[1].asked))
            if len(peer.asked) >= WINDOW:
                break
            if not peer.asked:
                peer.heard_ns = now  # it had nothing to send until now
            index = self._todo.popleft()
            peer.asked.add(index)
            commands.append(WantChunk(source, index))
        return commands

    def on_outline(
        self, source: Source, nbytes: int, chunk_bytes: int, hashes: bytes, now: int
    ) -> list[Command]:
        """A source says what the file consists of."""
        peer = self._peers.get(source)
        if peer is None or peer.given is not None:
            return []
        count = -(-nbytes // chunk_bytes) if 0 < chunk_bytes <= CHUNK_BYTES else -1
        if not 0 < nbytes <= self._max_bytes or len(hashes) != count * DIGEST_BYTES:
            return self._drop(source, "its outline cannot be true")
        peer.heard_ns = now
        peer.given = _Given(nbytes, chunk_bytes, hashes)
        return self._follow() if self._given is None else []

    def on_kept(self, index: int, data: bytes | memoryview) -> None:
        """A chunk from an earlier attempt, as it is on disk: not asked for again if right."""
        if index in self._left and self._right(index, data):
            self._left.discard(index)
            self._todo = deque(i for i in self._todo if i != index)

    def on_chunk(
        self, source: Source, index: int, data: bytes | memoryview, now: int
    ) -> list[Command]:
        """A chunk has arrived: keep it where it is right, else drop its source."""
        peer = self._peers.get(source)
        if peer is None or index not in peer.asked:
            return []
        if not self._right(index, data):
            return self._drop(source, f"chunk {index} is not what its outline says")
        peer.asked.discard(index)
        peer.heard_ns = now
        self._left.discard(index)
        assert self._given is not None
        return [Keep(index * self._given.chunk_bytes, data)]

    def on_lacking(self, source: Source) -> list[Command]:
        """A source does not have the file."""
        return self._drop(source, "does not have it")

    def on_tick(self, now: int) -> list[Command]:
        """Give up sources that owe something and have long been silent."""
        commands: list[Command] = []
        for source, peer in list(self._peers.items()):
            owes = peer.given is None or bool(peer.asked)
            if owes and now - peer.heard_ns > SILENCE_MS * MS:
                commands += self._drop(source, f"silent for {SILENCE_MS} ms")
        return commands

    def on_whole_wrong(self) -> list[Command]:
        """The file of all chunks has another SHA-256: whoever gave its outline is dropped."""
        liars = [source for source, peer in self._peers.items() if peer.given == self._given]
        for source in liars:
            del self._peers[source]
            self.problems.append(f"{source}: what it has is another file")
        return self._follow()

    def _right(self, index: int, data: bytes | memoryview) -> bool:
        given = self._given
        assert given is not None
        expected = min(given.chunk_bytes, given.nbytes - index * given.chunk_bytes)
        wanted = given.hashes[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        return len(data) == expected and hashlib.sha256(data).digest() == wanted

    def _drop(self, source: Source, problem: str) -> list[Command]:
        """Ask a source no more; others get what it owed."""
        peer = self._peers.pop(source, None)
        if peer is None:
            return []
        self.problems.append(f"{source}: {problem}")
        self._todo.extendleft(sorted(peer.asked, reverse=True))
        orphaned = all(other.given != self._given for other in self._peers.values())
        if self._left and orphaned:
            self._given = None  # its last source is gone; another outline may lead further
        return self._follow() if self._given is None else []

    def _follow(self) -> list[Command]:
        """Follow the first outline there is."""
        self._given = next((p.given for p in self._peers.values() if p.given), None)
        if self._given is None:
            self._left, self._todo = set(), deque()
            return []
        count = -(-self._given.nbytes // self._given.chunk_bytes)
        self._left, self._todo = set(range(count)), deque(range(count))
        for peer in self._peers.values():
            peer.asked = set()
        return [Outlined(self._given.nbytes)]

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        """(index, offset, bytes) of each chunk of the outline that is followed."""
        given = self._given
        if given is not None:
            for offset in range(0, given.nbytes, given.chunk_bytes):
                yield (
                    offset // given.chunk_bytes,
                    offset,
                    min(given.chunk_bytes, given.nbytes - offset),
                )


class Allowance:
    """How much may be moved: ``bytes_per_s`` on average, in bursts of a few chunks. Sans-IO."""

    def __init__(self, bytes_per_s: float) -> None:
        self._ns_per_byte = 1e9 / bytes_per_s
        self._free_ns = 0

    def wait_ns(self, now: int) -> int:
        """How long to wait before the next chunk."""
        return max(0, self._free_ns - now)

    def spend(self, nbytes: int, now: int) -> None:
        """So much is moved now."""
        self._free_ns = max(self._free_ns, now) + int(nbytes * self._ns_per_byte)


def digest_of(path: Path) -> bytes:
    """SHA-256 of a file, read a chunk at a time. Raises OSError."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            found.update(data)
    return found.digest()


def outline_of(path: Path) -> tuple[int, bytes]:
    """Size of a file and the SHA-256 of each chunk. Raises OSError."""
    hashes, nbytes = bytearray(), 0
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            hashes += hashlib.sha256(data).digest()
            nbytes += len(data)
    return nbytes, bytes(hashes)
