"""How much slower a node is now than predicted, learned from its work. Sans-IO.

A prediction is made once, on a quiet box; later the box is warm, throttled or shared, and work
in a chain takes longer than alone. The factor by which it really does corrects what is
predicted of the node next. It moves slowly and within bounds, so that neither a hiccup nor a
broken clock can turn plans upside down. Where the corrected prediction stays wrong by more
than the alarm's share (the box has just changed, or is beyond the bounds), the operator is told.
"""

from __future__ import annotations

import math

import msgspec

#: Share of the way that factor and error go towards one window's measurement.
WEIGHT = 0.2
#: So many windows only teach the factor, in equal shares; nothing is wrong before.
LEARNING_WINDOWS = 5
#: Bounds of the factor. Beyond them it is no drift: the box is broken, or the figures are.
SLOWEST = 4.0
FASTEST = 0.25
#: An error of the prediction beyond this share is worth an alarm; it ends below the second,
#: so that an error about as large as the limit is not reported again and again.
ALARM = 0.20
CALM = 0.10
#: Less work than this says nothing: a single hiccup would weigh too much.
MIN_PREDICTED_US = 10_000.0


class DriftAlarm(msgspec.Struct, frozen=True):
    """A node's prediction has become wrong, or is right again where ``raised`` is False.

    ``error_percent``: by how much the node's work takes longer than the corrected prediction
    (negative: less). ``factor``: the correction.
    """

    node: str
    raised: bool
    error_percent: float
    factor: float


class _State(msgspec.Struct):
    factor: float = 1.0
    error: float = 0.0
    windows: int = 0
    measured_us: float = 0.0
    predicted_us: float = 0.0
    alarmed: bool = False


class Drift:
    """A factor for each node. Feed it with ``observe``, multiply predictions by ``factor``."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}

    def factor(self, node: str) -> float:
        """How many times the predicted latency the node's work takes; 1 while nothing is known."""
        state = self._states.get(node)
        return state.factor if state is not None else 1.0

    def observe(self, node: str, measured_us: float, predicted_us: float) -> DriftAlarm | None:
        """The node has done work that took ``measured_us``, predicted without any factor.

        Work adds up until it is enough to judge by. Returns an alarm when one begins or ends.
        Figures that cannot be (negative, infinite, NaN) are ignored.
        """
        if not (0 <= measured_us < math.inf and 0 < predicted_us < math.inf):
            return None
        state = self._states.setdefault(node, _State())
        state.measured_us += measured_us
        state.predicted_us += predicted_us
        if state.predicted_us < MIN_PREDICTED_US:
            return None
        times = state.measured_us / state.predicted_us
        state.measured_us = state.predicted_us = 0.0
        state.windows += 1
        if state.windows > LEARNING_WINDOWS:
            off = min(times, 2 * SLOWEST) / state.factor - 1
            state.error += WEIGHT * (off - state.error)
        weight = max(WEIGHT, 1 / state.windows)
        state.factor += weight * (min(max(times, FASTEST), SLOWEST) - state.factor)
        return self._judged(node, state)

    def _judged(self, node: str, state: _State) -> DriftAlarm | None:
        alarmed = abs(state.error) > (CALM if state.alarmed else ALARM)
        if alarmed == state.alarmed:
            return None
        state.alarmed = alarmed
        return DriftAlarm(node, alarmed, round(100 * state.error, 1), round(state.factor, 3))

    def forget(self, node: str) -> None:
        """The node has a new life: what was learned of the old one may not hold."""
        self._states.pop(node, None)
