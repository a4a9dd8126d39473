"""Fetching in hashed chunks: honest, lying, dying and silent sources, in virtual time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from continuer.chunks import (
    CHUNK_BYTES,
    DIGEST_BYTES,
    SILENCE_MS,
    WINDOW,
    Allowance,
    Command,
    Download,
    Keep,
    Outlined,
    WantChunk,
    WantOutline,
    digest_of,
    outline_of,
)

MS = 1_000_000
CHUNK = 10  # small chunks keep the cases small; a source may choose them


def hashes_of(content: bytes) -> bytes:
    chunks = [content[i : i + CHUNK] for i in range(0, len(content), CHUNK)]
    return b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)


class Source:
    """Has a file, and answers as its kind does."""

    def __init__(self, kind: str, content: bytes, dies_after: int = 0) -> None:
        self.kind = kind
        self.content = content[::-1] + b"!" if kind == "other file" else content
        self.left = dies_after if kind == "dies" else 10**9
        self.asked: list[int] = []

    def outline(self) -> tuple[int, int, bytes] | None:
        if self.kind in ("silent", "lacking"):
            return None
        hashes = hashes_of(self.content)
        if self.kind == "absurd":
            return len(self.content), CHUNK, hashes + b"x"
        return len(self.content), CHUNK, hashes

    def chunk(self, index: int) -> bytes | None:
        self.asked.append(index)
        self.left -= 1
        if self.left < 0:
            return None
        data = self.content[index * CHUNK : (index + 1) * CHUNK]
        return data[:-1] + bytes([data[-1] ^ 1]) if self.kind == "corrupts" else data


class Transfer:
    """Drives a download over sources to its end; what is on disk is ``disk``."""

    def __init__(
        self, content: bytes, sources: dict[str, Source], disk: bytes = b"", max_bytes: int = 10**6
    ) -> None:
        self.digest = hashlib.sha256(content).digest()
        self.sources = sources
        self.disk = bytearray(disk)
        self.now = 0
        self.most_asked = 0
        self.download = Download(self.digest, max_bytes, list(sources), 0)

    def run(self) -> bytes | None:
        """The file, or None where nobody could give it."""
        waiting = self.perform(self.download.start())
        for _ in range(10_000):
            self.now += 1 * MS
            waiting += self.perform(self.download.next(self.now))
            owed = [c for c in waiting if isinstance(c, WantChunk)]
            self.most_asked = max(self.most_asked, len(owed))
            if waiting:
                waiting += self.perform(self.reply(waiting.pop(0)))
            else:
                self.now += (SILENCE_MS + 1) * MS
                waiting += self.perform(self.download.on_tick(self.now))
            if self.download.complete:
                if hashlib.sha256(self.disk).digest() == self.digest:
                    return bytes(self.disk)
                waiting += self.perform(self.download.on_whole_wrong())
            if self.download.failed:
                return None
        raise AssertionError("it neither ends nor fails")

    def reply(self, question: Command) -> list[Command]:
        assert isinstance(question, (WantOutline, WantChunk))
        name, source = question.source, self.sources[question.source]
        if isinstance(question, WantChunk):
            data = source.chunk(question.index)
            if data is None:
                return []
            return self.download.on_chunk(name, question.index, data, self.now)
        outline = source.outline()
        if outline is None:
            return [] if source.kind == "silent" else self.download.on_lacking(name)
        return self.download.on_outline(name, *outline, self.now)

    def perform(self, commands: list[Command]) -> list[Command]:
        questions: list[Command] = []
        for command in commands:
            if isinstance(command, Keep):
                end = command.offset + len(command.data)
                self.disk.extend(bytes(max(0, end - len(self.disk))))
                self.disk[command.offset : end] = command.data
            elif isinstance(command, Outlined):
                del self.disk[command.nbytes :]
                for index, offset, count in self.download.pieces():
                    kept = bytes(self.disk[offset : offset + count])
                    if len(kept) == count:
                        self.download.on_kept(index, kept)
            else:
                questions.append(command)
        return questions


KINDS = ("honest", "corrupts", "other file", "absurd", "lacking", "silent", "dies")
contents = st.binary(min_size=1, max_size=120)
sources_of = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 5)), min_size=1, max_size=5)


@settings(max_examples=300, deadline=None)
@given(contents, sources_of, st.binary(max_size=150))
def test_one_honest_source_is_enough_whatever_the_others_do(
    content: bytes, kinds: list[tuple[str, int]], disk: bytes
) -> None:
    sources = {f"s{i}": Source(kind, content, n) for i, (kind, n) in enumerate(kinds)}
    found = Transfer(content, sources, disk).run()
    assert found in (content, None)
    if any(kind == "honest" for kind, _ in kinds):
        assert found == content


@settings(max_examples=100, deadline=None)
@given(contents, st.sampled_from(["corrupts", "other file", "absurd", "lacking", "silent"]))
def test_without_an_honest_source_it_fails_and_says_why(content: bytes, kind: str) -> None:
    transfer = Transfer(content, {"a": Source(kind, content), "b": Source(kind, content)})
    assert transfer.run() is None
    assert [problem[:2] for problem in transfer.download.problems] == ["a:", "b:"]


@given(st.binary(min_size=CHUNK, max_size=200), st.data())
def test_what_is_on_disk_is_not_asked_for_again(content: bytes, data: st.DataObject) -> None:
    whole = data.draw(st.integers(0, len(content) // CHUNK))
    source = Source("honest", content)
    assert Transfer(content, {"a": source}, content[: whole * CHUNK]).run() == content
    assert sorted(source.asked) == list(range(whole, -(-len(content) // CHUNK)))


def test_a_chunk_that_was_altered_on_disk_is_asked_for_again() -> None:
    content = bytes(range(35))
    source = Source("honest", content)
    altered = content[:12] + b"?" + content[13:]
    assert Transfer(content, {"a": source}, altered).run() == content
    assert source.asked == [1]


def test_chunks_come_from_several_sources() -> None:
    content = bytes(200)
    sources = {name: Source("honest", content) for name in ("a", "b")}
    assert Transfer(content, sources).run() == content
    shares = [len(source.asked) for source in sources.values()]
    assert sum(shares) == 20
    assert min(shares) >= 5


def test_what_a_source_that_died_was_asked_for_comes_from_others() -> None:
    content = bytes(range(100))
    dying, other = Source("dies", content, 2), Source("honest", content)
    assert Transfer(content, {"a": dying, "b": other}).run() == content
    assert set(dying.asked[2:]) <= set(other.asked)


def test_no_more_is_asked_for_than_the_windows_allow() -> None:
    content = bytes(1000)
    sources = {name: Source("honest", content) for name in ("a", "b", "c")}
    transfer = Transfer(content, sources)
    assert transfer.run() == content
    assert transfer.most_asked == WINDOW * 3


def test_a_corrupt_chunk_ends_the_trust_in_its_source() -> None:
    content = bytes(range(50))
    liar = Source("corrupts", content)
    transfer = Transfer(content, {"a": liar, "b": Source("honest", content)})
    assert transfer.run() == content
    assert "a: chunk 0 is not what its outline says" in transfer.download.problems
    assert len(liar.asked) <= WINDOW


def test_a_file_larger_than_announced_is_refused() -> None:
    content = bytes(50)
    transfer = Transfer(content, {"a": Source("honest", content)}, max_bytes=49)
    assert transfer.run() is None


@pytest.mark.parametrize("chunk_bytes", [0, -1, CHUNK_BYTES + 1])
def test_an_outline_with_absurd_chunks_is_refused(chunk_bytes: int) -> None:
    download = Download(bytes(32), 1000, ["a"], 0)
    assert download.on_outline("a", 100, chunk_bytes, bytes(DIGEST_BYTES), 0) == []
    assert download.failed


def test_strangers_and_unasked_chunks_are_ignored() -> None:
    content = bytes(25)
    download = Download(hashlib.sha256(content).digest(), 1000, ["a"], 0)
    download.on_outline("a", 25, CHUNK, hashes_of(content), 0)
    assert download.on_chunk("b", 0, content[:10], 0) == []
    assert download.on_chunk("a", 0, content[:10], 0) == []  # not asked for yet
    assert download.on_outline("a", 25, CHUNK, bytes(96), 0) == []  # it has given one
    assert not download.complete
    assert not download.failed


def test_a_slow_source_that_keeps_sending_is_not_given_up() -> None:
    content = bytes(range(40))
    download = Download(hashlib.sha256(content).digest(), 1000, ["a"], 0)
    download.on_outline("a", 40, CHUNK, hashes_of(content), 0)
    now = 0
    download.next(now)
    for index in range(4):
        now += (SILENCE_MS - 1) * MS
        assert download.on_tick(now) == []
        download.on_chunk("a", index, content[index * CHUNK : (index + 1) * CHUNK], now)
        download.next(now)
    assert download.complete


def test_the_allowance_spaces_chunks_by_their_size() -> None:
    allowance = Allowance(bytes_per_s=1000)
    assert allowance.wait_ns(5) == 0
    allowance.spend(500, 5)
    assert allowance.wait_ns(5) == 500 * MS
    assert allowance.wait_ns(5 + 500 * MS) == 0
    allowance.spend(100, 2000 * MS)  # what was not used does not add up
    assert allowance.wait_ns(2000 * MS) == 100 * MS


@pytest.mark.parametrize("nbytes", [1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_an_outline_describes_the_file(tmp_path: Path, nbytes: int) -> None:
    content = (b"0123456789abcdef" * (nbytes // 16 + 1))[:nbytes]
    path = tmp_path / "file"
    path.write_bytes(content)
    found, hashes = outline_of(path)
    assert found == nbytes
    assert len(hashes) == DIGEST_BYTES * -(-nbytes // CHUNK_BYTES)
    assert hashes[:DIGEST_BYTES] == hashlib.sha256(content[:CHUNK_BYTES]).digest()
    assert digest_of(path) == hashlib.sha256(content).digest()
