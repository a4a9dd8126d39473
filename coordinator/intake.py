"""Taking a bundle in: the operator's command sends its files in pieces, which a cut leaves whole.

A thread, since disks are slow: the loop that watches nodes hands questions over, and what is to be
answered comes back through ``mailbox``.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from continuer.bundle import MAX_MANIFEST_BYTES, Bundle
from continuer.chunks import CHUNK_BYTES, DIGEST_BYTES
from continuer.errors import EXIT_USAGE, ContinuerError, UsageError
from continuer.mailbox import Mailbox
from continuer.shelf import yield_to_others
from continuer.store import Store
from continuer.wire import Ask, Tell
from coordinator.library import Library

VERBS = ("deploy.begin", "deploy.put")
MAX_PROBLEM = 500


class Intake(threading.Thread):
    """``running`` says whether a deployment is under way: its files must stay."""

    def __init__(self, library: Library, running: Callable[[], bool]) -> None:
        super().__init__(name="intake", daemon=True)
        self.mailbox: Mailbox[tuple[bytes, Tell]] = Mailbox()
        self._library = library
        self._running = running
        self._asked: queue.SimpleQueue[tuple[bytes, Ask] | None] = queue.SimpleQueue()
        self._wanted: dict[bytes, int] = {}

    def post(self, question: tuple[bytes, Ask] | None) -> None:
        """A question with the link that it came from, or None to end."""
        self._asked.put(question)

    def run(self) -> None:
        """Answer until None is posted."""
        yield_to_others()
        while (question := self._asked.get()) is not None:
            link, ask = question
            self.mailbox.post((link, self._answer(ask)))

    def _answer(self, ask: Ask) -> Tell:
        try:
            take = self._begin if ask.verb == "deploy.begin" else self._put
            return Tell(take(ask.arguments))
        except ContinuerError as error:
            return Tell({}, str(error)[:MAX_PROBLEM], EXIT_USAGE)
        except OSError as error:
            remedy = "make room in the coordinator's 'state_dir', or give it to its user"
            return Tell({}, f"deploy: {error.strerror or error}; {remedy}"[:MAX_PROBLEM])

    def _begin(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Which files are missing: the manifest, or else what it names."""
        if self._running():
            raise UsageError("deploy: another deployment is under way; wait for it, or cancel it")
        store = self._library.store
        digest, nbytes = _digest(arguments.get("bundle")), arguments.get("bytes")
        if not isinstance(nbytes, int) or not 0 < nbytes <= MAX_MANIFEST_BYTES:
            raise UsageError(f"bytes = {nbytes!r}: give 1 to {MAX_MANIFEST_BYTES}")
        if not store.sound(digest):
            self._wanted = {digest: nbytes}
        else:
            bundle = self._load(store, digest)
            store.make_room(bundle)
            self._copy_here(store, bundle)
            parts = {bytes.fromhex(p.sha256): p.bytes for p in bundle.manifest.parts}
            self._wanted = {d: size for d, size in parts.items() if not store.sound(d)}
        missing = [
            {"sha256": d.hex(), "bytes": size, "have": _size(store.partial(d))}
            for d, size in self._wanted.items()
        ]
        return {"bundle": digest.hex(), "missing": missing}

    def _load(self, store: Store, digest: bytes) -> Bundle:
        try:
            return store.bundle(digest)
        except ContinuerError:
            store.remove(digest)
            raise

    def _copy_here(self, store: Store, bundle: Bundle) -> None:
        """What the bundle in force has too need not be sent."""
        for part in bundle.manifest.parts:
            digest = bytes.fromhex(part.sha256)
            source = self._library.file_of(digest)
            if source is not None and store.find(digest) is None:
                store.partial(digest).write_bytes(source.read_bytes())
                if not store.accept(digest):
                    store.partial(digest).unlink(missing_ok=True)

    def _put(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """A piece of a file that was said to be missing; pieces come in order."""
        store = self._library.store
        digest = _digest(arguments.get("sha256"))
        offset, data = arguments.get("offset"), arguments.get("data")
        size = self._wanted.get(digest)
        if size is None:
            raise UsageError(f"sha256 = {digest.hex()[:16]}: not asked for; ask for 'deploy.begin'")
        if not isinstance(data, bytes) or not 0 < len(data) <= CHUNK_BYTES:
            raise UsageError(f"data: give 1 to {CHUNK_BYTES} bytes")
        path = store.partial(digest)
        have = _size(path)
        if offset != have or have + len(data) > size:
            return {"have": have}
        with path.open("ab") as file:
            file.write(data)
        if have + len(data) == size:
            if not store.accept(digest):
                path.unlink(missing_ok=True)
                raise UsageError(
                    f"sha256 = {digest.hex()[:16]}: what came is another file; check the bundle "
                    "with 'continuer model verify', and deploy it again"
                )
            del self._wanted[digest]
        return {"have": have + len(data)}


def _digest(value: object) -> bytes:
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        found = b""
    if len(found) != DIGEST_BYTES:
        raise UsageError(f"{str(value)[:70]!r}: give a SHA-256 as 64 digits")
    return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
