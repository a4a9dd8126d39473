"""Short fuzzing of everything that reads bytes of others; the long runs are ``make fuzz``."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

ROUNDS = 400
NASTY = (b"\xff", b"\x00", b"\xdd\xff\xff\xff\xff", b"9" * 30)


@pytest.mark.parametrize("name", TARGETS)
def test_right_inputs_are_taken(name: str) -> None:
    for raw in seeds(name):
        TARGETS[name](raw)


@pytest.mark.parametrize("name", TARGETS)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(raw=st.binary(max_size=2000))
def test_any_bytes_are_taken_or_refused_in_the_expected_way(name: str, raw: bytes) -> None:
    TARGETS[name](raw)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_refused_in_the_expected_way(name: str) -> None:
    chance = random.Random(11)
    originals = seeds(name)
    for _ in range(ROUNDS):
        raw = bytearray(chance.choice(originals))
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(raw) + 1)
            action = chance.randrange(4)
            if action == 0:
                raw[at:at] = chance.randbytes(chance.randrange(1, 9))
            elif action == 1:
                del raw[at : at + chance.randrange(1, 9)]
            elif action == 2:
                raw[at : at + 1] = chance.choice(NASTY)
            else:
                begin = chance.randrange(len(raw) + 1)
                raw[at:at] = raw[begin : begin + chance.randrange(1, 200)]
            if not raw:
                raw = bytearray(b"x")
        TARGETS[name](bytes(raw))
