"""What reads bytes of others: each takes any bytes, and fails in one expected way or not at all."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from continuer import bundle as bundles
from continuer import config, wire
from continuer.bundle import MANIFEST
from continuer.config import AgentConfig, CoordinatorConfig
from continuer.errors import BundleError, ConfigError, WireError
from continuer.security import keys, ring
from continuer.wire import KINDS, NewPlan

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_directory = Path(tempfile.mkdtemp(prefix="continuer-fuzz-"))


def header(raw: bytes) -> None:
    """A message of any kind; what is read can be written, and is read the same again."""
    try:
        message = wire.decode(raw, *KINDS.values())
    except WireError:
        return
    try:
        again = wire.encode(message)
    except (WireError, ValueError, OverflowError):
        return  # too long in our own, more exact form, or a number that msgpack has no form for
    assert wire.decode(again, type(message)) is not None


def plan(raw: bytes) -> None:
    """A whole plan, as it arrives at an agent."""
    try:
        message = wire.decode(raw, NewPlan)
    except WireError:
        return
    assert isinstance(message, NewPlan)
    for step in (message.plan.step, *(s for c in message.plan.contingencies for s in c.steps)):
        assert step.nodes is not None
        assert len(step.parts) >= 0


def tensors(raw: bytes) -> None:
    """Descriptions of tensors, and as many frames of as many bytes as there are left."""
    head, _, body = raw.partition(b"\0\0")
    try:
        found = msgspec.msgpack.decode(head, type=tuple[wire.TensorMeta, ...])
        arrays = wire.from_frames(found, [body] * len(found))
    except (WireError, msgspec.DecodeError, UnicodeDecodeError):
        return
    assert all(array.nbytes == len(body) for array in arrays)


def manifest(raw: bytes) -> None:
    """A bundle's manifest."""
    (_directory / MANIFEST).write_bytes(raw)
    try:
        found = bundles.load(_directory)
    except BundleError:
        return
    for name in found.part_names:
        assert found.file_of(name).parent == _directory, "a file outside of the bundle"


def configuration(raw: bytes) -> None:
    """Both daemons' files."""
    try:
        table = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        return
    parsers: tuple[Callable[[], object], ...] = (
        lambda: config.parse(table, AgentConfig),
        lambda: config.parse(table, CoordinatorConfig),
    )
    for parse in parsers:
        try:
            parse()
        except ConfigError as error:
            _says_what_is_wrong(error)


def key_files(raw: bytes) -> None:
    """The ring and a key, as somebody may have edited them."""
    (_directory / ring.FILE).write_bytes(raw)
    (_directory / keys.FILE).write_bytes(raw)
    (_directory / keys.FILE).chmod(0o600)
    for load in (ring.load, keys.load):
        try:
            load(_directory)
        except ConfigError:
            continue


def _says_what_is_wrong(error: ConfigError) -> None:
    assert error.key
    assert error.remedy


_ALL = (header, plan, tensors, manifest, configuration, key_files)
TARGETS: dict[str, Callable[[bytes], None]] = {target.__name__: target for target in _ALL}
