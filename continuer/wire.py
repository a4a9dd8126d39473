"""The wire: every message between clients, agents, the coordinator and the CLI.

A message is one ZeroMQ multipart: a header frame, then raw tensors where the message
carries any. The header is a msgpack array ``[protocol, kind, field, ...]``; fields are only
ever appended, with defaults, so that a reader ignores what it does not know. Sizes are
capped before anything is decoded, and a decoded header is checked against its type:
whatever is wrong with bytes from a socket becomes a WireError, never anything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgpack
import msgspec
import numpy as np

from continuer.bundle import DTYPES, TensorSpec
from continuer.errors import WireError
from continuer.messages import (
    Accepted,
    Accuse,
    Ack,
    Activate,
    Ask,
    AskChunk,
    AskOutline,
    Chunk,
    ClassDoors,
    Drill,
    Enrol,
    Enrolled,
    Foresee,
    Heartbeat,
    Hello,
    Join,
    Keyring,
    Lacking,
    Leave,
    Members,
    Message,
    NewPlan,
    Notice,
    Offer,
    Outline,
    Pace,
    PartTiming,
    Prepare,
    Prepared,
    Problem,
    Refuse,
    Rejected,
    Reply,
    Result,
    Retire,
    Seek,
    Staged,
    Stale,
    Submit,
    Tell,
    TensorMeta,
    Unstage,
    Welcome,
    Work,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = [
    "BUNDLE_ID_BYTES",
    "KINDS",
    "MAX_CONTROL_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_RANK",
    "MAX_TENSORS",
    "MAX_TENSOR_BYTES",
    "PROTOCOL",
    "Accepted",
    "Accuse",
    "Ack",
    "Activate",
    "Array",
    "Ask",
    "AskChunk",
    "AskOutline",
    "Chunk",
    "ClassDoors",
    "Drill",
    "Enrol",
    "Enrolled",
    "Foresee",
    "Heartbeat",
    "Hello",
    "Join",
    "Keyring",
    "Lacking",
    "Leave",
    "Members",
    "Message",
    "NewPlan",
    "Notice",
    "Offer",
    "Outline",
    "Pace",
    "PartTiming",
    "Prepare",
    "Prepared",
    "Problem",
    "ProtocolMismatchError",
    "Refuse",
    "Rejected",
    "Reply",
    "Result",
    "Retire",
    "Seek",
    "Staged",
    "Stale",
    "Submit",
    "Tell",
    "TensorMeta",
    "Unstage",
    "Welcome",
    "Work",
    "decode",
    "encode",
    "from_frames",
    "metas",
    "to_frames",
]

PROTOCOL = 1
MAX_HEADER_BYTES = 4 << 10
MAX_CONTROL_BYTES = 1 << 20
MAX_TENSOR_BYTES = 64 << 20
MAX_TENSORS = 64
MAX_RANK = 8
BUNDLE_ID_BYTES = 16


KINDS: dict[int, type[Message]] = {
    1: Refuse,
    10: Hello,
    11: Welcome,
    12: Submit,
    13: Accepted,
    14: Rejected,
    15: Reply,
    16: Notice,
    30: Work,
    31: Result,
    32: Problem,
    50: Join,
    51: Heartbeat,
    52: Members,
    53: Prepare,
    54: Prepared,
    55: NewPlan,
    56: Activate,
    57: Ack,
    58: Stale,
    59: Accuse,
    60: Leave,
    61: Foresee,
    62: Keyring,
    63: Staged,
    64: Unstage,
    65: Pace,
    70: Seek,
    71: Offer,
    72: AskOutline,
    73: Outline,
    74: AskChunk,
    75: Chunk,
    76: Lacking,
    77: Retire,
    78: Drill,
    80: Ask,
    81: Tell,
    82: Enrol,
    83: Enrolled,
}
_KIND_OF = {kind: number for number, kind in KINDS.items()}
# What may exceed 4 KiB: messages that never are on a request's path.
_LARGE: frozenset[type[Message]] = frozenset(
    {Welcome, Ask, Tell, Notice, Outline, Keyring, Enrolled}
)
_LARGE |= {Join, Members, NewPlan, Foresee, Prepared, Prepare, Staged}


# A message's fields are a msgpack array; protocol and kind stand before them in the same array.
# So a header is made of the fields' own array and another beginning, and read likewise: in a
# third of the time that it takes by way of Python's lists. The array's length is one byte up to 15.
_ENCODER = msgspec.msgpack.Encoder()
_SHORT = 15


def _array_of(length: int) -> bytes:
    return bytes([0x90 | length]) if length <= _SHORT else b"\xdc" + length.to_bytes(2, "big")


def _beginning(kind: type[Message], number: int) -> tuple[int, bytes, int]:
    """Number of a kind, the beginning of its header's array, the bytes of that of its fields."""
    length = len(kind.__struct_fields__)
    return number, _array_of(length + 2), len(_array_of(length))


_BEGINNINGS = {kind: _beginning(kind, number) for number, kind in KINDS.items()}
# What may carry anything, such as maps with keys of any type, is read with more care.
_DECODERS = {
    number: (kind, msgspec.msgpack.Decoder(kind))
    for number, kind in KINDS.items()
    if kind not in _LARGE
}


