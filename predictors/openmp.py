"""LightGBM on a machine without libgomp1, which its wheel takes for granted.

The wheel of XGBoost brings the same library along, under a name of its own that nothing else
finds. A copy that calls itself what LightGBM asks for is loaded first; then the loader has what
it looks for already. Where the system has the library, that one is used.
"""

from __future__ import annotations

import ctypes
import tempfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from continuer.errors import ContinuerError

WANTED = "libgomp.so.1"
BROUGHT_BY = "xgboost-cpu"


def arrange() -> None:
    """Call before LightGBM is imported. Raises ContinuerError where there is no such library."""
    if _load(WANTED):
        return
    brought = _brought()
    if brought is None or not _load_renamed(brought):
        raise ContinuerError(
            f"LightGBM needs {WANTED}, which is not here; install it: apt install libgomp1"
        )


def _brought() -> Path | None:
    try:
        found = files(BROUGHT_BY) or []
    except PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in found if f.name.startswith("libgomp-")), None)


def _load_renamed(library: Path) -> bool:
    """Load a copy with the wanted name in place of its own, which is longer."""
    own = library.name.encode() + b"\0"
    renamed = WANTED.encode().ljust(len(own), b"\0")
    content = library.read_bytes()
    if content.count(own) != 1 or len(renamed) != len(own):
        return False
    with tempfile.NamedTemporaryFile(suffix=".so") as copy:  # needed only until it is loaded
        copy.write(content.replace(own, renamed))
        copy.flush()
        return _load(copy.name)


def _load(name: str) -> bool:
    try:
        ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
