"""Messages of every kind: fixed samples, and any message that the types allow."""

from __future__ import annotations

import types
import typing
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from continuer.plan import ClassStep, Contingency, Hop, Member, Plan, Step, Version
from continuer.security.identity import Identity
from continuer.wire import (
    KINDS,
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

CLIENT = bytes(range(16))
IDENTITY = Identity("n1", "agent", "k" * 40)
HOPS = (Hop("n1", 7, (0, 1)), Hop("n2", 8, (2, 300)))
FLOAT = TensorMeta("float32", (1, 8, 8, 64))
QUANTISED = TensorMeta("int8", (1, 10), 0.5, -3)
MEMBER = Member("n1", 7, "tcp://h:1", "tcp://h:2", "tcp://h:3")
VERSION = Version(3, 14)
FULL = Step("none", None, HOPS, 0.875, 1.5, 0.0, 1000.0)
EXIT = Step("early_exit", "exit01", (HOPS[0],), 0.5, 1.0, 2.0, 2000.0)
CLASSES = ((ClassStep("alarm", EXIT),),)
DOORS = (ClassDoors("alarm", ("n1", "n3")),)
PLAN = Plan(
    *(VERSION, "default", CLIENT, (MEMBER,), (), FULL),
    *((Contingency(("n2",), (EXIT,), CLASSES),), ("n4",), (ClassStep("alarm", FULL, EXIT),)),
)

SAMPLES: tuple[Message, ...] = (
    Refuse("cluster", "another one"),
    Hello("c", CLIENT),
    Welcome(
        *("c", "n1", 7, "default", "m", CLIENT, b"{}", VERSION),
        *((("n1", "tcp://h:3"),), "n1", ("n2",), ("n4",), DOORS),
    ),
    Submit("c", CLIENT, 5, "default", "", 250_000, 1, (FLOAT,), 2, b"m"),
    Accepted(5),
    Rejected(5, "busy", "256 in flight"),
    Reply(
        *(5, "skip", None, ("stem", "head"), ("n1", "n3"), VERSION, 0.75, 2, (QUANTISED,)),
        *("alarm", 2, CLIENT),
    ),
    Notice(VERSION, "n1", ("n2",), (("n1", "tcp://h:3"),), ("n4",), DOORS),
    Work(
        *("c", CLIENT, 5, "default", "", CLIENT, "n1", 7, 1, VERSION, 250_000, 1, HOPS),
        *((FLOAT, QUANTISED), 70_000),
    ),
    Result("c", CLIENT, 5, 7, 1, VERSION, HOPS, 1500, (QUANTISED,)),
    Problem("c", CLIENT, 5, 7, 1, "n2", "parts", "part 300 is not loaded"),
    Join(
        *("c", MEMBER, "m", CLIENT, VERSION, 1 << 33, "none", (PartTiming(0, 100.5, 400.0),)),
        *((0, 300), "tcp://h:4"),
    ),
    Heartbeat("n1", 7, 1, VERSION, 10, 9, 1, 50_000_000, 4_000, 3_000, 2),
    Members((MEMBER,)),
    Prepare(2, (0, 1, 300), True, ("tcp://h:4",), CLIENT),
    Prepared(
        *("n1", 7, 2, (PartTiming(1, 90.0, 300.0),), "part 300: truncated", (0, 1)),
        *(70_000, 2500, CLIENT),
    ),
    NewPlan(PLAN),
    Activate(Version(3, 15), VERSION, ("n2",), 0),
    Ack("n1", 7, VERSION, 3),
    Stale("n1", 7, Version()),
    Accuse("n1", 7, "n2", 8, "send"),
    Leave("n1", 7),
    Retire("n1", 7),
    Drill(3000),
    Pace(100_000, 1 << 60, CLIENT),
    Foresee(VERSION, (Contingency(("n2",), (EXIT,), CLASSES),)),
    Seek("c", "n6"),
    Offer(CLIENT, "tcp://*:7402", b"s"),
    Staged("n1", 7, CLIENT, "not signed", (0, 1), (PartTiming(1, 90.0, 300.0),)),
    Unstage(CLIENT),
    AskOutline(CLIENT),
    Outline(CLIENT, 300_000, 1 << 18, CLIENT * 4),
    AskChunk(CLIENT, 1),
    Chunk(CLIENT, 1),
    Lacking(CLIENT),
    Ask("status", {"brief": True, "nodes": ["n1"], "limit": 2.5}),
    Tell({"health": "full", "plan": None}, "", 2),
    Keyring((IDENTITY,)),
    Enrol("token", "n6"),
    Enrolled("n6", "agent", "c", 7400, 7401, (IDENTITY,), (("n1", "tcp://h:3#k"),)),
)
ALL_KINDS = tuple(KINDS.values())

_INTEGERS = st.integers(-(2**63), 2**64 - 1)
_TEXT = st.text(max_size=12)
_FLOATS = st.floats(allow_nan=False)  # NaN equals nothing, not even itself
_JSON_LIKE = st.recursive(
    st.none() | st.booleans() | _INTEGERS | _FLOATS | _TEXT | st.binary(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)
_PLAIN: dict[Any, SearchStrategy[Any]] = {
    int: _INTEGERS,
    float: _FLOATS,
    str: _TEXT,
    bytes: st.binary(max_size=32),
    bool: st.booleans(),
    type(None): st.none(),
    Any: _JSON_LIKE,
}


def values_of(kind: Any) -> SearchStrategy[Any]:
    """Any value of an annotated type, as far as messages use the type system."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, *(values_of(hints[name]) for name in kind.__struct_fields__))
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values_of(argument) for argument in arguments])
    if origin is dict:
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=3)
    assert origin is tuple, kind
    if arguments[-1] is Ellipsis:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    return st.tuples(*(values_of(argument) for argument in arguments))


def messages() -> SearchStrategy[Message]:
    """Any message of any kind."""
    return st.sampled_from(ALL_KINDS).flatmap(values_of)