class ProtocolMismatchError(WireError):
    """The peer speaks another protocol version."""

    def __init__(self, found: int) -> None:
        super().__init__(
            f"protocol = {found}: this side speaks {PROTOCOL}; install the same version of "
            "CONTINUER on both"
        )
        self.found = found


def encode(message: Message) -> bytes:
    """The header frame of a message.

    Raises WireError where it would exceed the cap that the reader enforces.
    """
    number, length, own = _BEGINNINGS[type(message)]
    raw: bytes = length + bytes((PROTOCOL, number)) + _ENCODER.encode(message)[own:]
    limit = MAX_CONTROL_BYTES if type(message) in _LARGE else MAX_HEADER_BYTES
    if len(raw) > limit:
        raise WireError(f"{type(message).__name__}: {len(raw)} bytes, the cap is {limit}")
    return raw


T = TypeVar("T", bound=Message)


def decode(raw: bytes | memoryview, *expected: type[T]) -> T:
    """The message in a header frame, which must be one of ``expected``.

    Raises ProtocolMismatchError for a message of another protocol version, WireError for
    anything else that is wrong.
    """
    quickly = _decode_quickly(raw, expected)
    if quickly is not None:
        return quickly
    if len(raw) > MAX_CONTROL_BYTES:
        raise WireError(f"header of {len(raw)} bytes; the cap is {MAX_CONTROL_BYTES}")
    try:
        fields = msgpack.unpackb(raw, strict_map_key=True, ext_hook=_no_extension)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise WireError(f"not msgpack: {error}") from error
    if not isinstance(fields, list) or len(fields) < 2 or type(fields[0]) is not int:
        raise WireError("not a header: an array [protocol, kind, ...] is expected")
    kind = KINDS.get(fields[1]) if type(fields[1]) is int else None
    if fields[0] != PROTOCOL and kind is not Refuse:
        raise ProtocolMismatchError(fields[0])
    if kind is None or kind not in expected:
        names = ", ".join(k.__name__ for k in expected)
        raise WireError(f"kind {fields[1]!r} is not expected here; expected {names}")
    if len(raw) > MAX_HEADER_BYTES and kind not in _LARGE:
        raise WireError(f"{kind.__name__} of {len(raw)} bytes; the cap is {MAX_HEADER_BYTES}")
    try:
        return msgspec.convert(fields[2:], type=kind)
    except (msgspec.ValidationError, OverflowError) as error:
        raise WireError(f"{kind.__name__}: {error}") from error


def _no_extension(code: int, _: bytes) -> None:
    raise ValueError(f"extension type {code}")


def _decode_quickly(raw: bytes | memoryview, expected: tuple[type[T], ...]) -> T | None:
    """A small message that is as it should be; None if anything is the matter with it."""
    if not 2 < len(raw) <= MAX_HEADER_BYTES:
        return None
    length, begin = raw[0] & 0xF, 1
    if raw[0] == 0xDC and len(raw) > 4:
        length, begin = raw[1] << 8 | raw[2], 3
    elif raw[0] & 0xF0 != 0x90:
        return None
    kind, decoder = _DECODERS.get(raw[begin + 1], (None, None))
    if raw[begin] != PROTOCOL or kind not in expected or decoder is None or length < 2:
        return None
    try:
        return cast("T", decoder.decode(_array_of(length - 2) + raw[begin + 2 :]))
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
        return None  # what exactly is wrong is found out without hurry


def metas(specs: Sequence[TensorSpec]) -> tuple[TensorMeta, ...]:
    """Descriptions of tensors that agree with their specs."""
    return tuple(TensorMeta(s.dtype, s.shape, s.scale, s.zero_point) for s in specs)


def to_frames(tensors: Sequence[Array]) -> list[Array]:
    """Arrays as frames: contiguous, so that ZeroMQ can take them without a copy."""
    return [np.ascontiguousarray(t) for t in tensors]


def from_frames(found: Sequence[TensorMeta], frames: Sequence[Any]) -> list[Array]:
    """Arrays over raw frames, checked against their descriptions.

    Raises WireError naming the tensor where count, dtype or size are wrong.
    """
    if len(found) != len(frames) or len(found) > MAX_TENSORS:
        raise WireError(f"{len(frames)} tensor frames for {len(found)} descriptions")
    arrays = []
    for index, (meta, frame) in enumerate(zip(found, frames, strict=True)):
        dtype, nbytes, problem = _layout(meta)
        if problem:
            raise WireError(f"tensor {index}: {problem}")
        if nbytes != len(frame):
            raise WireError(
                f"tensor {index}: {len(frame)} bytes are no {meta.dtype} of shape {meta.shape}"
            )
        arrays.append(np.frombuffer(frame, dtype).reshape(meta.shape))
    return arrays


@lru_cache(maxsize=256)
def _layout(meta: TensorMeta) -> tuple[np.dtype[Any] | None, int, str]:
    """Type and size in bytes of a described tensor, or what is wrong with the description."""
    size = DTYPES.get(meta.dtype)
    if size is None:
        return None, 0, f"dtype {meta.dtype!r} is not one of {list(DTYPES)}"
    if len(meta.shape) > MAX_RANK or any(n <= 0 for n in meta.shape):
        return None, 0, f"shape {meta.shape}"
    return np.dtype(meta.dtype), math.prod(meta.shape) * size, ""
