"""The messages between clients, agents, the coordinator and the CLI.

How they become bytes, and what is checked of those, is in ``continuer/wire.py``, from which
everyone takes both. Fields are only ever appended, with defaults, so that a reader ignores
what it does not know.
"""

from __future__ import annotations

from typing import Any

import msgspec

from continuer.plan import Contingency, Hop, Member, Plan, Version
from continuer.security.identity import Identity, Role


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


class ClassDoors(msgspec.Struct, frozen=True, array_like=True):
    """Where requests of a class enter: the first node of its route; two where it is masked."""

    name: str
    doors: tuple[str, ...]


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
    classes: tuple[ClassDoors, ...] = ()


class Submit(Message, frozen=True):
    """A request; its tensors follow. ``budget_us`` is left; ``copy`` 2 takes the second route.

    ``input_mark``: ``InputSpec.mark`` of what the tensors were prepared for; empty if unsaid.
    """

    cluster: str
    client: bytes
    seq: int
    deployment: str
    request_class: str
    budget_us: int
    attempt: int
    tensors: tuple[TensorMeta, ...]
    copy: int = 1
    input_mark: bytes = b""


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
    ``expected_accuracy`` is None where it was not measured. ``redundancy`` is the number of
    disjoint routes that the plan had for the class. ``bundle``: the first 16 bytes of the hash of
    the bundle that made it.
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
    request_class: str = ""
    redundancy: int = 1
    bundle: bytes = b""


class Notice(Message, frozen=True):
    """The ingress tells its clients which nodes not to enter by, and which one is best.

    What an ``unavailable`` one has is to be sent elsewhere; a ``draining`` one gets nothing new.
    """

    version: Version
    preferred: str | None
    unavailable: tuple[str, ...]
    ingresses: tuple[tuple[str, str], ...]
    draining: tuple[str, ...] = ()
    classes: tuple[ClassDoors, ...] = ()


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
    """An agent asks to be taken in; refused where cluster, bundle or protocol differ.

    ``stored`` are the parts on its disk, None where all are; others fetch them at ``store``.
    """

    cluster: str
    member: Member
    model: str
    bundle: bytes
    held: Version
    memory_bytes: int
    standby: str
    loaded: tuple[PartTiming, ...]
    stored: tuple[int, ...] | None = None
    store: str = ""


class Heartbeat(Message, frozen=True):
    """Sign of life, with the progress of the *work*: counters since the agent started.

    ``worked_us``: how long the parts have run; ``predicted_us``: what the same runs would have
    taken at the latencies reported at loading. ``repairs``: contingencies acted on unbidden.
    """

    node: str
    incarnation: int
    seq: int
    held: Version
    accepted: int
    done: int
    queued: int
    rss_bytes: int
    worked_us: int = 0
    predicted_us: int = 0
    repairs: int = 0


class Members(Message, frozen=True):
    """Whom to connect to beforehand: sent when a node is taken in, before it gets work."""

    members: tuple[Member, ...]


class Prepare(Message, frozen=True):
    """Have these parts in memory; answer Prepared with the same ticket.

    ``urgent``: the service is down until it is done. Otherwise requests come first.
    ``sources``: who may have the parts that are not on the agent's disk; ``*`` as in Offer.
    ``bundle``: whose parts, as in Work; the one in force where it is empty.
    """

    ticket: int
    parts: tuple[int, ...]
    urgent: bool
    sources: tuple[str, ...] = ()
    bundle: bytes = b""


class Prepared(Message, frozen=True):
    """The parts are loaded; ``problem`` is empty or says which could not be, and why.

    ``stored`` as in Join. ``fetched_bytes`` came from others, in ``fetch_us``. ``bundle`` as in
    Prepare.
    """

    node: str
    incarnation: int
    ticket: int
    loaded: tuple[PartTiming, ...]
    problem: str = ""
    stored: tuple[int, ...] | None = None
    fetched_bytes: int = 0
    fetch_us: int = 0
    bundle: bytes = b""


class NewPlan(Message, frozen=True):
    """A whole plan with its contingencies. Older versions than the one held are refused."""

    plan: Plan


class Foresee(Message, frozen=True):
    """More contingencies of the plan ``base``: pairs, which are decided after it is in force."""

    base: Version
    contingencies: tuple[Contingency, ...]


