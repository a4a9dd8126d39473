"""Tokens: words that let one machine enrol, once, for a while. Sans-IO but for the file.

Only a token's SHA-256 is kept: who reads the file cannot enrol with it. ``now`` is seconds of
the wall clock, since tokens outlive a restart.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from continuer.errors import ConfigError, UsageError
from continuer.security import files
from continuer.security.identity import Role

FILE = "tokens.json"
MAX_TOKENS = 200
MIN_TTL_S = 1.0
MAX_TTL_S = 7 * 86400.0
ID_LENGTH = 8


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be done with it; ``name`` is None where whoever uses it may choose one."""

    digest: str
    role: Role
    name: str | None
    expires_s: float

    @property
    def id(self) -> str:
        """The first characters of the hash: enough to tell tokens apart."""
        return self.digest[:ID_LENGTH]


class Tokens:
    """The open tokens. ``path`` is where they are kept; raises ConfigError where unreadable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: dict[str, Token] = {}
        try:
            raw = path.read_bytes() if path.exists() else b"[]"
            found = msgspec.json.decode(raw, type=tuple[Token, ...])
        except (OSError, msgspec.DecodeError, ValueError) as error:
            raise ConfigError("keys", str(path), f"{error}; repair or remove it") from error
        self._open = {token.digest: token for token in found}

    def create(self, secret: str, role: Role, name: str | None, ttl_s: float, now: float) -> Token:
        """Open a token. Raises UsageError beyond the bounds, OSError where it cannot be kept."""
        if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
            raise UsageError(f"--ttl {ttl_s:g} s: give 1 s to 7 days")
        self._expire(now)
        if len(self._open) >= MAX_TOKENS:
            raise UsageError(f"{MAX_TOKENS} tokens are open; revoke some with 'token revoke'")
        token = Token(_digest(secret), role, name, now + ttl_s)
        self._keep({**self._open, token.digest: token})
        return token

    def check(self, secret: str, now: float) -> Token | None:
        """The token of a secret, None where there is none that is open."""
        self._expire(now)
        # A dictionary of hashes: how long this takes says nothing about other secrets.
        return self._open.get(_digest(secret))

    def spend(self, token: Token) -> None:
        """It was used, or revoked: not again. Raises OSError where that cannot be kept."""
        self._keep({k: other for k, other in self._open.items() if other != token})

    def named(self, identifier: str) -> Token:
        """The open token with this id; raises UsageError."""
        for token in self._open.values():
            if token.id == identifier:
                return token
        raise UsageError(f"token {identifier[:60]!r}: none is open; see 'continuer token list'")

    def open(self, now: float) -> tuple[Token, ...]:
        """All open tokens, soonest to expire first."""
        live = [token for token in list(self._open.values()) if token.expires_s > now]
        return tuple(sorted(live, key=lambda token: token.expires_s))

    def _expire(self, now: float) -> None:
        self._open = {k: token for k, token in self._open.items() if token.expires_s > now}

    def _keep(self, tokens: dict[str, Token]) -> None:
        text = msgspec.json.encode(tuple(tokens.values())).decode()
        files.write(self._path, text + "\n")
        self._open = tokens


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
