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
from typing import TYPE_CHECKING, Any, TypeVar

import msgpack
import msgspec
import numpy as np

from continuer.bundle import DTYPES, TensorSpec
from continuer.errors import WireError
from continuer.plan import Contingency, Hop, Member, Plan, Version

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

PROTOCOL = 1
MAX_HEADER_BYTES = 4 << 10
MAX_CONTROL_BYTES = 1 << 20
MAX_TENSOR_BYTES = 64 << 20
MAX_TENSORS = 64
MAX_RANK = 8
BUNDLE_ID_BYTES = 16


class TensorMeta(msgspec.Struct, frozen=True, array_like=True):
    """Type of one tensor that follows as a raw frame, little endian, C order."""

    dtype: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int | None = None


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of all messages."""


class Refuse(Message, frozen=True):
    """A daemon turns a peer away. Its layout is the same in every protocol version."""

    code: str
    message: str


# --- client <-> ingress -------------------------------------------------------------------


class Hello(Message, frozen=True):
    """A client introduces itself on a fresh connection."""

    cluster: str
    client: bytes


class Welcome(Message, frozen=True):
    """The ingress's answer: who it is, what it serves, where else one may enter."""

    cluster: str
    node: str
    incarnation: int
    deployment: str
    model: str
    bundle: bytes
    manifest: bytes
    version: Version
    ingresses: tuple[tuple[str, str], ...]
    preferred: str | None
    unavailable: tuple[str, ...]
    draining: tuple[str, ...] = ()


class Submit(Message, frozen=True):
    """A request; its tensors follow. ``budget_us`` is what is left of the client's budget."""

    cluster: str
    client: bytes
    seq: int
    deployment: str
    request_class: str
    budget_us: int
    attempt: int
    tensors: tuple[TensorMeta, ...]


class Accepted(Message, frozen=True):
    """The ingress keeps the request and will see to one outcome."""

    seq: int


class Rejected(Message, frozen=True):
    """The one outcome of a request that gets no answer; see RequestError for the codes."""

    seq: int
    code: str
    message: str


class Reply(Message, frozen=True):
    """The answer and how it was made; its tensors follow.

    ``path`` is the part names that ran, ``nodes`` who ran them, hop by hop;
    ``expected_accuracy`` is None where it was not measured.
    """

    seq: int
    technique: str
    exit: str | None
    path: tuple[str, ...]
    nodes: tuple[str, ...]
    version: Version
    expected_accuracy: float | None
    attempt: int
    tensors: tuple[TensorMeta, ...]


class Notice(Message, frozen=True):
    """The ingress tells its clients which nodes not to enter by, and which one is best.

    What an ``unavailable`` one has is to be sent elsewhere; a ``draining`` one gets nothing new.
    """

    version: Version
    preferred: str | None
    unavailable: tuple[str, ...]
    ingresses: tuple[tuple[str, str], ...]
    draining: tuple[str, ...] = ()


# --- stage -> stage, stage -> ingress -----------------------------------------------------


class Work(Message, frozen=True):
    """A request on its way. The route is in the request: a stage needs no plan.

    The node at ``route[cursor]`` runs its parts and forwards; the last one answers to the
    ingress ``origin``. ``remaining_us`` is a duration, which each hop reduces: clocks of
    different boxes are never compared. ``bundle`` is the first 16 bytes of the bundle hash.
    """

    cluster: str
    client: bytes
    seq: int
    deployment: str
    request_class: str
    bundle: bytes
    origin: str
    origin_incarnation: int
    attempt: int
    version: Version
    remaining_us: int
    cursor: int
    route: tuple[Hop, ...]
    tensors: tuple[TensorMeta, ...]
    compute_us: int = 0


class Result(Message, frozen=True):
    """The last stage's output, to the ingress; ``route`` is the path really taken."""

    cluster: str
    client: bytes
    seq: int
    origin_incarnation: int
    attempt: int
    version: Version
    route: tuple[Hop, ...]
    compute_us: int
    tensors: tuple[TensorMeta, ...]


class Problem(Message, frozen=True):
    """A stage could not run its parts; the ingress decides what becomes of the request."""

    cluster: str
    client: bytes
    seq: int
    origin_incarnation: int
    attempt: int
    node: str
    code: str
    message: str


# --- agent <-> coordinator ----------------------------------------------------------------


