"""Signed bundles (Ed25519): a box runs only what somebody it trusts has signed.

What is signed is the bundle's hash, the SHA-256 of the manifest's bytes, and the manifest holds
the SHA-256 of every file. So one signature covers all, wherever the files were fetched from.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continuer.bundle import Bundle
from continuer.config import AgentConfig
from continuer.errors import BundleError, ConfigError, UsageError
from continuer.security import access, files

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FILE = "manifest.sig"
CONTEXT = b"continuer bundle 1\n"
SIGNATURE_BYTES = 64
MAX_FILE_BYTES = 1000
INSTALL = "the package 'cryptography' is missing; install continuer[agent]"


def new_key(path: Path) -> str:
    """Make a signing key in a file that only its owner may read; returns the public key, base64.

    Raises UsageError where the file exists.
    """
    serialization, private = _library()
    made = private.Ed25519PrivateKey.generate()
    pem = made.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path}: exists; give another file") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return public_of(made)


def sign(bundle: Bundle, key: Path) -> str:
    """Write the bundle's signature beside its manifest; returns the public key, base64."""
    private = _load(key)
    signature = private.sign(CONTEXT + bundle.hash)
    text = base64.b64encode(signature).decode("ascii") + "\n"
    files.write(bundle.directory / FILE, text, mode=0o644)
    return public_of(private)


def public_of(key: Ed25519PrivateKey) -> str:
    """What boxes are told to trust."""
    serialization, _ = _library()
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(raw).decode("ascii")


def signature_of(directory: Path) -> bytes:
    """The signature beside a manifest, empty where there is none; raises BundleError."""
    path = directory / FILE
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES)
        found = base64.b64decode(raw.strip(), validate=True)
    except FileNotFoundError:
        return b""
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: {error}; sign the bundle again") from error
    if len(found) != SIGNATURE_BYTES:
        raise BundleError(f"{path}: {len(found)} bytes are no signature; sign the bundle again")
    return found


def trusted_by(config: AgentConfig) -> tuple[str, ...] | None:
    """The keys of which one has to have signed; None where unsigned bundles may run.

    They may where no keys are used at all, and where the configuration says ``development``.
    """
    if access.installed() is None or config.development:
        return None
    if not config.trusted_keys:
        raise ConfigError(
            "trusted_keys", [], "name the keys that sign bundles ('continuer model keygen'), or "
            "say development = true to run unsigned ones"
        )  # fmt: skip
    return config.trusted_keys


def check(bundle: Bundle, signature: bytes, trusted: Sequence[str] | None) -> None:
    """Raise BundleError unless one of the trusted keys has signed these very bytes."""
    if trusted is None:
        return
    _library()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    for key in trusted:
        try:
            public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True))
        except ValueError as error:
            raise ConfigError(
                "trusted_keys", key, "give what 'continuer model keygen' has printed"
            ) from error
        try:
            public.verify(signature, CONTEXT + bundle.hash)
        except InvalidSignature:
            continue
        return
    state = "signed by nobody whom this box trusts" if signature else "not signed"
    raise BundleError(
        f"bundle {bundle.name!r} {bundle.hash.hex()[:16]}: {state}; sign it with 'continuer model "
        "sign', add the signer's key to 'trusted_keys', or say development = true"
    )


def _load(path: Path) -> Ed25519PrivateKey:
    serialization, private = _library()
    try:
        if path.stat().st_mode & 0o077:
            raise UsageError(f"{path}: others may read it; chmod 600 it")
        found = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: {error}; give a key of 'continuer model keygen'") from error
    if not isinstance(found, private.Ed25519PrivateKey):
        raise UsageError(f"{path}: not an Ed25519 key; make one with 'continuer model keygen'")
    made: Ed25519PrivateKey = found
    return made


def _library() -> tuple[Any, Any]:
    """Two modules of 'cryptography', which only agents and signers need."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ConfigError("trusted_keys", None, INSTALL) from error
    return serialization, ed25519
