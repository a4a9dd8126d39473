"""Key pairs of daemons, clients and operators (Curve25519), made and kept where they are used."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import zmq

from continuer.errors import ConfigError
from continuer.security.files import give_to_owner, make_directory, read_toml
from continuer.security.identity import check_key, is_key

FILE = "own.key"
# The coordinator's next key: known to the others already, used from its next start.
NEXT = "next.key"
MARK_BYTES = 8


class KeyPair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public key and its secret, both Z85."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyPair({self.public!r})"  # a secret must not get into a log by accident


def make() -> KeyPair:
    """A new key pair, from the system's randomness."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode("ascii"), secret.decode("ascii"))


def save(directory: Path, pair: KeyPair, name: str = FILE) -> None:
    """Write the pair into a directory of keys, readable by its owner only. Raises OSError."""
    make_directory(directory)
    text = (
        "# Made on this machine, and secret: whoever has it is this machine to all others.\n"
        f'public = "{pair.public}"\nsecret = "{pair.secret}"\n'
    )
    temporary = directory / (name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        give_to_owner(file.fileno(), directory)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / name)


def load(directory: Path, name: str = FILE) -> KeyPair:
    """The pair in a directory of keys; raises ConfigError for one that cannot be trusted."""
    path = directory / name
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(
            "keys", str(path), f"{error.strerror}; make a key with 'continuer join' or "
            "'continuer node init'"
        ) from error  # fmt: skip
    if mode & 0o077:
        raise ConfigError(
            "keys", str(path), f"others may use it (mode {mode & 0o777:04o}); chmod 600 it, and "
            "rotate it if others had access"
        )  # fmt: skip
    pair = read_toml(path, KeyPair)
    check_key("public", pair.public)
    if not is_key(pair.secret):
        raise ConfigError("secret", "(not shown)", f"not a key; make {path} anew")
    if zmq.curve_public(pair.secret.encode("ascii")).decode("ascii") != pair.public:
        raise ConfigError("public", pair.public, f"does not belong to the secret; make {path} anew")
    return pair


def mark(public: str) -> bytes:
    """The first 8 bytes of a client's id: they follow from its key, so nobody else can use it."""
    return hashlib.sha256(public.encode("ascii")).digest()[:MARK_BYTES]
