"""What the operator can ask of the coordinator, and order, through the control endpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from continuer.errors import EXIT_USAGE, ConfigError, UsageError
from continuer.objectives import Objectives
from continuer.wire import Ask, Tell
from coordinator.commands import Command
from coordinator.core import Coordinator
from coordinator.orders import Orders, save
from coordinator.planner import Decision
from coordinator.status import decision_report, status

# What is asked for may be as long as a message; what is said of it has to fit one too.
MAX_PROBLEM = 500

Outcome = tuple[dict[str, Any], list[Command]]


class Verbs:
    """Answers verbs with plain data; orders also give commands to perform, and are stored."""

    def __init__(self, core: Coordinator, orders: Orders, state_dir: Path | None) -> None:
        self._core = core
        self._orders = orders
        self._state_dir = state_dir
        self._verbs: dict[str, Callable[[dict[str, Any], int], Outcome]] = {
            "status": self._status,
            "objectives.get": self._objectives_get,
            "objectives.set": self._objectives_set,
            "objectives.reset": self._objectives_reset,
            "plan.what_if": self._what_if,
            "drain": self._drain,
            "resume": self._resume,
        }

    def answer(self, ask: Ask, now: int) -> tuple[Tell, list[Command]]:
        """The answer to a question or order, and what follows from it."""
        verb = self._verbs.get(ask.verb)
        if verb is None:
            known = ", ".join(self._verbs)
            verb_text = repr(ask.verb[:60])
            problem = f"verb = {verb_text}: unknown; this coordinator knows {known}"
            return Tell({}, problem, EXIT_USAGE), []
        try:
            data, commands = verb(ask.arguments, now)
        except (UsageError, ConfigError) as error:
            return Tell({}, str(error)[:MAX_PROBLEM], EXIT_USAGE), []
        except OSError as error:
            return Tell({}, f"state_dir: the order cannot be stored: {error}"), []
        return Tell(data), commands

    # --- questions --------------------------------------------------------------------

    def _status(self, arguments: dict[str, Any], now: int) -> Outcome:
        return status(self._core, now, brief=arguments.get("brief") is True), []

    def _objectives_get(self, _: dict[str, Any], __: int) -> Outcome:
        return self._objectives(), []

    def _objectives(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "deployment": self._core.config.deployment,
            "in_force": msgspec.to_builtins(self._core.planning.objectives),
            "configured": msgspec.to_builtins(self._core.config.objectives),
            "overridden": self._orders.objectives is not None,
            "kept_across_restarts": self._state_dir is not None,
        }

    def _what_if(self, arguments: dict[str, Any], _: int) -> Outcome:
        core = self._core
        usable = [node.name for node in core.planning.usable()]
        asked = arguments.get("nodes") or [[name] for name in usable]
        failures = [frozenset(self._node(name) for name in group) for group in asked]
        for failed in failures:
            if not failed <= set(usable):
                gone = ", ".join(sorted(failed - set(usable)))
                raise UsageError(f"--kill {gone}: not at work now; at work: {', '.join(usable)}")
        return {
            "schema": 1,
            "rate_per_s": round(core.planning.rate.per_s, 1),
            "max_utilisation": core.config.max_utilisation,
            "what_if": [self._consequence(failed) for failed in failures],
        }, []

    def _consequence(self, failed: frozenset[str]) -> dict[str, Any]:
        core = self._core
        decision = core.decisions.get(failed) or core.planning.decide_without(failed)
        if decision is None:
            return {"nodes": sorted(failed), "steps": [], "feasible": False, "violations": []}
        return {
            **decision_report(core.bundle, decision),
            "violations": sorted(decision.chosen[-1].problems),
            "gap_ms": round(decision.chosen[0].step.downtime_ms, 2),
            "rate_limit_per_s": round(self._limit(decision), 1),
        }

    def _limit(self, decision: Decision) -> float:
        """Requests a second up to which the survivors' plan may be used."""
        return decision.chosen[-1].step.capacity_per_s * self._core.config.max_utilisation

    # --- orders -----------------------------------------------------------------------

    def _objectives_set(self, arguments: dict[str, Any], now: int) -> Outcome:
        known = {field.name for field in msgspec.structs.fields(Objectives)}
        for key in arguments:
            if key not in known:
                raise UsageError(f"objectives.{key}: unknown; known are {', '.join(sorted(known))}")
        current = msgspec.to_builtins(self._core.planning.objectives)
        try:
            wanted = msgspec.convert({**current, **arguments}, Objectives)
        except msgspec.ValidationError as error:
            raise UsageError(f"objectives: {error}") from error
        wanted.check()
        self._store(msgspec.structs.replace(self._orders, objectives=wanted))
        commands = self._core.set_objectives(wanted, now)
        return self._objectives(), commands

    def _objectives_reset(self, _: dict[str, Any], now: int) -> Outcome:
        self._store(msgspec.structs.replace(self._orders, objectives=None))
        commands = self._core.set_objectives(self._core.config.objectives, now)
        return self._objectives(), commands

    def _drain(self, arguments: dict[str, Any], now: int) -> Outcome:
        name = self._node(arguments.get("node"))
        commands = self._core.drain(name, now)
        drained = tuple(n.name for n in self._core.membership.nodes.values() if n.drained)
        self._store(msgspec.structs.replace(self._orders, drained=drained))
        return {"node": name}, commands

    def _resume(self, arguments: dict[str, Any], now: int) -> Outcome:
        name = self._node(arguments.get("node"))
        drained = tuple(other for other in self._orders.drained if other != name)
        self._store(msgspec.structs.replace(self._orders, drained=drained))
        return {"node": name}, self._core.resume(name, now)

    def _node(self, name: object) -> str:
        nodes = self._core.membership.nodes
        if not isinstance(name, str) or name not in nodes:
            raise UsageError(f"node = {name!r}: unknown; the nodes are {', '.join(nodes)}")
        return name

    def _store(self, orders: Orders) -> None:
        """Before it is obeyed: an order that was confirmed holds across a restart."""
        if self._state_dir is not None:
            save(self._state_dir, orders)
        self._orders = orders
