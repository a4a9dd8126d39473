"""The decisions prepared for one plan: its nodes, links of its routes, spares, pairs. Sans-IO.

One decision takes up to a millisecond, all of them many; a failure must not wait for that. So
they are made one at a time, whenever the coordinator has nothing else to do.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

from continuer.objectives import Metrics
from continuer.plan import Contingency, links_of
from coordinator.classes import decide_for_all
from coordinator.layouts import Layout
from coordinator.planner import ClassRoutes, Decision, Setting


class Contingencies:
    """``failures_of`` says how often a node has failed: likely failures are prepared first."""

    def __init__(
        self,
        setting: Setting,
        layout: Layout,
        full: Metrics,
        failures_of: Callable[[str], int] = lambda _: 0,
        routes: tuple[ClassRoutes, ...] = (),
    ) -> None:
        self.decisions: dict[frozenset[str], Decision] = {}
        self._setting = setting
        self._layout = layout
        self._full = full
        self._routes = routes
        used = [tuple(layout), *(tuple(c.layout) for each in routes for c in each.own)]
        at_work = set(itertools.chain(*used))
        # Without a spare everything goes on as it is, so those at work come first.
        names = sorted(
            (n.name for n in setting.nodes),
            key=lambda name: (name not in at_work, -failures_of(name)),
        )
        pairs = sorted(
            itertools.combinations([name for name in names if name in at_work], 2),
            key=lambda pair: -sum(map(failures_of, pair)),
        )
        hops = [link for order in used for link in links_of(order)]
        singles = [(name,) for name in names if name in at_work]
        links = [(link,) for link in dict.fromkeys(hops)]
        spares = [(name,) for name in names if name not in at_work]
        self._untold = frozenset(map(frozenset[str], (*singles, *spares)))
        self._left = len(singles)
        self._todo: deque[tuple[str, ...]] = deque([*singles, *links, *spares, *pairs])

    @property
    def singles_done(self) -> bool:
        """The failure of every single node at work is prepared."""
        return self._left <= 0

    @property
    def done(self) -> bool:
        """Nothing is left to prepare."""
        return not self._todo

    def prepare_next(self) -> None:
        """Make one decision."""
        self._left -= 1
        failed = frozenset(self._todo.popleft())
        decision = decide_for_all(self._setting, self._layout, failed, self._full, self._routes)
        if decision is not None:
            self.decisions[failed] = decision

    def beyond_singles(self) -> tuple[Contingency, ...]:
        """Those that were made after the plan went out, as agents hold them.

        Without a spare they go on as they are, and of a large fleet it would be many megabytes.
        """
        return tuple(
            decision.contingency()
            for failed, decision in self.decisions.items()
            if failed not in self._untold
        )

    @property
    def tightest_per_s(self) -> float:
        """Capacity of the candidate that has least."""
        capacities = [c.step.capacity_per_s for d in self.decisions.values() for c in d.candidates]
        return min(capacities, default=float("inf"))
