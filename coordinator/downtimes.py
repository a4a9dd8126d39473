"""What precedes the first answer by a new route, learned from the failovers that happened.

The parts are *detect* (per node: how it fails and how fast that is seen), *decide*, *tell* (per
technique: by which nodes the new route leads, and what has to be sent anew over it), and per node
how loading compares with the figures that agents measured when they loaded alone.
"""

from __future__ import annotations

import msgspec

# How much one new measurement counts against all before it.
WEIGHT = 0.2
# The loader pauses between parts so that requests come first; it may take this much longer.
MAX_LOAD_FACTOR = 50.0


class Timings(msgspec.Struct, frozen=True):
    """Milliseconds until a new route is in force; ``*_of`` per node or technique, where known."""

    detect_ms: float = 4.0
    decide_ms: float = 0.1
    tell_ms: float = 1.0
    detect_ms_of: dict[str, float] = {}
    load_factor_of: dict[str, float] = {}
    fetch_bytes_per_ms: float = 20_000.0
    fetch_bytes_per_ms_of: dict[str, float] = {}
    tell_ms_of: dict[str, float] = {}

    def detect(self, failed: frozenset[str]) -> float:
        """Until these nodes' failure is known: the slowest of them counts."""
        known = [self.detect_ms_of.get(node, self.detect_ms) for node in failed]
        return max(known, default=self.detect_ms)

    def tell(self, technique: str) -> float:
        """Until all have a route of this technique in force."""
        return self.tell_ms_of.get(technique, self.tell_ms)

    def load(self, node: str, alone_ms: float) -> float:
        """How long a node takes to load what takes ``alone_ms`` when nothing else runs."""
        return alone_ms * self.load_factor_of.get(node, 1.0)

    def fetch(self, node: str, nbytes: int) -> float:
        """How long a node takes to fetch so much from others."""
        return nbytes / self.fetch_bytes_per_ms_of.get(node, self.fetch_bytes_per_ms)

    def with_fetching(self, node: str, nbytes: int, took_ms: float) -> Timings:
        """A node took this long to fetch so much."""
        if nbytes <= 0 or took_ms <= 0:
            return self
        known = self.fetch_bytes_per_ms_of
        # The first figure of a node replaces what was only assumed.
        learned = _smooth(known[node], nbytes / took_ms) if node in known else nbytes / took_ms
        return msgspec.structs.replace(self, fetch_bytes_per_ms_of={**known, node: learned})

    def with_failure(self, node: str, silence_ms: float, heartbeat_ms: float) -> Timings:
        """A failure was detected after ``silence_ms`` without a sign of life.

        The fault itself is not seen; on average it came half a heartbeat after the last one.
        """
        detect_ms = max(0.0, silence_ms - heartbeat_ms / 2)
        learned = _smooth(self.detect_ms_of.get(node, self.detect_ms), detect_ms)
        return msgspec.structs.replace(self, detect_ms_of={**self.detect_ms_of, node: learned})

    def with_decision(self, decide_ms: float) -> Timings:
        """A decision took this long."""
        return msgspec.structs.replace(self, decide_ms=_smooth(self.decide_ms, decide_ms))

    def with_telling(self, tell_ms: float, technique: str | None) -> Timings:
        """It took this long until the last agent had acknowledged.

        ``technique``: of the step of a failover; None for a plan that nothing had to wait for.
        """
        learned = msgspec.structs.replace(self, tell_ms=_smooth(self.tell_ms, tell_ms))
        if technique is None:
            return learned
        own = _smooth(self.tell(technique), tell_ms)
        return msgspec.structs.replace(learned, tell_ms_of={**self.tell_ms_of, technique: own})

    def with_loading(self, node: str, took_ms: float, alone_ms: float) -> Timings:
        """A node took this long to load what takes ``alone_ms`` when nothing else runs."""
        if alone_ms <= 0:
            return self
        factor = min(MAX_LOAD_FACTOR, max(1.0, took_ms / alone_ms))
        learned = _smooth(self.load_factor_of.get(node, 1.0), factor)
        return msgspec.structs.replace(self, load_factor_of={**self.load_factor_of, node: learned})


def _smooth(old: float, new: float) -> float:
    return (1 - WEIGHT) * old + WEIGHT * new
