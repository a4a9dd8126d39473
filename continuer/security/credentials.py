"""What a person's commands and a client's program need: a key of their own, and others' keys.

They are in a directory that ``continuer join`` has filled: ``CONTINUER_KEYS``, or
``~/.config/continuer/keys``.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from continuer.errors import ConfigError
from continuer.security import files, keys
from continuer.security.identity import Role, split, with_key
from continuer.security.keys import KeyPair

VARIABLE = "CONTINUER_KEYS"
FILE = "joined.toml"


class Joined(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As whom this machine has joined, and where the others are (``tcp://HOST:PORT#KEY``)."""

    name: str
    role: Role
    cluster: str
    control: str
    agents: str
    ingresses: tuple[str, ...] = ()


class Credentials(msgspec.Struct, frozen=True):
    """A key pair and where it may be used.

    ``explicit``: the user has named them, so nothing shall go out in the clear.
    """

    pair: KeyPair
    joined: Joined
    explicit: bool

    def control(self, endpoint: str) -> str:
        """The control endpoint with the coordinator's key, however it is reached."""
        if split(endpoint)[1] is not None or self._in_the_clear(endpoint):
            return endpoint
        return with_key(endpoint, split(self.joined.control)[1])

    def ingresses(self, endpoints: Sequence[str]) -> list[str]:
        """Ingress endpoints with the keys that are known; without any, those that are known."""
        known = {split(endpoint)[0]: endpoint for endpoint in self.joined.ingresses}
        if not endpoints:
            return list(known.values())
        return [known.get(endpoint, endpoint) for endpoint in endpoints]

    def pair_for(self, endpoint: str) -> KeyPair | None:
        """The key to show there, None where this machine talks to itself in the clear."""
        return None if self._in_the_clear(endpoint) else self.pair

    def _in_the_clear(self, endpoint: str) -> bool:
        where, key = split(endpoint)
        if key is not None or self.explicit or where == split(self.joined.control)[0]:
            return False
        try:
            return ipaddress.ip_address(urlsplit(where).hostname or "").is_loopback
        except ValueError:
            return False


def directory(named: Path | None = None) -> Path:
    """Where the credentials are: as named, as the environment says, or the user's own."""
    return named or Path(os.environ.get(VARIABLE) or Path.home() / ".config/continuer/keys")


def find(named: Path | None = None) -> Credentials | None:
    """The credentials to use; None where there are none, and none were named.

    Raises ConfigError for some that are named, or there, but cannot be used.
    """
    explicit = named is not None or VARIABLE in os.environ
    where = directory(named)
    if not explicit and not (where / FILE).exists():
        return None
    return Credentials(keys.load(where), joined(where), explicit)


def joined(where: Path) -> Joined:
    """What ``continuer join`` wrote there; raises ConfigError."""
    return files.read_toml(where / FILE, Joined)


def known_control() -> str | None:
    """The control endpoint of the cluster that the user has joined, if any."""
    try:
        return joined(directory()).control
    except ConfigError:
        return None  # there is none, or whoever needs the key will say what is wrong


def save(where: Path, joined: Joined) -> None:
    """Write ``joined.toml``. Raises OSError."""
    values = msgspec.to_builtins(joined)
    # JSON's strings and arrays of strings are TOML's too.
    files.write(where / FILE, "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items()))
