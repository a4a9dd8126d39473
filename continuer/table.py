"""A table of predictions: what plans cost and are worth, known before anything breaks.

``continuer predictors build`` writes one for a bundle and a fleet; the coordinator only looks
things up in it. The file is ``MAGIC``, the SHA-256 of the rest, and a msgpack map; it holds the
hash of the bundle that it was made for, and fits no other.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import msgspec

from continuer.bundle import Bundle
from continuer.errors import EXIT_CONFIG, ContinuerError

MAGIC = b"continuer table\n"
SCHEMA = 1
MAX_BYTES = 1 << 20
#: An hour for one part is no latency.
MAX_LATENCY_US = 3.6e9


class TableError(ContinuerError):
    """A table of predictions is missing, damaged, out of date, or made for another bundle."""

    exit_code = EXIT_CONFIG


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class PredictedAccuracy(_Strict, frozen=True, array_like=True):
    """Accuracy of one variant, and the bounds it lies between with 95 % confidence; fractions."""

    exit: str | None
    skipped: tuple[str, ...]
    accuracy: float
    low: float
    high: float


class NodeKind(_Strict, frozen=True):
    """A kind of box: the latency of every part there, in the order of the manifest.

    ``slowdown``: what the profile's times were multiplied with, for boxes that are slower by a
    known factor. ``cpu`` and ``profile``: what the figures come from, and its SHA-256.
    """

    latency_us: tuple[float, ...]
    cpu: str = ""
    profile: str = ""
    slowdown: float = 1.0


class Provenance(_Strict, frozen=True):
    """Where a table comes from. ``versions``: of programs; ``runs``: SHA-256 by training run.

    ``weights``: the training run whose weights the bundle has; ``note``: what is missing, why.
    """

    built: str
    versions: dict[str, str]
    runs: dict[str, str] = {}
    weights: str | None = None
    interval_from: str = ""
    note: str = ""


class Table(_Strict, frozen=True):
    """All predictions for one bundle. ``nodes`` names each node's kind; ``*`` any other's."""

    schema: int
    bundle: bytes
    model: str
    kinds: dict[str, NodeKind]
    nodes: dict[str, str]
    accuracies: tuple[PredictedAccuracy, ...]
    provenance: Provenance


def encode(table: Table) -> bytes:
    """The table as the contents of a file. Raises TableError where it is too large."""
    body = msgspec.msgpack.encode(table)
    raw = MAGIC + hashlib.sha256(body).digest() + body
    if len(raw) > MAX_BYTES:
        raise TableError(
            f"table of {len(raw)} bytes: at most {MAX_BYTES} are read; name fewer kinds of boxes"
        )
    return raw


def save(table: Table, path: Path) -> None:
    """Write it in one move, and nothing that ``load`` would refuse."""
    raw = encode(table)
    decode(raw, str(path))
    try:
        temporary = path.with_name(path.name + ".new")
        temporary.write_bytes(raw)
        temporary.replace(path)
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}; give a place that can be written") from error


def load(path: Path, bundle: Bundle | None = None) -> Table:
    """Read and check a table; with a bundle, also that it was made for this one.

    Raises TableError naming the file, what is wrong and the remedy.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TableError(
            f"{path}: {error.strerror}; make it with 'continuer predictors build'"
        ) from error
    table = decode(raw, str(path))
    if bundle is not None:
        _check_bundle(table, bundle, str(path))
    return table


def decode(raw: bytes, subject: str) -> Table:
    """The table in the contents of a file; raises TableError, which begins with ``subject``."""
    head = len(MAGIC) + hashlib.sha256().digest_size
    if len(raw) > MAX_BYTES:
        raise TableError(f"{subject}: larger than {MAX_BYTES} bytes; that is no table")
    if not raw.startswith(MAGIC):
        raise TableError(f"{subject}: not a table; give what 'continuer predictors build' wrote")
    if hashlib.sha256(raw[head:]).digest() != raw[len(MAGIC) : head]:
        raise TableError(f"{subject}: truncated or altered, its hash differs; copy it again")
    try:
        schema = msgspec.msgpack.decode(raw[head:], type=_Schema).schema
        if schema != SCHEMA:
            raise TableError(f"{subject}: schema {schema}, this version reads {SCHEMA}; {BUILD}")
        table = msgspec.msgpack.decode(raw[head:], type=Table)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TableError(f"{subject}: {error}; {BUILD}") from error
    _check(table, subject)
    return table


BUILD = "build it again with 'continuer predictors build'"


class _Schema(msgspec.Struct):
    schema: int


def _check(table: Table, subject: str) -> None:
    """What the types cannot say: known kinds, finite latencies, accuracies within bounds."""
    for node, kind in table.nodes.items():
        if kind not in table.kinds:
            raise TableError(f"{subject}: node {node!r} is of unknown kind {kind!r}; {BUILD}")
    for name, found in table.kinds.items():
        for us in found.latency_us:
            if not (math.isfinite(us) and 0 < us <= MAX_LATENCY_US):
                raise TableError(f"{subject}: a latency of {us} us on {name!r}; {BUILD}")
    for entry in table.accuracies:
        # Written so that NaN, which compares false with everything, is refused too.
        if not 0 <= entry.low <= entry.accuracy <= entry.high <= 1:
            raise TableError(
                f"{subject}: accuracy {entry.accuracy} within {entry.low} to {entry.high} "
                f"(exit {entry.exit}, skipped {list(entry.skipped)}); {BUILD}"
            )


def _check_bundle(table: Table, bundle: Bundle, subject: str) -> None:
    if table.bundle != bundle.hash:
        raise TableError(
            f"{subject}: made for bundle {table.bundle.hex()[:16]} of {table.model!r}, not for "
            f"{bundle.hash.hex()[:16]} of {bundle.name!r}; {BUILD}"
        )
    count = len(bundle.part_names)
    for name, kind in table.kinds.items():
        if len(kind.latency_us) != count:
            raise TableError(
                f"{subject}: {len(kind.latency_us)} latencies on {name!r}, the bundle has "
                f"{count} parts; {BUILD}"
            )
