"""The layout of every message, byte by byte: daemons of two releases must agree on it.

A test that fails here says that the wire has changed. Fields may be appended, with a default;
then append them to the bytes below as well. Anything else needs a new ``PROTOCOL``.
"""

from __future__ import annotations

import msgspec
import pytest

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
    decode,
    encode,
)
from tests.unit.wire_samples import SAMPLES

# The order of the fields is the layout: bytes alone do not show that two have changed places.
FIELDS: dict[type[msgspec.Struct], str] = {
    Refuse: "code message",
    Hello: "cluster client",
    Welcome: (
        "cluster node incarnation deployment model bundle manifest version ingresses preferred "
        "unavailable draining classes"
    ),
    Submit: "cluster client seq deployment request_class budget_us attempt tensors copy input_mark",
    Accepted: "seq",
    Rejected: "seq code message",
    Reply: (
        "seq technique exit path nodes version expected_accuracy attempt tensors request_class "
        "redundancy bundle"
    ),
    Notice: "version preferred unavailable ingresses draining classes",
    Work: (
        "cluster client seq deployment request_class bundle origin origin_incarnation attempt "
        "version remaining_us cursor route tensors compute_us"
    ),
    Result: "cluster client seq origin_incarnation attempt version route compute_us tensors",
    Problem: "cluster client seq origin_incarnation attempt node code message",
    Join: "cluster member model bundle held memory_bytes standby loaded stored store",
    Heartbeat: (
        "node incarnation seq held accepted done queued rss_bytes worked_us predicted_us repairs"
    ),
    Members: "members",
    Prepare: "ticket parts urgent sources bundle",
    Prepared: "node incarnation ticket loaded problem stored fetched_bytes fetch_us bundle",
    NewPlan: "plan",
    Activate: "version base failed step",
    Ack: "node incarnation version replayed",
    Stale: "node incarnation held",
    Accuse: "node incarnation accused accused_incarnation reason",
    Leave: "node incarnation",
    Retire: "node incarnation",
    Drill: "away_ms",
    Pace: "every_us session key",
    Foresee: "base contingencies",
    Seek: "cluster node",
    Offer: "bundle source signature",
    Staged: "node incarnation bundle problem stored loaded",
    Unstage: "bundle",
    AskOutline: "digest",
    Outline: "digest nbytes chunk_bytes hashes",
    AskChunk: "digest index",
    Chunk: "digest index",
    Lacking: "digest",
    Ask: "verb arguments",
    Tell: "data error exit_code",
    Keyring: "keys",
    Enrol: "token name",
    Enrolled: "name role cluster agents_port control_port keys ingresses",
    Identity: "name role public",
    TensorMeta: "dtype shape scale zero_point",
    PartTiming: "part latency_us load_us",
    Version: "term number",
    Hop: "node incarnation parts",
    Member: "node incarnation data answers ingress",
    Step: "technique exit route accuracy latency_ms downtime_ms capacity_per_s",
    Contingency: "failed steps classes",
    ClassStep: "name step second",
    ClassDoors: "name doors",
    Plan: "version deployment bundle members failed step contingencies draining classes",
}

