"""Small TOML files of the security package: read with checks, written whole."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from continuer.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 4 << 20

T = TypeVar("T", bound=msgspec.Struct)


def read_toml(path: Path, kind: type[T]) -> T:
    """The file as a struct of that kind; raises ConfigError naming the file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError("keys", str(path), f"larger than {MAX_BYTES} bytes; restore it")
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), kind)
    except OSError as error:
        raise ConfigError("keys", str(path), f"{error.strerror}; give a readable file") from error
    except (ValueError, RecursionError) as error:  # also what tomllib and msgspec raise
        raise ConfigError("keys", str(path), f"{error}; repair or restore it") from error


def make_directory(path: Path) -> None:
    """A directory that only its owner enters; made by root, it is its parent's owner's."""
    if path.is_dir():
        return
    path.mkdir(parents=True, mode=0o700)
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def give_to_owner(descriptor: int, directory: Path) -> None:
    """What root writes for a daemon has to be readable by the daemon's user."""
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file; whoever reads it sees the old or the new one. Raises OSError."""
    make_directory(path.parent)
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        give_to_owner(file.fileno(), path.parent)
        file.write(text)
    temporary.replace(path)
