"""Who is behind a key, and endpoints that name one. Pure, since the wire speaks of them.

Keys are written as Z85, ZeroMQ's own form: 40 characters that are safe in TOML and, in single
quotes, in a shell. An endpoint may name who has to answer there, as ``tcp://HOST:PORT#KEY``.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from continuer.errors import ConfigError

Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
KEY = re.compile(f"[{re.escape(Z85)}]{{40}}")
Role = Literal["coordinator", "agent", "client", "observer", "operator"]


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """A name, what it may do, and its public key. On the wire; fields are only appended."""

    name: str
    role: Role
    public: str

    def __str__(self) -> str:
        return f"{self.name} ({self.role})"


def is_key(value: str) -> bool:
    """The value is 32 bytes in Z85. Five characters can say more than the four bytes they are."""
    return KEY.fullmatch(value) is not None and all(
        _number(value[at : at + 5]) < 1 << 32 for at in range(0, len(value), 5)
    )


def _number(group: str) -> int:
    number = 0
    for character in group:
        number = 85 * number + Z85.index(character)
    return number


def check_key(key: str, value: str) -> None:
    """Raise ConfigError unless the value is a public key in Z85."""
    if not is_key(value):
        raise ConfigError(key, value, "give a public key, 40 characters of Z85")


def split(endpoint: str) -> tuple[str, str | None]:
    """``tcp://HOST:PORT`` and the key that has to answer there, where one is named."""
    where, mark, key = endpoint.partition("#")
    return where, key if mark else None


def with_key(endpoint: str, public: str | None) -> str:
    """The endpoint, naming who has to answer there."""
    return endpoint if public is None else f"{split(endpoint)[0]}#{public}"
