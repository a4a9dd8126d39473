"""Headers: what is written is read back, and whatever is wrong becomes a WireError."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuer.bundle import TensorSpec
from continuer.errors import WireError
from continuer.plan import Hop
from continuer.wire import (
    KINDS,
    MAX_CONTROL_BYTES,
    MAX_HEADER_BYTES,
    PROTOCOL,
    Accepted,
    Ask,
    Hello,
    Message,
    ProtocolMismatchError,
    Refuse,
    Rejected,
    Tell,
    TensorMeta,
    Work,
    decode,
    encode,
    metas,
)
from tests.unit.wire_samples import ALL_KINDS, CLIENT, SAMPLES, VERSION, messages

NUMBER = {kind: number for number, kind in KINDS.items()}
# Kinds that may exceed 4 KiB: they never are on a request's path.
LARGE = {
    *("Welcome", "Join", "Members", "NewPlan", "Foresee", "Prepared", "Prepare", "Ask", "Tell"),
    *("Notice", "Outline", "Keyring", "Enrolled", "Staged"),
}


def named(message: Message) -> str:
    return type(message).__name__


def raw_header(kind: type[Message], *fields: Any, protocol: Any = PROTOCOL) -> bytes:
    raw: bytes = msgpack.packb([protocol, NUMBER[kind], *fields])
    return raw


def fields_of(message: Message) -> list[Any]:
    fields: list[Any] = msgpack.unpackb(encode(message))[2:]
    return fields


# --- what is right --------------------------------------------------------------------------


@given(messages())
def test_any_message_comes_back_as_it_was(message: Message) -> None:
    assert decode(encode(message), type(message)) == message


@pytest.mark.parametrize("message", SAMPLES, ids=named)
def test_fields_of_a_later_release_are_ignored(message: Message) -> None:
    raw = raw_header(type(message), *fields_of(message), "new", {"b": [1]}, None)
    assert decode(raw, type(message)) == message


@pytest.mark.parametrize("message", SAMPLES, ids=named)
def test_a_field_without_default_must_be_there(message: Message) -> None:
    required = sum(field.required for field in msgspec.structs.fields(type(message)))
    fields = fields_of(message)
    decode(raw_header(type(message), *fields[:required]), type(message))
    with pytest.raises(WireError, match=type(message).__name__):
        decode(raw_header(type(message), *fields[: required - 1]), type(message))


def test_a_route_of_fourteen_hops_with_many_parts_fits_into_the_header() -> None:
    name = "n" * 63  # the longest that a configuration allows
    route = tuple(Hop(f"{i:02}" + name[2:], 2**63, tuple(range(180, 196))) for i in range(14))
    tensor = TensorMeta("float32", (1, 1024, 1024, 1024), 0.0123, -128)
    work = Work(
        *(name, CLIENT, 2**40, name, name, CLIENT, name, 2**63, 3, VERSION, 10**9, 13),
        *(route, (tensor,) * 8, 10**9),
    )
    raw = encode(work)
    assert len(raw) <= MAX_HEADER_BYTES == 4096
    assert decode(memoryview(raw), Work) == work


def test_descriptions_of_tensors_say_what_the_bundle_says() -> None:
    spec = TensorSpec("x", (1, 4), "int8", scale=0.5, zero_point=3)
    assert metas([spec]) == (TensorMeta("int8", (1, 4), 0.5, 3),)


# --- versions -------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 2, 99, -1, 2**64 - 1])
def test_another_protocol_is_named_with_the_remedy(protocol: int) -> None:
    with pytest.raises(ProtocolMismatchError, match=rf"protocol = {protocol}: .*install") as caught:
        decode(raw_header(Hello, "c", CLIENT, protocol=protocol), Hello)
    assert caught.value.found == protocol


@pytest.mark.parametrize("protocol", [0, 1, 2, 99])
def test_a_refusal_is_readable_in_every_protocol_version(protocol: int) -> None:
    raw = raw_header(Refuse, "protocol", "too old", "appended later", protocol=protocol)
    assert decode(raw, Hello, Refuse) == Refuse("protocol", "too old")


def test_a_kind_of_a_later_protocol_is_a_mismatch_and_not_garbage() -> None:
    with pytest.raises(ProtocolMismatchError):
        decode(msgpack.packb([2, 9999, "anything"]), Hello)


# --- what is wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("message", SAMPLES, ids=named)
def test_a_kind_that_is_not_expected_here_is_refused_by_name(message: Message) -> None:
    other = Hello if isinstance(message, Accepted) else Accepted
    with pytest.raises(WireError, match=f"not expected here; expected {other.__name__}"):
        decode(encode(message), other)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"GET / HTTP/1.1\r\n",
        msgpack.packb({}),
        msgpack.packb([]),
        msgpack.packb([PROTOCOL]),
        msgpack.packb([True, 13, 5]),
        msgpack.packb(["1", 13, 5]),
        msgpack.packb([None, 13, 5]),
        msgpack.packb([PROTOCOL, True, 5]),
        msgpack.packb([PROTOCOL, 13.0, 5]),
        msgpack.packb([PROTOCOL, [13], 5]),
        msgpack.packb([PROTOCOL, 13, 5]) + b"\0",
        b"\x93\x01\x0d",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 2000,
        b"\x93\x01\x0d\xc7\x0c\xff" + b"\xff" * 12,
        b"\x93\x01\x50\x82\xc0\x01\xc0\x02",
        b"\x93\x01\x50\x81\x90\x01",
        b"\x93\x01\x0d\xa2\xff\xfe",
    ],
    ids=lambda raw: raw[:12].hex() or "nothing",
)
def test_bytes_that_are_no_message_are_a_wire_error(raw: bytes) -> None:
    with pytest.raises(WireError):
        decode(raw, *ALL_KINDS)


@pytest.mark.parametrize(
    "wrong",
    [None, True, -1, 2**63, 1.5, float("nan"), "x", b"x", [], [[]], {"a": 1}, [None, "x"]],
    ids=repr,
)
@pytest.mark.parametrize("message", SAMPLES, ids=named)
def test_a_field_of_a_wrong_type_is_a_wire_error(message: Message, wrong: Any) -> None:
    kind, fields = type(message), fields_of(message)
    for index in range(len(fields)):
        raw = raw_header(kind, *fields[:index], wrong, *fields[index + 1 :])
        try:
            found = decode(raw, kind)
        except WireError as error:
            assert kind.__name__ in str(error)  # noqa: PT017  # both outcomes are allowed
        else:
            # What is taken is of a type that the field allows: then it is written just so.
            assert decode(encode(found), kind) == found or wrong != wrong, index


@given(st.binary(max_size=300))
def test_random_bytes_are_a_wire_error_or_a_message(raw: bytes) -> None:
    assert_read_or_refused(raw)


@given(messages(), st.data())
def test_mutated_messages_are_a_wire_error_or_a_message(message: Message, data: Any) -> None:
    raw = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(raw)))
        end = data.draw(st.integers(begin, min(len(raw), begin + 4)))
        raw[begin:end] = data.draw(st.binary(max_size=4))
    assert_read_or_refused(bytes(raw))


@given(messages(), st.data())
def test_a_truncated_message_is_a_wire_error(message: Message, data: Any) -> None:
    raw = encode(message)
    with pytest.raises(WireError):
        decode(raw[: data.draw(st.integers(0, len(raw) - 1))], *ALL_KINDS)


def assert_read_or_refused(raw: bytes) -> None:
    try:
        assert isinstance(decode(raw, *ALL_KINDS), Message)
    except WireError:
        return


# --- sizes ----------------------------------------------------------------------------------


def test_a_message_above_the_cap_is_not_written() -> None:
    encode(Rejected(1, "failed", "x" * 4000))
    with pytest.raises(WireError, match=r"Rejected: \d+ bytes, the cap is 4096"):
        encode(Rejected(1, "failed", "x" * 4096))
    encode(Tell({"text": "x" * 1_000_000}))
    with pytest.raises(WireError, match=r"Tell: \d+ bytes, the cap is 1048576"):
        encode(Tell({"text": "x" * MAX_CONTROL_BYTES}))


@pytest.mark.parametrize("message", SAMPLES, ids=named)
def test_only_what_is_never_on_a_requests_path_may_exceed_the_header(message: Message) -> None:
    raw = raw_header(type(message), *fields_of(message), "x" * MAX_HEADER_BYTES)
    if named(message) in LARGE:
        assert decode(raw, type(message)) == message
    else:
        with pytest.raises(WireError, match="the cap is 4096"):
            decode(raw, type(message))


def test_nothing_is_decoded_of_what_exceeds_every_cap() -> None:
    raw = raw_header(Tell, {"text": "x" * MAX_CONTROL_BYTES})
    with pytest.raises(WireError, match="the cap is 1048576"):
        decode(raw, Tell)
    with pytest.raises(WireError, match="the cap is 1048576"):
        decode(b"\xc1" * (MAX_CONTROL_BYTES + 1), Tell)


@pytest.mark.parametrize(
    "value", [msgpack.Timestamp(5, 0), msgpack.ExtType(4, b"x")], ids=["time", "extension"]
)
@pytest.mark.parametrize("kind", [Ask, Tell])
def test_what_is_no_json_is_refused_where_json_is_meant(kind: type[Ask | Tell], value: Any) -> None:
    """A daemon would fail later, writing it into an answer or the journal; found by fuzzing."""
    message: Ask | Tell = Ask("status", {}) if kind is Ask else Tell({})
    fields = msgpack.unpackb(encode(message))
    fields[3 if kind is Ask else 2] = {"deep": [{"down": value}]}
    with pytest.raises(WireError, match=r"neither JSON|extension type 4"):
        decode(msgpack.packb(fields), kind)