GOLDEN: dict[type[Message], str] = {
    Refuse: "940101a7636c7573746572ab616e6f74686572206f6e65",
    Hello: "94010aa163c410000102030405060708090a0b0c0d0e0f",
    Welcome: (
        "9f010ba163a26e3107a764656661756c74a16dc410000102030405060708090a0b0c0d0e0fc4027b"
        "7d92030e9192a26e31a97463703a2f2f683a33a26e3191a26e3291a26e349192a5616c61726d92a2"
        "6e31a26e33"
    ),
    Submit: (
        "9c010ca163c410000102030405060708090a0b0c0d0e0f05a764656661756c74a0ce0003d0900191"
        "94a7666c6f617433329401080840c0c002c4016d"
    ),
    Accepted: "93010d05",
    Rejected: "95010e05a462757379ad32353620696e20666c69676874",
    Reply: (
        "9e010f05a4736b6970c092a47374656da46865616492a26e31a26e3392030ecb3fe8000000000000"
        "029194a4696e743892010acb3fe0000000000000fda5616c61726d02c41000010203040506070809"
        "0a0b0c0d0e0f"
    ),
    Notice: (
        "98011092030ea26e3191a26e329192a26e31a97463703a2f2f683a3391a26e349192a5616c61726d"
        "92a26e31a26e33"
    ),
    Work: (
        "dc0011011ea163c410000102030405060708090a0b0c0d0e0f05a764656661756c74a0c410000102"
        "030405060708090a0b0c0d0e0fa26e31070192030ece0003d090019293a26e310792000193a26e32"
        "089202cd012c9294a7666c6f617433329401080840c0c094a4696e743892010acb3fe00000000000"
        "00fdce00011170"
    ),
    Result: (
        "9b011fa163c410000102030405060708090a0b0c0d0e0f05070192030e9293a26e310792000193a2"
        "6e32089202cd012ccd05dc9194a4696e743892010acb3fe0000000000000fd"
    ),
    Problem: (
        "9a0120a163c410000102030405060708090a0b0c0d0e0f050701a26e32a57061727473b670617274"
        "20333030206973206e6f74206c6f61646564"
    ),
    Join: (
        "9c0132a16395a26e3107a97463703a2f2f683a31a97463703a2f2f683a32a97463703a2f2f683a33"
        "a16dc410000102030405060708090a0b0c0d0e0f92030ecf0000000200000000a46e6f6e65919300"
        "cb4059200000000000cb40790000000000009200cd012ca97463703a2f2f683a34"
    ),
    Heartbeat: "9d0133a26e31070192030e0a0901ce02faf080cd0fa0cd0bb802",
    Members: "9301349195a26e3107a97463703a2f2f683a31a97463703a2f2f683a32a97463703a2f2f683a33",
    Prepare: "97013502930001cd012cc391a97463703a2f2f683a34c410000102030405060708090a0b0c0d0e0f",
    Prepared: (
        "9b0136a26e310702919301cb4056800000000000cb4072c00000000000b370617274203330303a20"
        "7472756e6361746564920001ce00011170cd09c4c410000102030405060708090a0b0c0d0e0f"
    ),
    NewPlan: (
        "9301379992030ea764656661756c74c410000102030405060708090a0b0c0d0e0f9195a26e3107a9"
        "7463703a2f2f683a31a97463703a2f2f683a32a97463703a2f2f683a339097a46e6f6e65c09293a2"
        "6e310792000193a26e32089202cd012ccb3fec000000000000cb3ff8000000000000cb0000000000"
        "000000cb408f400000000000919391a26e329197aa6561726c795f65786974a66578697430319193"
        "a26e3107920001cb3fe0000000000000cb3ff0000000000000cb4000000000000000cb409f400000"
        "000000919193a5616c61726d97aa6561726c795f65786974a66578697430319193a26e3107920001"
        "cb3fe0000000000000cb3ff0000000000000cb4000000000000000cb409f400000000000c091a26e"
        "349193a5616c61726d97a46e6f6e65c09293a26e310792000193a26e32089202cd012ccb3fec0000"
        "00000000cb3ff8000000000000cb0000000000000000cb408f40000000000097aa6561726c795f65"
        "786974a66578697430319193a26e3107920001cb3fe0000000000000cb3ff0000000000000cb4000"
        "000000000000cb409f400000000000"
    ),
    Activate: "96013892030f92030e91a26e3200",
    Ack: "960139a26e310792030e03",
    Stale: "95013aa26e3107920000",
    Accuse: "97013ba26e3107a26e3208a473656e64",
    Leave: "94013ca26e3107",
    Retire: "94014da26e3107",
    Drill: "93014ecd0bb8",
    Pace: "950141ce000186a0cf1000000000000000c410000102030405060708090a0b0c0d0e0f",
    Foresee: (
        "94013d92030e919391a26e329197aa6561726c795f65786974a66578697430319193a26e31079200"
        "01cb3fe0000000000000cb3ff0000000000000cb4000000000000000cb409f400000000000919193"
        "a5616c61726d97aa6561726c795f65786974a66578697430319193a26e3107920001cb3fe0000000"
        "000000cb3ff0000000000000cb4000000000000000cb409f400000000000c0"
    ),
    Seek: "940146a163a26e36",
    Offer: "950147c410000102030405060708090a0b0c0d0e0fac7463703a2f2f2a3a37343032c40173",
    Staged: (
        "98013fa26e3107c410000102030405060708090a0b0c0d0e0faa6e6f74207369676e656492000191"
        "9301cb4056800000000000cb4072c00000000000"
    ),
    Unstage: "930140c410000102030405060708090a0b0c0d0e0f",
    AskOutline: "930148c410000102030405060708090a0b0c0d0e0f",
    Outline: (
        "960149c410000102030405060708090a0b0c0d0e0fce000493e0ce00040000c44000010203040506"
        "0708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e"
        "0f000102030405060708090a0b0c0d0e0f"
    ),
    AskChunk: "94014ac410000102030405060708090a0b0c0d0e0f01",
    Chunk: "94014bc410000102030405060708090a0b0c0d0e0f01",
    Lacking: "93014cc410000102030405060708090a0b0c0d0e0f",
    Ask: ("940150a673746174757383a56272696566c3a56e6f64657391a26e31a56c696d6974cb4004000000000000"),
    Tell: "95015182a66865616c7468a466756c6ca4706c616ec0a002",
    Keyring: (
        "93013e9193a26e31a56167656e74d9286b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b"
        "6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b"
    ),
    Enrol: "940152a5746f6b656ea26e36",
    Enrolled: (
        "990153a26e36a56167656e74a163cd1ce8cd1ce99193a26e31a56167656e74d9286b6b6b6b6b6b6b"
        "6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b9192a26e31ab74"
        "63703a2f2f683a33236b"
    ),
}
NUMBERS = {
    1: "Refuse",
    10: "Hello",
    11: "Welcome",
    12: "Submit",
    13: "Accepted",
    14: "Rejected",
    15: "Reply",
    16: "Notice",
    30: "Work",
    31: "Result",
    32: "Problem",
    50: "Join",
    51: "Heartbeat",
    52: "Members",
    53: "Prepare",
    54: "Prepared",
    55: "NewPlan",
    56: "Activate",
    57: "Ack",
    58: "Stale",
    59: "Accuse",
    60: "Leave",
    61: "Foresee",
    77: "Retire",
    78: "Drill",
    70: "Seek",
    71: "Offer",
    72: "AskOutline",
    73: "Outline",
    74: "AskChunk",
    75: "Chunk",
    76: "Lacking",
    80: "Ask",
    81: "Tell",
    62: "Keyring",
    63: "Staged",
    64: "Unstage",
    65: "Pace",
    82: "Enrol",
    83: "Enrolled",
}


def named(message: Message) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", SAMPLES, ids=named)
def test_a_message_has_the_bytes_that_it_had_when_it_was_introduced(message: Message) -> None:
    assert encode(message).hex() == GOLDEN[type(message)]


@pytest.mark.parametrize("message", SAMPLES, ids=named)
def test_bytes_of_the_past_are_read_as_what_they_meant(message: Message) -> None:
    assert decode(bytes.fromhex(GOLDEN[type(message)]), type(message)) == message


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_fields_keep_their_order_for_ever(kind: type[msgspec.Struct]) -> None:
    assert " ".join(kind.__struct_fields__) == FIELDS[kind]


def test_every_kind_has_golden_bytes_and_its_number_for_ever() -> None:
    assert {number: kind.__name__ for number, kind in KINDS.items()} == NUMBERS
    assert GOLDEN.keys() == set(KINDS.values())
    assert FIELDS.keys() > GOLDEN.keys()
