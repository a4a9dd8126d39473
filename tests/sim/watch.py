"""The invariants, checked after every step that could break them, and the transcript."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from agent.plan_holder import InForce
from continuer.errors import BundleError
from continuer.events import EVENTS, Event
from continuer.plan import Step, Version
from continuer.wire import Reply, Work
from tests.sim.clock import MS, Clock
from tests.sim.model import BUNDLE
from tests.sim.service import Request, event_text

TECHNIQUES = {
    (False, False): ("none", "repartition"),
    (True, False): ("early_exit",),
    (False, True): ("skip",),
    (True, True): ("mixed",),
}


class ViolationError(AssertionError):
    """An invariant does not hold; ``rule`` names it."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class Watch:
    """Told of what happens; raises ViolationError at once where something must not be."""

    def __init__(self, clock: Clock) -> None:
        self.lines: list[str] = []
        self.events: Counter[str] = Counter()
        self._clock = clock
        self._accepted: dict[str, tuple[int, Version]] = {}
        self._given: dict[str, tuple[int, Version]] = {}
        self._explained = False
        self._whole: set[tuple[int, ...]] = set()

    @property
    def digest(self) -> str:
        """The whole transcript in a few letters: equal for equal runs."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]

    def say(self, text: str) -> None:
        """A line of the transcript."""
        self.lines.append(f"{self._clock.now / MS:12.3f}  {text}")

    def event(self, process: Any, event: Event) -> None:
        """What a daemon writes to its journal."""
        assert EVENTS[event.name].fields == event.fields.keys(), event
        self.events[event.name] += 1
        self._explained |= event.name == "no_plan"
        self.say(f"{process.name}: {event_text(event)}")

    def foreign(self, socket: str, problem: str, _: int) -> None:
        """Nobody here sends what others cannot read."""
        raise ViolationError("everything_is_understood", f"{socket}: {problem}")

    # --- plans ------------------------------------------------------------------------

    def applied(self, agent: Any, order: InForce) -> None:
        """An agent's ingress puts a step in force."""
        life, before = self._accepted.get(agent.name, (0, Version()))
        if life != agent.life:  # what reached the disk binds the next life
            stored = agent.disk.get("accepted", Version())
            before = min(before, stored) if life else stored
        if order.version < before:
            text = f"{agent.name} goes from {before} to {order.version}"
            raise ViolationError("versions_only_rise", text)
        # A newer order may be waiting behind it in the mailbox: it is put in force next.
        if order.repaired and order.version > agent.holder.version:
            text = f"{agent.name} repairs {order.version} and holds {agent.holder.version}"
            raise ViolationError("a_repair_never_outranks_the_coordinator", text)
        self._accepted[agent.name] = (agent.life, order.version)
        self._covers(order.step)
        self.say(
            f"{agent.name}: in force {order.version} {order.step.technique} "
            f"{[hop.node for hop in order.step.route]} without {sorted(order.failed)} "
            f"repaired {sorted(order.repaired)}"
        )

    def _covers(self, step: Step) -> None:
        if step.parts in self._whole:
            return
        path = tuple(BUNDLE.part_names[part] for part in step.parts)
        try:
            exit_name, skipped = BUNDLE.variant_of(path)
            whole = path == BUNDLE.path(skipped, exit_name)
        except BundleError:
            whole = False
        if not whole:
            raise ViolationError("a_plan_covers_the_network", " ".join(path))
        self._whole.add(step.parts)

    def coordinated(self, coordinator: Any) -> None:
        """The coordinator has done something."""
        core = coordinator.core
        life, before = self._given.get("coordinator", (0, Version()))
        fresh = life != coordinator.life and core.plan is None
        if not fresh and core.version < before:
            raise ViolationError("versions_only_rise", f"{before} then {core.version}")
        if not fresh:
            self._given["coordinator"] = (coordinator.life, core.version)
        if core.plan is None or core.step is None:
            return
        self._covers(core.step)
        live = {node.name for node in core.membership.live()}
        if core.step.nodes <= live:
            self._explained = False
        elif not (core._preparing or self._explained or not live):
            text = f"{sorted(core.step.nodes - live)} are in force, and nothing was said"
            raise ViolationError("a_plan_covers_or_the_service_explains", text)

    # --- requests ---------------------------------------------------------------------

    def forwarded(self, agent: Any, work: Work) -> None:
        """An ingress sends a request on its way."""
        route = {hop.node for hop in work.route}
        failed = agent.ingress._failed
        if route & failed and not self._explained:
            text = f"{agent.name} sends {work.seq} over {sorted(route & failed)}"
            raise ViolationError("no_request_goes_through_the_dead", text)
        self.say(f"{agent.name}: send {work.client.decode()}/{work.seq} attempt {work.attempt}")

    def completed(
        self,
        client: Any,
        request: Request,
        reply: Reply | None,
        found: tuple[int, tuple[int, ...]] | None,
    ) -> None:
        """A client has an outcome."""
        name = f"{client.name}/{request.seq}"
        if len(request.outcomes) != 1:
            raise ViolationError("one_outcome", f"{name}: {request.outcomes}")
        self.say(f"{name}: {request.outcomes[0][1]}")
        if reply is None or found is None:
            return
        number, parts = found
        claimed = tuple(BUNDLE.part_ids[part] for part in reply.path)
        if number != request.seq or parts != claimed:
            text = f"{name}: claims {claimed}, computed {parts} of request {number}"
            raise ViolationError("the_answer_is_that_of_its_path", text)
        exit_name, skipped = BUNDLE.variant_of(reply.path)
        if reply.technique not in TECHNIQUES[exit_name is not None, bool(skipped)]:
            text = f"{name}: {reply.technique} over {reply.path}"
            raise ViolationError("the_answer_is_tagged_truly", text)
