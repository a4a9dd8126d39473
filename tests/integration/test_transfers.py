"""Shelves and a fetcher with real sockets and files: damage, cuts, full disks, several sources."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.fetch import Fetched, Fetcher, Wanted
from continuer.chunks import CHUNK_BYTES
from continuer.shelf import Shelf
from continuer.store import Store

CONTENT = np.random.default_rng(1).bytes(5 * CHUNK_BYTES + 1000)
DIGEST = hashlib.sha256(CONTENT).digest()
WANTED = Wanted(DIGEST, 1 << 30, "part 'block07'")
NOBODY = "tcp://127.0.0.1:1"

OpenShelf = Callable[..., str]


@pytest.fixture
def open_shelf(tmp_path: Path) -> Iterator[OpenShelf]:
    """Starts shelves that hand out one file each, and gives their endpoints."""
    shelves: list[Shelf] = []

    def start(
        content: bytes | None = CONTENT,
        digest: bytes = DIGEST,
        mib_per_s: float | None = None,
        on_find: Callable[[], None] = lambda: None,
    ) -> str:
        path = tmp_path / f"shelf{len(shelves)}"
        if content is not None:
            path.write_bytes(content)

        def find(asked: bytes) -> Path | None:
            on_find()
            return path if asked == digest and path.exists() else None

        shelf = Shelf("127.0.0.1", 0, find, lambda *_: None, mib_per_s)
        shelf.start()
        shelves.append(shelf)
        return f"tcp://127.0.0.1:{shelf.port}"

    yield start
    for shelf in shelves:
        shelf.stop()
    for shelf in shelves:
        shelf.join()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def stored(store: Store) -> bytes | None:
    path = store.find(DIGEST)
    return path.read_bytes() if path else None


def fetched(store: Store, *sources: str, wanted: Wanted = WANTED) -> Fetched:
    return Fetcher(store).fetch([wanted], sources)


def test_a_file_is_fetched_and_verified(open_shelf: OpenShelf, store: Store) -> None:
    outcome = fetched(store, open_shelf())
    assert outcome.problems == []
    assert outcome.nbytes == len(CONTENT)
    assert outcome.took_us > 0
    assert stored(store) == CONTENT


def test_several_files_come_over_the_same_links(open_shelf: OpenShelf, store: Store) -> None:
    other = b"another file"
    digest = hashlib.sha256(other).digest()
    sources = [open_shelf(), open_shelf(other, digest)]
    wanted = [WANTED, Wanted(digest, len(other), "another")]
    assert Fetcher(store).fetch(wanted, sources).problems == []
    assert stored(store) == CONTENT
    assert store.find(digest) is not None


def test_sources_that_lie_lack_it_or_are_not_there_do_no_harm(
    open_shelf: OpenShelf, store: Store
) -> None:
    altered = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    sources = [NOBODY, open_shelf(altered), open_shelf(None), open_shelf(CONTENT[:1000])]
    assert fetched(store, *sources, open_shelf()).problems == []
    assert stored(store) == CONTENT


def test_a_file_that_only_a_liar_has_is_not_taken_in(open_shelf: OpenShelf, store: Store) -> None:
    (problem,) = fetched(store, open_shelf(CONTENT[:-1] + b"?")).problems
    assert "part 'block07'" in problem
    assert "another file" in problem
    assert stored(store) is None


def test_a_file_that_nobody_has_names_the_remedy(open_shelf: OpenShelf, store: Store) -> None:
    (problem,) = fetched(store, open_shelf(None)).problems
    assert "bring a box up that has it" in problem
    (alone,) = fetched(store).problems
    assert "nobody to ask" in alone


def test_a_file_larger_than_the_manifest_says_is_refused(
    open_shelf: OpenShelf, store: Store
) -> None:
    (problem,) = fetched(store, open_shelf(), wanted=Wanted(DIGEST, 1000, "part")).problems
    assert "cannot be true" in problem


def test_what_was_cut_is_resumed_without_sending_it_again(
    open_shelf: OpenShelf, store: Store
) -> None:
    source = open_shelf()
    store.partial(DIGEST).write_bytes(CONTENT[: 3 * CHUNK_BYTES + 5])
    outcome = fetched(store, source)
    assert stored(store) == CONTENT
    assert outcome.nbytes == len(CONTENT) - 3 * CHUNK_BYTES


def test_an_interrupted_transfer_leaves_what_it_has(open_shelf: OpenShelf, store: Store) -> None:
    asked = threading.Event()
    questions = 0

    def count() -> None:
        nonlocal questions
        questions += 1
        if questions == 3:  # the outline, and two chunks
            asked.set()

    source = open_shelf(mib_per_s=1.0, on_find=count)
    outcome = Fetcher(store).fetch([WANTED], [source], asked.is_set)
    assert outcome.problems == []
    assert stored(store) is None
    again = fetched(store, open_shelf())
    assert stored(store) == CONTENT
    assert again.nbytes <= len(CONTENT)


def test_a_source_that_dies_midway_is_replaced(open_shelf: OpenShelf, store: Store) -> None:
    questions = 0
    path_gone = threading.Event()

    def die() -> None:
        nonlocal questions
        questions += 1
        if questions > 3:
            path_gone.wait()  # hangs, as a box does that has lost its power

    dying, other = open_shelf(on_find=die), open_shelf()
    try:
        assert fetched(store, dying, other).problems == []
    finally:
        path_gone.set()
    assert stored(store) == CONTENT


def test_a_full_disk_is_said_and_its_room_given_back(open_shelf: OpenShelf, store: Store) -> None:
    source = open_shelf()
    # /dev/full refuses every write for want of space; nothing else about it is a pretence.
    partial = store.partial(DIGEST)
    partial.symlink_to("/dev/full")
    (problem,) = fetched(store, source).problems
    assert "No space left on device" in problem
    assert "make room" in problem
    assert not partial.is_symlink()
    assert fetched(store, source).problems == []


def test_a_rate_limit_is_kept(open_shelf: OpenShelf, store: Store) -> None:
    mib_per_s = 4.0
    outcome = Fetcher(store, mib_per_s).fetch([WANTED], [open_shelf()])
    assert stored(store) == CONTENT
    # The first chunk is free, all others wait for what came before them.
    least_us = (len(CONTENT) - 2 * CHUNK_BYTES) / (mib_per_s * (1 << 20)) * 1e6
    assert outcome.took_us >= least_us


def test_strangers_questions_are_counted_and_survived(store: Store) -> None:
    import zmq

    seen: list[str] = []
    shelf = Shelf("127.0.0.1", 0, lambda _: None, lambda *said: seen.append(said[1]))
    shelf.start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.connect(f"tcp://127.0.0.1:{shelf.port}")
        for frames in ([b"rubbish"], [b"", b"two", b"frames"], [b"\x92\x01\x48"]):
            stranger.send_multipart(frames)
        outcome = fetched(store, f"tcp://127.0.0.1:{shelf.port}")
    assert "does not have it" in outcome.problems[0]  # it still answers
    shelf.stop()
    shelf.join()
    assert len(seen) == 3
