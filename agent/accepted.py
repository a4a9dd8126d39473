"""The highest plan version that this agent has ever accepted, kept across its restarts.

Written off the fast path: a plan is in force before it is on the disk. A crash in between loses
no more than the latest number.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from continuer.errors import ConfigError
from continuer.plan import Version

FILE = "accepted-version"


def load(state_dir: str | None) -> Version:
    """What earlier lives have accepted. Raises ConfigError where it cannot be read."""
    if state_dir is None:
        return Version()
    path = Path(state_dir) / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Version)
    except FileNotFoundError:
        return Version()
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise ConfigError(
            "state_dir", state_dir, f"cannot read {path}: {error}; repair or remove it"
        ) from error


def save(state_dir: str, version: Version) -> None:
    """Write the version; the file is whole at all times. Raises OSError."""
    directory = Path(state_dir)
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / (FILE + ".new")
    with temporary.open("wb") as file:
        file.write(msgspec.json.encode(version))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / FILE)