class Activate(Message, frozen=True):
    """Put a step of the contingency for ``failed`` of ``base`` in force; links as ``n2>n3``."""

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


# --- bundles and their files, by hash -----------------------------------------------------


class Seek(Message, frozen=True):
    """An agent without a bundle asks the coordinator what is to be run here."""

    cluster: str
    node: str


class Offer(Message, frozen=True):
    """A bundle to run here, and where its manifest can be fetched.

    The one in force, to who has sought it; unasked, one that is to be held ready beside it:
    the agent says Staged. A host ``*`` in ``source`` is the one at which the asker reached the
    coordinator.
    """

    bundle: bytes
    source: str
    signature: bytes = b""


class Staged(Message, frozen=True):
    """The offered bundle's manifest is here and good; ``problem`` is empty or says what is not.

    ``stored`` and ``loaded`` as in Join, of this bundle's parts.
    """

    node: str
    incarnation: int
    bundle: bytes
    problem: str = ""
    stored: tuple[int, ...] | None = None
    loaded: tuple[PartTiming, ...] = ()


class Unstage(Message, frozen=True):
    """The bundle that was to be held ready will not be used: free its memory."""

    bundle: bytes


class AskOutline(Message, frozen=True):
    """Say which chunks the file of this SHA-256 consists of."""

    digest: bytes


class Outline(Message, frozen=True):
    """Size of a file, and the SHA-256 of each chunk of ``chunk_bytes``, one after another."""

    digest: bytes
    nbytes: int
    chunk_bytes: int
    hashes: bytes


class AskChunk(Message, frozen=True):
    """Send this chunk of the file, counted from 0."""

    digest: bytes
    index: int


class Chunk(Message, frozen=True):
    """A chunk; its bytes follow as a raw frame."""

    digest: bytes
    index: int


class Lacking(Message, frozen=True):
    """The file of this SHA-256 is not here, or can no longer be read."""

    digest: bytes


class Retire(Message, frozen=True):
    """The agent was told to stop and asks that others take its work over; Leave follows.

    Refused with the code ``retire`` where nobody can.
    """

    node: str
    incarnation: int


class Drill(Message, frozen=True):
    """The operator wants to see the agent die: at once, to come back after so long."""

    away_ms: int


class Pace(Message, frozen=True):
    """How often to send a heartbeat over this link: at most once in ``every_us``.

    Unless that is longer than before, one is due at once. Beacons go beside it at the agent's own
    interval, under ``session`` and ``key`` (``continuer/beacon.py``); none where ``session`` is 0.
    """

    every_us: int
    session: int = 0
    key: bytes = b""


class Keyring(Message, frozen=True):
    """Whose keys are known from now on; whoever has another one is cut off."""

    keys: tuple[Identity, ...]


# --- CLI <-> daemon -----------------------------------------------------------------------

_PLAIN = (bool, int, float, str, bytes, type(None))


def _check_plain(value: object) -> None:
    """Raise ValueError for what is neither JSON nor bytes: MessagePack knows times and more."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            left += one
        elif not isinstance(one, _PLAIN):
            problem = f"a {type(one).__name__} is neither JSON nor bytes"
            raise ValueError(problem)  # noqa: TRY004  # as msgspec wants it


class Ask(Message, frozen=True):
    """A verb of the control endpoint, with JSON-like arguments."""

    verb: str
    arguments: dict[str, Any]

    def __post_init__(self) -> None:
        _check_plain(self.arguments)


class Tell(Message, frozen=True):
    """What the daemon says to an Ask; ``error`` is empty where it went well.

    ``exit_code`` is what a command that asked returns for the error.
    """

    data: dict[str, Any]
    error: str = ""
    exit_code: int = 1

    def __post_init__(self) -> None:
        _check_plain(self.data)


class Enrol(Message, frozen=True):
    """A box asks to be known by the key of this connection; ``name``, if the token has none."""

    token: str
    name: str


class Enrolled(Message, frozen=True):
    """The key is known now, and what else its owner needs; ``ingresses`` as in Welcome."""

    name: str
    role: Role
    cluster: str
    agents_port: int
    control_port: int
    keys: tuple[Identity, ...]
    ingresses: tuple[tuple[str, str], ...]


# The numbers are the protocol: never reuse one.
