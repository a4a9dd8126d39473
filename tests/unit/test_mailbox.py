"""A mailbox loses nothing, keeps the order, and wakes who polls it."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Iterator

import pytest

from continuer.mailbox import Mailbox


@pytest.fixture
def mailbox() -> Iterator[Mailbox[object]]:
    made: Mailbox[object] = Mailbox()
    yield made
    for fd in (made._read_fd, made._write_fd):
        with contextlib.suppress(OSError):
            os.close(fd)


def readable(mailbox: Mailbox[object], timeout_ms: int = 0) -> bool:
    poller = select.poll()
    poller.register(mailbox.fd, select.POLLIN)
    return bool(poller.poll(timeout_ms))


def test_what_was_posted_is_taken_once_and_in_order(mailbox: Mailbox[object]) -> None:
    for item in ("a", "b", None):
        mailbox.post(item)
    assert mailbox.take() == ["a", "b", None]
    assert mailbox.take() == []


def test_the_descriptor_is_readable_while_something_waits(mailbox: Mailbox[object]) -> None:
    assert not readable(mailbox)
    mailbox.post("a")
    assert readable(mailbox)
    mailbox.take()
    assert not readable(mailbox)


def test_a_full_pipe_blocks_nobody_and_loses_nothing(mailbox: Mailbox[object]) -> None:
    count = 70_000  # a pipe holds 65,536 bytes
    for item in range(count):
        mailbox.post(item)
    assert mailbox.take() == list(range(count))
    assert mailbox.take() == []
    mailbox.post("last")
    assert readable(mailbox)


def test_something_posted_without_its_wake_up_is_taken_all_the_same(
    mailbox: Mailbox[object],
) -> None:
    mailbox.post("a")
    os.read(mailbox.fd, 1)  # another wake-up's read has swallowed this one's
    assert mailbox.take() == ["a"]


def test_a_waiting_thread_gets_what_several_others_post(mailbox: Mailbox[object]) -> None:
    count, writers = 2000, 4
    found: list[tuple[int, int]] = []

    def own() -> None:
        while len(found) < count * writers:
            if not readable(mailbox, 20_000):
                return  # nothing came any more: the assertions say what is missing
            for item in mailbox.take():
                assert isinstance(item, tuple)
                found.append(item)

    def write(writer: int) -> None:
        for item in range(count):
            mailbox.post((writer, item))

    owner = threading.Thread(target=own)
    owner.start()
    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in (*threads, owner):
        thread.join(60)
    assert len(found) == count * writers
    for writer in range(writers):
        assert [i for w, i in found if w == writer] == list(range(count))


def test_the_descriptors_are_not_inherited_by_programs_that_we_start(
    mailbox: Mailbox[object],
) -> None:
    assert not os.get_inheritable(mailbox.fd)
    assert not os.get_inheritable(mailbox._write_fd)
