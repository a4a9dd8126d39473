"""The decisions prepared for one plan: every single failure, then every pair. Sans-IO.

One decision takes up to a millisecond, all of them many; a failure must not wait for that. So
they are made one at a time, whenever the coordinator has nothing else to do.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

from continuer.objectives import Metrics
from continuer.plan import Contingency
from coordinator.layouts import Layout
from coordinator.planner import Decision, Setting, decide


class Contingencies:
    """``failures_of`` says how often a node has failed: likely failures are prepared first."""

    def __init__(
        self,
        setting: Setting,
        layout: Layout,
        full: Metrics,
        failures_of: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self.decisions: dict[frozenset[str], Decision] = {}
        self._setting = setting
        self._layout = layout
        self._full = full
        names = sorted((n.name for n in setting.nodes), key=lambda name: -failures_of(name))
        pairs = sorted(
            itertools.combinations(names, 2), key=lambda pair: -sum(map(failures_of, pair))
        )
        self._todo: deque[tuple[str, ...]] = deque([*((name,) for name in names), *pairs])

    @property
    def singles_done(self) -> bool:
        """Every single failure is prepared."""
        return not self._todo or len(self._todo[0]) > 1

    @property
    def done(self) -> bool:
        """Nothing is left to prepare."""
        return not self._todo

    def prepare_next(self) -> None:
        """Make one decision."""
        failed = frozenset(self._todo.popleft())
        decision = decide(self._setting, self._layout, failed, self._full)
        if decision is not None:
            self.decisions[failed] = decision

    def as_plan(self, size: int) -> tuple[Contingency, ...]:
        """Those for failures of this many nodes, as agents hold them."""
        return tuple(d.contingency() for d in self.decisions.values() if len(d.failed) == size)

    @property
    def tightest_per_s(self) -> float:
        """Capacity of the candidate that has least."""
        capacities = [c.step.capacity_per_s for d in self.decisions.values() for c in d.candidates]
        return min(capacities, default=float("inf"))
