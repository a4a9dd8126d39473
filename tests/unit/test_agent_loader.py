"""The loader with a real engine and store: what it has fetched, loads, reports, and drops."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.engine import Engine
from agent.fetch import Fetcher
from agent.loader import Loader, reachable
from agent.repairs import NO_TICKET
from continuer.bundle import Bundle
from continuer.journal import Journal
from continuer.plan import Member, Version
from continuer.shelf import Shelf
from continuer.store import Store
from continuer.wire import Prepare, Prepared
from tests.unit.harness import BUNDLE

pytest.importorskip("ai_edge_litert")

MEMBER = Member("n1", 7, *(f"tcp://127.0.0.1:{port}" for port in (1, 2, 3)))
WAIT_S = 30.0


class Bench:
    """A loader over an empty store, and a shelf that has the shipped bundle."""

    def __init__(self, directory: Path) -> None:
        self.gate = threading.Event()  # closed, the shelf answers nothing
        self.gate.set()
        self.asked = threading.Event()
        self.shelf = Shelf("127.0.0.1", 0, self._find, lambda *_: None)
        self.shelf.start()
        self.source = f"tcp://127.0.0.1:{self.shelf.port}"
        self.store = Store(directory)
        manifest = self.store.partial(BUNDLE.hash)
        manifest.write_bytes(BUNDLE.files[BUNDLE.hash].read_bytes())
        assert self.store.accept(BUNDLE.hash)
        self.bundle: Bundle = self.store.bundle(BUNDLE.hash)
        self.reports: queue.SimpleQueue[Prepared] = queue.SimpleQueue()
        self.versions: queue.SimpleQueue[Version] = queue.SimpleQueue()
        self.engine = Engine(self.bundle, float("inf"))
        self.loader = Loader(
            self.bundle,
            self.engine,
            (self.store, Fetcher(self.store)),
            "tcp://127.0.0.1:7400",
            MEMBER,
            Journal(role="agent", node="n1"),
            self.reports.put,
            self.versions.put,
        )
        self.loader.start()

    def _find(self, digest: bytes) -> Path | None:
        self.asked.set()
        self.gate.wait(WAIT_S)
        return BUNDLE.files.get(digest)

    def order(self, ticket: int, *parts: int, sources: tuple[str, ...] | None = None) -> None:
        chosen = (self.source,) if sources is None else sources
        self.loader.post(Prepare(ticket, parts, False, chosen))

    def report(self) -> Prepared:
        return self.reports.get(timeout=WAIT_S)

    def close(self) -> None:
        self.gate.set()
        self.loader.post(None)
        self.loader.join(WAIT_S)
        self.shelf.stop()
        self.shelf.join(WAIT_S)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_parts_are_fetched_loaded_and_reported(bench: Bench) -> None:
    bench.order(1, 0, 3)
    report = bench.report()
    assert (report.ticket, report.problem) == (1, "")
    assert [timing.part for timing in report.loaded] == [0, 3]
    assert report.stored == (0, 3)
    assert report.fetched_bytes == sum(BUNDLE.manifest.parts[part].bytes for part in (0, 3))
    assert report.fetch_us > 0


def test_what_is_on_disk_is_not_fetched_again(bench: Bench) -> None:
    bench.order(1, 0)
    bench.report()
    bench.order(2, 0, 1)
    assert bench.report().fetched_bytes == BUNDLE.manifest.parts[1].bytes


def test_what_cannot_be_fetched_is_said_with_the_part(bench: Bench) -> None:
    bench.order(1, 0, sources=("tcp://127.0.0.1:1",))
    report = bench.report()
    assert BUNDLE.part_names[0] in report.problem
    assert "cannot be fetched" in report.problem
    assert report.stored == ()
    assert report.loaded == ()


def test_a_newer_order_does_not_wait_for_the_one_under_way(bench: Bench) -> None:
    bench.gate.clear()
    bench.order(1, *range(10))
    assert bench.asked.wait(WAIT_S)
    bench.order(2, 11)
    bench.gate.set()
    report = bench.report()
    assert report.ticket == 2  # the first is answered by it too
    assert 11 in {timing.part for timing in report.loaded}


def test_an_order_of_the_agents_own_does_not_push_the_coordinators_aside(bench: Bench) -> None:
    bench.gate.clear()
    bench.order(1, 0, 1)
    assert bench.asked.wait(WAIT_S)
    bench.order(NO_TICKET, 2)
    bench.gate.set()
    assert [bench.report().ticket, bench.report().ticket] == [1, NO_TICKET]


def test_with_the_coordinator_gone_the_sources_that_it_named_are_asked(bench: Bench) -> None:
    bench.order(1, 0)
    bench.report()
    bench.order(NO_TICKET, 4, sources=())
    assert bench.report().problem == ""


def test_versions_are_kept_in_between(bench: Bench) -> None:
    bench.loader.post(Version(3, 1))
    assert bench.versions.get(timeout=WAIT_S) == Version(3, 1)


@pytest.mark.parametrize(
    ("source", "coordinator", "dialled"),
    [
        ("tcp://*:7402", "tcp://10.0.0.1:7400", "tcp://10.0.0.1:7402"),
        ("tcp://*:7402", "tcp://[fd00::1]:7400", "tcp://[fd00::1]:7402"),
        ("tcp://10.0.0.3:7413", "tcp://10.0.0.1:7400", "tcp://10.0.0.3:7413"),
    ],
)
def test_a_star_stands_for_the_coordinators_host(
    source: str, coordinator: str, dialled: str
) -> None:
    assert reachable(source, coordinator) == dialled
