"""The ring: whose keys are known, under which name and in which role.

The coordinator keeps it in ``authorized_keys.toml`` and tells it to all agents, which keep a
copy: without the coordinator they go on knowing each other, and their clients.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from continuer.errors import ConfigError
from continuer.security import files
from continuer.security.identity import Identity, Role, check_key

FILE = "authorized_keys.toml"
# All of them fit a message, with room to spare.
MAX_IDENTITIES = 4000


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    role: Role
    public: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[_Entry, ...] = ()


class Ring:
    """Looked up by several threads, replaced as a whole by one."""

    def __init__(self, identities: Iterable[Identity] = ()) -> None:
        self._by_key: dict[str, Identity] = {}
        self.replace(identities)

    @property
    def identities(self) -> tuple[Identity, ...]:
        """All of them, in the order in which they were added."""
        return tuple(self._by_key.values())

    def find(self, public: str) -> Identity | None:
        """Who has this key; None for a stranger."""
        return self._by_key.get(public)

    def named(self, name: str) -> tuple[Identity, ...]:
        """All keys of one name: two while a key is being rotated."""
        return tuple(i for i in self.identities if i.name == name)

    @property
    def coordinator(self) -> str | None:
        """The coordinator's key; the older one, while it is being rotated."""
        return next(iter(self.coordinators), None)

    @property
    def coordinators(self) -> tuple[str, ...]:
        """Keys that the coordinator may show: two while its key is being rotated."""
        return tuple(i.public for i in self.identities if i.role == "coordinator")

    def replace(self, identities: Iterable[Identity]) -> frozenset[str]:
        """From now on these are known. Returns the keys that no longer are."""
        before = self._by_key
        self._by_key = {identity.public: identity for identity in identities}
        return frozenset(before) - frozenset(self._by_key)


def load(directory: Path) -> tuple[Identity, ...]:
    """The identities in a directory of keys; none where there is no file. Raises ConfigError."""
    path = directory / FILE
    if not path.exists():
        return ()
    found = files.read_toml(path, _File).keys
    for entry in found:
        check_key("public", entry.public)
    if len({entry.public for entry in found}) != len(found):
        raise ConfigError("keys", str(path), "a key occurs twice; remove one of the entries")
    return tuple(Identity(entry.name, entry.role, entry.public) for entry in found)


def save(directory: Path, identities: Iterable[Identity]) -> None:
    """Write the file whole. Raises OSError."""
    entries = (
        f'\n[[keys]]\nname = "{i.name}"\nrole = "{i.role}"\npublic = "{i.public}"\n'
        for i in identities
    )
    head = "# Whose keys are known here. Change it with 'continuer node' and 'continuer token'.\n"
    files.write(directory / FILE, head + "".join(entries))
