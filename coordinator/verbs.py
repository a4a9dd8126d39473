"""What the operator can ask of the coordinator, and order, through the control endpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from continuer.errors import EXIT_USAGE, ConfigError, UsageError
from continuer.events import Event
from continuer.objectives import (
    ClassObjectives,
    DeploymentObjectives,
    Objectives,
    RequestClass,
)
from continuer.plan import link_ends, link_name
from continuer.wire import Ask, Drill, Tell
from coordinator.arrangements import split_failures
from coordinator.commands import Command, Send
from coordinator.core import Coordinator
from coordinator.deploy_verbs import DeployVerbs
from coordinator.event_ring import EventRing
from coordinator.explain import consequence, single_point
from coordinator.orders import Orders, save
from coordinator.reports import class_report
from coordinator.status import status

# What is asked for may be as long as a message; what is said of it has to fit one too.
MAX_PROBLEM = 500
MAX_AWAY_S = 60.0

Outcome = tuple[dict[str, Any], list[Command]]


class Verbs:
    """Answers verbs with plain data; orders also give commands to perform, and are stored."""

    def __init__(
        self,
        core: Coordinator,
        orders: Orders,
        state_dir: Path | None,
        ring: EventRing,
        deploying: DeployVerbs | None = None,
    ) -> None:
        self._core = core
        self._deploying = deploying
        self._ring = ring
        self._orders = orders
        self._state_dir = state_dir
        self._verbs: dict[str, Callable[[dict[str, Any], int], Outcome]] = {
            "status": self._status,
            "events": self._events,
            "objectives.get": self._objectives_get,
            "objectives.set": self._objectives_set,
            "objectives.reset": self._objectives_reset,
            "plan.what_if": self._what_if,
            "drain": self._drain,
            "resume": self._resume,
            "drill": self._drill,
            **(deploying.table if deploying is not None else {}),
        }

    def serve(self, core: Coordinator) -> None:
        """Another core is in force: that of another bundle."""
        self._core = core

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
        said = status(self._core, now, brief=arguments.get("brief") is True)
        rollout = self._deploying.report(now) if self._deploying is not None else None
        return {**said, "rollout": rollout}, []

    def _events(self, arguments: dict[str, Any], _: int) -> Outcome:
        return self._ring.since(arguments.get("life"), arguments.get("cursor")), []

    def _objectives_get(self, arguments: dict[str, Any], __: int) -> Outcome:
        return self._objectives(arguments.get("class")), []

    def _objectives(self, name: object = None) -> dict[str, Any]:
        planning, config = self._core.planning, self._core.config
        common = {
            "schema": 1,
            "deployment": config.deployment,
            "kept_across_restarts": self._state_dir is not None,
        }
        if name is not None:
            wanted = self._class(name)
            given = config.objectives.classes[wanted.name]
            configured = given.over(config.objectives.own)
            return {
                **common,
                "class": wanted.name,
                "in_force": class_report(wanted.objectives, wanted.redundancy),
                "configured": class_report(configured, given.redundancy),
                "overridden": wanted.name in self._orders.classes,
            }
        return {
            **common,
            "in_force": msgspec.to_builtins(planning.objectives),
            "configured": msgspec.to_builtins(config.objectives.own),
            "overridden": self._orders.objectives is not None,
            "classes": {
                each.name: class_report(each.objectives, each.redundancy)
                for each in planning.classes
            },
        }

    def _class(self, name: object) -> RequestClass:
        classes = {each.name: each for each in self._core.planning.classes}
        if not isinstance(name, str) or name not in classes:
            known = ", ".join(classes) or "none"
            raise UsageError(
                f"class = {name!r}: unknown; the classes are: {known}; "
                "name it in [objectives.class] of coordinator.toml"
            )
        return classes[name]

    def _what_if(self, arguments: dict[str, Any], _: int) -> Outcome:
        core = self._core
        usable = [node.name for node in core.planning.usable()]
        asked = arguments.get("nodes") or [[name] for name in usable]
        failures = [frozenset(self._node_or_link(name) for name in group) for group in asked]
        for failed in failures:
            nodes, _links = split_failures(failed)
            if not nodes <= set(usable):
                gone = ", ".join(sorted(nodes - set(usable)))
                raise UsageError(f"--kill {gone}: not at work now; at work: {', '.join(usable)}")
        utilisation = core.config.max_utilisation
        point = single_point(core.decisions, usable)
        return {
            "schema": 1,
            "rate_per_s": round(core.planning.rate.per_s, 1),
            "max_utilisation": utilisation,
            "single_point_of_failure": {"node": point[0], "problem": point[1]} if point else None,
            "what_if": [
                consequence(core.bundle, failed, core.foreseen(failed), utilisation)
                for failed in failures
            ],
        }, []

    def _node_or_link(self, name: object) -> str:
        ends = link_ends(name) if isinstance(name, str) else None
        return link_name(*map(self._node, ends)) if ends is not None else self._node(name)

    # --- orders -----------------------------------------------------------------------

    def _objectives_set(self, arguments: dict[str, Any], now: int) -> Outcome:
        given = dict(arguments)
        name = given.pop("class", None)
        kind = Objectives if name is None else ClassObjectives
        known = {field.name for field in msgspec.structs.fields(kind)}
        for key in given:
            if key not in known:
                raise UsageError(f"objectives.{key}: unknown; known are {', '.join(sorted(known))}")
        orders = self._orders
        try:
            if name is None:
                current = msgspec.to_builtins(self._core.planning.objectives)
                wanted = msgspec.convert({**current, **given}, Objectives)
                wanted.check()
                orders = msgspec.structs.replace(orders, objectives=wanted)
            else:
                orders = self._class_order(self._class(name).name, given)
        except msgspec.ValidationError as error:
            raise UsageError(f"objectives: {error}") from error
        commands = self._obey(orders, now)
        return self._objectives(name), commands

    def _class_order(self, name: str, given: dict[str, Any]) -> Orders:
        """The orders with something else for a request class."""
        configured = self._core.config.objectives.classes[name]
        current = msgspec.to_builtins(self._orders.classes.get(name, configured))
        own = msgspec.convert({**current, **given}, ClassObjectives)
        own.check(self._core.planning.objectives, f"objectives.class.{name}.")
        classes = {**self._orders.classes, name: own}
        return msgspec.structs.replace(self._orders, classes=classes)

    def _objectives_reset(self, arguments: dict[str, Any], now: int) -> Outcome:
        name = arguments.get("class")
        if name is None:
            orders = msgspec.structs.replace(self._orders, objectives=None)
        else:
            classes = dict(self._orders.classes)
            classes.pop(self._class(name).name, None)
            orders = msgspec.structs.replace(self._orders, classes=classes)
        commands = self._obey(orders, now)
        return self._objectives(name), commands

    def _obey(self, orders: Orders, now: int) -> list[Command]:
        """Store orders that concern objectives, and have them taken into account."""
        configured = self._core.config.objectives
        for name, own in orders.classes.items():
            # What is set for the deployment must suit what its classes say for themselves.
            own.check(orders.objectives or configured.own, f"objectives.class.{name}.")
        self._store(orders)
        wanted = orders.objectives or configured.own
        return self._core.set_objectives(wanted, orders.classes, now)

    def configured(self, objectives: DeploymentObjectives, now: int) -> list[Command]:
        """The configuration's objectives were read anew; orders outrank them until reset."""
        if objectives == self._core.config.objectives:
            return []
        orders = self._orders
        self._core.configure(objectives)
        wanted = orders.objectives or objectives.own
        return self._core.set_objectives(wanted, orders.classes, now)

    def _drain(self, arguments: dict[str, Any], now: int) -> Outcome:
        name = self._node(arguments.get("node"))
        commands = self._core.drain(name, now)
        nodes = self._core.membership.nodes.values()
        drained = tuple(n.name for n in nodes if n.drained and not n.retiring)
        self._store(msgspec.structs.replace(self._orders, drained=drained))
        return {"node": name}, commands

    def _drill(self, arguments: dict[str, Any], _: int) -> Outcome:
        name, away_s = self._node(arguments.get("node")), arguments.get("away_s")
        if not isinstance(away_s, int | float) or not 0 < away_s <= MAX_AWAY_S:
            raise UsageError(f"away_s = {away_s!r}: give more than 0, at most {MAX_AWAY_S:g}")
        node = self._core.membership.nodes[name]
        if node.link is None or not node.live:
            raise UsageError(f"node = {name!r}: {node.state}, not at work; see 'continuer status'")
        away_ms = int(away_s * 1000)
        ordered = Event("drill_ordered", {"node": name, "away_ms": away_ms})
        return {"node": name}, [Send(node.link, Drill(away_ms)), ordered]

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
