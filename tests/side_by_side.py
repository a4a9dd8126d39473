"""``make test``: what computes runs beside what waits for real processes.

The tests with real processes wait most of the time. All others run meanwhile, with the lowest
priority, so that they are in nobody's way; what they say is printed when they are through.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
WAITING = "tests/integration"
LOWEST = 19
PYTEST = (sys.executable, "-m", "pytest", "-m", "not root")


def computing() -> list[str]:
    """All directories with tests but the one that waits and those that have runs of their own."""
    found = {f"tests/{path.parent.name}" for path in HERE.glob("*/test_*.py")}
    return sorted(found - {WAITING, "tests/root"})


def main() -> int:
    """Exit code 0 where all tests of both have passed."""
    with tempfile.TemporaryFile() as said:
        # Two that write pytest's cache would spoil it for each other.
        beside = subprocess.Popen(
            [*PYTEST, "-p", "no:cacheprovider", *computing()],
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        os.setpriority(os.PRIO_PROCESS, beside.pid, LOWEST)
        try:
            waited = subprocess.run([*PYTEST, WAITING])
            computed = beside.wait()
        finally:
            beside.kill()
        said.seek(0)
        sys.stdout.buffer.write(said.read())
        sys.stdout.flush()
    return waited.returncode or computed


if __name__ == "__main__":
    sys.exit(main())
