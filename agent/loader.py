"""The loader thread: has parts fetched where they are not on disk, and brings them into memory.

Everything else goes on meanwhile. A newer order of the coordinator takes the place of one that
is under way: what was fetched and loaded by then stays.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from agent.engine import Engine
from agent.fetch import Fetched, Fetcher, Wanted
from agent.memory import MIB, rss_bytes
from agent.repairs import NO_TICKET
from continuer.bundle import Bundle
from continuer.journal import Journal
from continuer.plan import Member, Version
from continuer.store import Store
from continuer.wire import BUNDLE_ID_BYTES, Prepare, Prepared

SPARE_PAUSE_S = 2e-3
MAX_PROBLEM = 500


class Loader(threading.Thread):
    """``fetching`` is the store and what fills it, None where the bundle is a directory here.

    ``coordinator`` is the endpoint by which this agent knows it. ``report`` and
    ``keep_version`` are called in this thread.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        fetching: tuple[Store, Fetcher] | None,
        coordinator: str,
        member: Member,
        journal: Journal,
        report: Callable[[Prepared], None],
        keep_version: Callable[[Version], None],
    ) -> None:
        super().__init__(name="loader", daemon=True)
        self._bundle = bundle
        self._engine = engine
        self._fetching = fetching
        self._coordinator = coordinator
        self._member = member
        self._journal = journal
        self._report = report
        self._keep_version = keep_version
        self._orders: queue.SimpleQueue[Prepare | Version | None] = queue.SimpleQueue()
        self._latest = NO_TICKET  # the coordinator's latest order
        self._stopping = False
        self._sources: tuple[str, ...] = ()

    def post(self, order: Prepare | Version | None) -> None:
        """An order, a version to keep on disk, or None to end. From any thread."""
        if order is None:
            self._stopping = True
        elif isinstance(order, Prepare) and order.ticket != NO_TICKET:
            self._latest = order.ticket
        self._orders.put(order)

    def stored(self) -> tuple[int, ...] | None:
        """Parts on this box's disk; None where all are."""
        if self._fetching is None:
            return None
        parts = self._bundle.manifest.parts
        return tuple(i for i, p in enumerate(parts) if self._bundle.file_of(p.name).is_file())

    def run(self) -> None:
        """Obey until None is posted."""
        while True:
            order = self._orders.get()
            if order is None:
                return
            if isinstance(order, Version):
                self._keep_version(order)
            else:
                self._obey(order)

    def _obey(self, order: Prepare) -> None:
        started = time.monotonic_ns()
        known = [part for part in order.parts if 0 <= part < len(self._bundle.part_names)]

        def interrupted() -> bool:
            return self._stopping or order.ticket not in (NO_TICKET, self._latest)

        fetched = self._fetch(known, order.sources, interrupted)
        pause_s = 0.0 if order.urgent else SPARE_PAUSE_S
        problems = self._engine.prepare(known, pause_s, interrupted)
        if interrupted():
            return  # the order that came meanwhile is answered for both
        timings, stored = self._engine.timings(), self.stored()
        # What could not be fetched says why; that it could not be loaded then is no news.
        problem = "; ".join(fetched.problems or problems)[:MAX_PROBLEM]
        node, incarnation = self._member.node, self._member.incarnation
        self._report(
            Prepared(
                *(node, incarnation, order.ticket, timings, problem),
                *(stored, fetched.nbytes, fetched.took_us if fetched.nbytes else 0),
                self._bundle.hash[:BUNDLE_ID_BYTES],
            )
        )
        if problem:
            self._journal.emit("parts_failed", parts=len(known), problem=problem)
        load_ms = (time.monotonic_ns() - started) / 1e6
        self._journal.emit(
            "parts_loaded",
            parts=len(timings),
            load_ms=round(load_ms, 2),
            rss_mib=round(rss_bytes(self._engine.pid) / MIB, 1),
        )

    def _fetch(
        self, parts: Sequence[int], sources: Sequence[str], interrupted: Callable[[], bool]
    ) -> Fetched:
        """Have the parts on disk that are not in memory."""
        if self._fetching is None:
            return Fetched()
        store, fetcher = self._fetching
        # An order of our own making, with the coordinator gone, names no sources.
        self._sources = tuple(map(self._reachable, sources)) or self._sources
        wanted = deque[Wanted]()
        for part in parts:
            spec = self._bundle.manifest.parts[part]
            digest = bytes.fromhex(spec.sha256)
            if not self._engine.has(part) and not store.sound(digest):
                wanted.append(Wanted(digest, spec.bytes, f"part {spec.name!r}"))
        if not wanted:
            return Fetched()
        fetched = fetcher.fetch(wanted, self._sources, interrupted)
        self._journal.emit(
            "parts_fetched",
            parts=len(wanted) - len(fetched.problems),
            bytes=fetched.nbytes,
            fetch_ms=round(fetched.took_us / 1e3, 1),
        )
        return fetched

    def _reachable(self, source: str) -> str:
        return reachable(source, self._coordinator)


def reachable(source: str, coordinator: str) -> str:
    """A source's endpoint; the host ``*`` stands for the coordinator's, as we know it."""
    host = urlsplit(coordinator).netloc.rpartition(":")[0]
    return source.replace("//*:", f"//{host}:")
