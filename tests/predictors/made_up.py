"""A profile of a box that does not exist, whose timings follow a formula."""

from __future__ import annotations

import numpy as np

from predictors.grid import designed
from predictors.machine import Conditions, Machine
from predictors.operators import Operator
from predictors.profile import SCHEMA, Copy, Profile, Timing

BOX = Machine("made-up core (1/2/3)", ("avx2", "fma"), "x86_64", 4)
STATE = Conditions("performance", 41.0, 0.1)
FLOOR_US = 0.5
# Microseconds for a multiply-accumulate and a byte; 3x3 kernels are quicker than others.
MAC_US, BYTE_US, QUICK = 1e-4, 2e-5, 0.6


def true_us(operator: Operator) -> float:
    quick = QUICK if operator.kernel == (3, 3) else 1.0
    return FLOOR_US + quick * MAC_US * operator.macs + BYTE_US * operator.bytes_moved


def made_up_profile(share: float = 0.3, noise: float = 0.01) -> Profile:
    random = np.random.default_rng(7)
    timings = []
    for operator in designed(share):
        passes = true_us(operator) * (1 + noise * np.abs(random.standard_normal(4)))
        timings.append(Timing(operator, tuple(float(us) for us in passes)))
    copies = tuple(Copy(2**k, 0.2 + 2**k * 1e-5, 0.4 + 2**k * 2e-5) for k in (6, 12, 16, 20))
    return Profile(
        schema=SCHEMA,
        machine=BOX,
        runtime="made-up 1.0",
        threads=1,
        taken="2026-01-01",
        seconds=12.0,
        before=STATE,
        after=STATE,
        floor_us=FLOOR_US,
        copies=copies,
        timings=tuple(timings),
    )
