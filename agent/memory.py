"""How much memory this process uses."""

from __future__ import annotations

import os
from pathlib import Path

MIB = 1 << 20
PAGE_BYTES = os.sysconf("SC_PAGESIZE")


def rss_bytes() -> int:
    """Resident memory of this process."""
    statm = Path("/proc/self/statm").read_text(encoding="ascii")
    return int(statm.split()[1]) * PAGE_BYTES
