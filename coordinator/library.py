"""The bundles that the coordinator can serve, and which one is in force, across its restarts."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec

from continuer.bundle import Bundle
from continuer.errors import BundleError, ConfigError, UsageError
from continuer.events import Event
from continuer.security import signing
from continuer.store import Store

FILE = "deployed.json"
STORE = "store"


class Deployed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hashes in hex and signatures in base64 of the bundle in force and of the one before.

    ``configured``: the bundle that the configuration named when this was written. Where it names
    another one now, that is the newer order.
    """

    bundle: str
    signature: str
    previous: str
    previous_signature: str
    configured: str


class Library:
    """Raises ConfigError where the state directory holds what cannot be read."""

    def __init__(self, configured: Bundle, state_dir: Path | None) -> None:
        self._configured = configured
        self._state = state_dir
        self._store: Store | None = None
        self._deployed = self._read()
        self._in_force = configured

    @property
    def store(self) -> Store:
        """Where deployed bundles are kept; raises UsageError where there is no place for any."""
        if self._store is None:
            if self._state is None:
                raise UsageError(
                    "deploy: this coordinator has no 'state_dir' to keep bundles in; set one in "
                    "coordinator.toml and restart it"
                )
            self._store = Store(self._state / STORE)
        return self._store

    def serve(self) -> tuple[Bundle, list[Event]]:
        """The bundle to serve, at start, and what is to be said of it."""
        found, problem = self._choose()
        self._in_force = found
        if problem:
            return found, [Event("bundle_forgotten", {"problem": problem})]
        if found is self._configured:
            return found, []
        fields = {"bundle": found.name, "digest": found.hash.hex()[:16]}
        return found, [Event("bundle_remembered", fields)]

    def _choose(self) -> tuple[Bundle, str]:
        own, last = self._configured, self._deployed
        if last is None or last.bundle == own.hash.hex():
            return own, ""
        if last.configured != own.hash.hex():
            return own, f"the configuration names {own.name} {own.hash.hex()[:16]} since then"
        try:
            return self.find(bytes.fromhex(last.bundle)), ""
        except (BundleError, ConfigError) as error:
            return own, str(error)

    def find(self, digest: bytes) -> Bundle:
        """A bundle of which every file is here; raises BundleError."""
        bundle = self._configured
        if digest != bundle.hash:
            bundle = self.store.bundle(digest)
        missing = [n for n in bundle.parts if not bundle.file_of(n).is_file()]
        if missing and bundle.by_hash:
            raise BundleError(f"part {missing[0]!r} of {bundle.name} is missing; deploy it again")
        return bundle

    def previous(self) -> tuple[Bundle, bytes]:
        """The bundle that was in force before, and its signature; raises UsageError."""
        last = self._deployed
        if last is None:
            raise UsageError("deploy: no bundle was deployed before the one in force")
        before = (last.previous, last.previous_signature)
        if self._in_force.hash.hex() != last.bundle:  # the configuration's, by a newer order
            before = (last.bundle, last.signature)
        try:
            return self.find(bytes.fromhex(before[0])), base64.b64decode(before[1])
        except BundleError as error:
            raise UsageError(f"deploy: {error}") from error

    @property
    def signature(self) -> bytes:
        """The signature of the bundle in force; empty where it has none."""
        if self._in_force is self._configured:
            return signing.signature_of(self._configured.directory)
        assert self._deployed is not None
        return base64.b64decode(self._deployed.signature)

    def file_of(self, digest: bytes) -> Path | None:
        """What agents may fetch from here. From any thread."""
        path = self._configured.files.get(digest)
        if path is not None and path.is_file():
            return path
        return self._store.find(digest) if self._store is not None else None

    def remember(self, bundle: Bundle, signature: bytes) -> None:
        """It is to be in force, and the present one to be gone back to. Raises OSError."""
        deployed = Deployed(
            bundle.hash.hex(),
            base64.b64encode(signature).decode(),
            self._in_force.hash.hex(),
            base64.b64encode(self.signature).decode(),
            self._configured.hash.hex(),
        )
        assert self._state is not None  # else there is no bundle to deploy
        temporary = self._state / (FILE + ".new")
        temporary.write_bytes(msgspec.json.encode(deployed) + b"\n")
        temporary.replace(self._state / FILE)
        self._deployed, self._in_force = deployed, bundle
        if bundle.by_hash:
            self.store.keep(bundle)

    def _read(self) -> Deployed | None:
        if self._state is None:
            return None
        path = self._state / FILE
        try:
            return msgspec.json.decode(path.read_bytes(), type=Deployed)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, ValueError) as error:
            raise ConfigError(
                "state_dir", str(self._state), f"cannot read {path}: {error}; repair or remove it"
            ) from error
