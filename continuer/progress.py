"""A bar on standard error for what takes over a second, where somebody looks at it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

T = TypeVar("T")
AFTER_S = 1.0
EVERY_S = 0.1
CELLS = 30


def bar(
    items: Iterable[T],
    total: int,
    what: str,
    stream: TextIO | None = None,
    after_s: float = AFTER_S,
) -> Iterator[T]:
    """The items as they come, with a bar of how many of ``total`` have been gone through.

    Nothing is shown in the first second, nor where the stream is no terminal.
    """
    out = stream or sys.stderr
    shown, due = False, time.monotonic() + after_s
    done = 0
    try:
        for item in items:
            yield item
            done += 1
            if out.isatty() and time.monotonic() >= due:
                due = time.monotonic() + EVERY_S
                shown = True
                filled = CELLS * done // max(total, 1)
                out.write(f"\r{what} [{'#' * filled:<{CELLS}}] {done}/{total}")
                out.flush()
    finally:
        if shown:
            out.write("\r\033[K")
            out.flush()
