"""How much memory this process uses."""

from __future__ import annotations

import os
from pathlib import Path

MIB = 1 << 20
PAGE_BYTES = os.sysconf("SC_PAGESIZE")


def rss_bytes(other: int = -1) -> int:
    """Resident memory of this process, and of another that belongs to it (-1 for none)."""
    return _resident("self") + (_resident(str(other)) if other > 0 else 0)


def _resident(process: str) -> int:
    try:
        statm = Path(f"/proc/{process}/statm").read_text(encoding="ascii")
    except OSError:
        return 0  # it has ended
    return int(statm.split()[1]) * PAGE_BYTES
