"""Requests at a fixed rate until standard input ends; then the raw log, as ``continuer load`` does.

``python -m tests.root.requests RAW_LOG RATE IMAGES BUDGET_MS ENDPOINT...``
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path

from continuer import load
from continuer.client import Client

LONGEST_S = 300.0
POLL_S = 0.02


class EnoughError(Exception):
    """No more requests."""


class UntilTold(load.Generator):
    """Sends until it is told to stop."""

    def __init__(self, client: Client, images: str, rate: float, budget_ms: float) -> None:
        inputs, labels = load.inputs_for(client.input, images, 0)
        options = argparse.Namespace(
            rate=rate, seconds=LONGEST_S, budget_ms=budget_ms, progress=True
        )
        super().__init__(client, inputs, labels, options)
        self.enough = threading.Event()

    def _wait_until(self, moment: int, said: int) -> int:
        if self.enough.is_set():
            raise EnoughError
        return super()._wait_until(moment, said)

    def finish(self, budget_ms: float) -> None:
        """Wait for the outcomes of what was sent."""
        deadline = time.monotonic() + budget_ms / 1000 + 1
        while time.monotonic() < deadline and any(not r.outcomes for r in self.records):
            time.sleep(POLL_S)
        self._say_progress()


def main() -> None:
    raw_log, rate, images, budget_ms, *endpoints = sys.argv[1:]
    sys.setswitchinterval(1e-4)
    with Client(endpoints) as client:
        generator = UntilTold(client, images, float(rate), float(budget_ms))

        def listen() -> None:
            sys.stdin.read()
            generator.enough.set()

        threading.Thread(target=listen, daemon=True).start()
        try:
            generator.run()
        except EnoughError:
            generator.finish(float(budget_ms))
        moved = client.moved
    load.write(Path(raw_log), {"rate_per_s": float(rate), "moved": moved}, generator.records)


if __name__ == "__main__":
    main()