class PartTiming(msgspec.Struct, frozen=True, array_like=True):
    """A part in an agent's memory, and what it costs on that box."""

    part: int
    latency_us: float
    load_us: float


class Join(Message, frozen=True):
    """An agent asks to be taken in; refused where cluster, bundle or protocol differ."""

    cluster: str
    member: Member
    model: str
    bundle: bytes
    held: Version
    memory_bytes: int
    standby: str
    loaded: tuple[PartTiming, ...]


class Heartbeat(Message, frozen=True):
    """Sign of life, with the progress of the *work*: counters since the agent started."""

    node: str
    incarnation: int
    seq: int
    held: Version
    accepted: int
    done: int
    queued: int
    rss_bytes: int


class Members(Message, frozen=True):
    """Whom to connect to beforehand: sent when a node is taken in, before it gets work."""

    members: tuple[Member, ...]


class Prepare(Message, frozen=True):
    """Have these parts in memory; answer Prepared with the same ticket.

    ``urgent``: the service is down until it is done. Otherwise requests come first.
    """

    ticket: int
    parts: tuple[int, ...]
    urgent: bool


class Prepared(Message, frozen=True):
    """The parts are loaded; ``problem`` is empty or says which could not be, and why."""

    node: str
    incarnation: int
    ticket: int
    loaded: tuple[PartTiming, ...]
    problem: str = ""


class NewPlan(Message, frozen=True):
    """A whole plan with its contingencies. Older versions than the one held are refused."""

    plan: Plan


class Foresee(Message, frozen=True):
    """More contingencies of the plan ``base``: pairs, which are decided after it is in force."""

    base: Version
    contingencies: tuple[Contingency, ...]


class Activate(Message, frozen=True):
    """Put step ``step`` of the contingency for ``failed`` of plan ``base`` in force."""

    version: Version
    base: Version
    failed: tuple[str, ...]
    step: int


class Ack(Message, frozen=True):
    """The version is in force here; ``replayed`` requests were sent anew because of it."""

    node: str
    incarnation: int
    version: Version
    replayed: int


class Stale(Message, frozen=True):
    """The version cannot be put in force: the base is not held. Answered with a NewPlan."""

    node: str
    incarnation: int
    held: Version


class Accuse(Message, frozen=True):
    """A neighbour could not reach this life of that node."""

    node: str
    incarnation: int
    accused: str
    accused_incarnation: int
    reason: str


class Leave(Message, frozen=True):
    """The agent stops on purpose."""

    node: str
    incarnation: int


# --- CLI <-> daemon -----------------------------------------------------------------------


class Ask(Message, frozen=True):
    """A verb of the control endpoint, with JSON-like arguments."""

    verb: str
    arguments: dict[str, Any]


class Tell(Message, frozen=True):
    """What the daemon says to an Ask; ``error`` is empty where it went well.

    ``exit_code`` is what a command that asked returns for the error.
    """

    data: dict[str, Any]
    error: str = ""
    exit_code: int = 1


# The numbers are the protocol: never reuse one.
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
    80: Ask,
    81: Tell,
}
_KIND_OF = {kind: number for number, kind in KINDS.items()}
# What may exceed 4 KiB: messages that never are on a request's path.
_LARGE = frozenset({Welcome, Join, Members, NewPlan, Foresee, Prepared, Prepare, Ask, Tell, Notice})


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
    fields = msgspec.to_builtins(message, builtin_types=(bytes,))
    raw: bytes = msgpack.packb((PROTOCOL, _KIND_OF[type(message)], *fields))
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
    if len(raw) > MAX_CONTROL_BYTES:
        raise WireError(f"header of {len(raw)} bytes; the cap is {MAX_CONTROL_BYTES}")
    try:
        fields = msgpack.unpackb(raw, strict_map_key=True)
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
        size = DTYPES.get(meta.dtype)
        if size is None:
            raise WireError(f"tensor {index}: dtype {meta.dtype!r} is not one of {list(DTYPES)}")
        if len(meta.shape) > MAX_RANK or any(n <= 0 for n in meta.shape):
            raise WireError(f"tensor {index}: shape {meta.shape}")
        if math.prod(meta.shape) * size != len(frame):
            raise WireError(
                f"tensor {index}: {len(frame)} bytes are no {meta.dtype} of shape {meta.shape}"
            )
        arrays.append(np.frombuffer(frame, meta.dtype).reshape(meta.shape))
    return arrays
