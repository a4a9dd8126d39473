"""Beacons: one fixed layout, and nobody without the key can make one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuer import beacon

KEY = bytes(range(32))
SESSION, SEQUENCE, INTERVAL_US = 0x0102030405060708, 9, 10_000


def test_the_layout_is_fixed() -> None:
    made = beacon.seal(SESSION, KEY, SEQUENCE, INTERVAL_US)
    assert made[: -beacon.MAC_BYTES].hex() == "43426e310102030405060708000000000000000900002710"
    assert len(made) == beacon.SIZE == 40


@given(
    session=st.integers(0, 2**64 - 1),
    key=st.binary(min_size=1, max_size=beacon.KEY_BYTES),
    sequence=st.integers(0, 2**64 - 1),
    interval_us=st.integers(0, beacon.MAX_INTERVAL_US),
)
def test_what_is_sealed_is_found_again(
    session: int, key: bytes, sequence: int, interval_us: int
) -> None:
    made = beacon.seal(session, key, sequence, interval_us)
    assert beacon.session_of(made) == session
    assert beacon.opener(key)(made) == (sequence, interval_us)


@pytest.mark.parametrize("place", range(beacon.SIZE))
def test_a_beacon_with_one_other_bit_is_none(place: int) -> None:
    made = bytearray(beacon.seal(SESSION, KEY, SEQUENCE, INTERVAL_US))
    made[place] ^= 1
    assert beacon.opener(KEY)(bytes(made)) is None


def test_another_key_opens_nothing() -> None:
    made = beacon.seal(SESSION, KEY, SEQUENCE, INTERVAL_US)
    assert beacon.opener(KEY[::-1])(made) is None


@given(st.binary(max_size=100))
def test_whatever_arrives_is_a_beacon_or_not(raw: bytes) -> None:
    named = beacon.session_of(raw)
    assert (named is not None) == (len(raw) == beacon.SIZE and raw[:4] == beacon.MAGIC)
    assert beacon.opener(KEY)(raw) is None
