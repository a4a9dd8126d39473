"""``continuer load`` as the client of a measurement, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from continuer.demo.cluster import program
from continuer.errors import ContinuerError

IMAGES = "cifar10-test-1000"
BUDGET_MS = 5000.0
BEGUN_S = 60.0
POLL_S = 0.01


def begin(
    endpoints: Sequence[str],
    raw_log: Path,
    *,
    seconds: float,
    rate_per_s: float,
    prefix: Sequence[str] = (),
    seed: int = 0,
) -> subprocess.Popen[bytes]:
    """Start it; returns once requests have begun. It ends when it has written the raw log.

    ``prefix``: what its command line begins with, to run at another place. Raises ContinuerError
    where it does not begin.
    """
    # In a file, not a pipe: nobody reads along for as long as it runs.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [
                *prefix,
                *program("continuer"),
                "load",
                *(f"--endpoint={endpoint}" for endpoint in endpoints),
                *(f"--images={IMAGES}", f"--rate={rate_per_s}", f"--seconds={seconds}"),
                *(f"--budget-ms={BUDGET_MS}", f"--seed={seed}", f"--raw-log={raw_log}"),
                "--progress",
            ],
            stdin=subprocess.DEVNULL,
            stdout=said,
        )
        deadline = time.monotonic() + BEGUN_S
        while not os.fstat(said.fileno()).st_size:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise ContinuerError(f"no requests within {BEGUN_S:g} s: continuer load says why")
            time.sleep(POLL_S)
    return process
