"""Defects planted on purpose: the simulator must find each, or its invariants are worth nothing.

A mutant names what would catch it soonest, a story or faults of a kind, so that all of them take
seconds; ``find`` runs that, and then seed after seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from agent.control_core import ControlCore
from agent.ingress_core import IngressCore
from agent.plan_holder import PlanHolder
from agent.repairs import Repairs
from agent.served import Served
from continuer.client_core import ClientCore, Complete
from continuer.plan import Version
from continuer.wire import Reply
from coordinator.core import Coordinator
from coordinator.detector import Detector
from coordinator.membership import Membership
from tests.sim.faults import Fault
from tests.sim.model import BUNDLE
from tests.sim.run import Mutation, Report, run, tell

SEEDS = 40
# How messages fall in a story depends on the seed; a defect need not show in each.
STORY_SEEDS = 10
Plant = Callable[[pytest.MonkeyPatch], None]


class Mutant(msgspec.Struct):
    """A defect; ``story`` or ``faults`` show it, or seeds do."""

    plant: Plant
    story: str = ""
    faults: tuple[Fault, ...] = ()

    def mutation(self) -> Mutation:
        """Plants the defect while a run lasts."""

        @contextmanager
        def planted() -> Iterator[None]:
            with pytest.MonkeyPatch.context() as patch:
                self.plant(patch)
                yield

        return planted


MUTANTS: dict[str, Mutant] = {}


def mutant(story: str = "", *faults: Fault) -> Callable[[Plant], Plant]:
    """Add a defect to the list."""

    def add(plant: Plant) -> Plant:
        MUTANTS[plant.__name__] = Mutant(plant, story, faults)
        return plant

    return add


def find(found: Mutant, seeds: int = SEEDS) -> Report | None:
    """The first run in which the defect breaks a rule."""
    mutation = found.mutation()
    for seed in range(STORY_SEEDS if found.story else 0):
        report = tell(found.story, mutation, seed=seed)
        if report.rule:
            return report
    if found.faults:
        report = run(1, found.faults, mutation)
        if report.rule:
            return report
    for seed in range(seeds if not (found.story or found.faults) else 0):
        report = run(seed, None, mutation)
        if report.rule:
            return report
    return None


def _nothing(*_: Any, **__: Any) -> list[Any]:
    return []


KILL = Fault(500, "kill", ("n3",), 2000)
PAUSE = Fault(500, "pause", ("n3",), 2000)
GHOST = tuple(Fault(100, "ghost", (f"n{i}",), 5000) for i in range(1, 6))
DROP = tuple(Fault(100, "havoc", pair, 900, "drop") for pair in (("n1", "n2"), ("n3", "n4")))
DOUBLE = (Fault(100, "havoc", ("n4", "n5"), 900, "double"),)


# --- the agent's control plane ------------------------------------------------------------


@mutant("", *GHOST, KILL, Fault(700, "kill", ("n4",), 2000))
def the_version_check_of_plans_is_removed(patch: pytest.MonkeyPatch) -> None:
    on_plan = PlanHolder.on_plan

    def obey(self: PlanHolder, plan: Any) -> Any:
        self.version = Version()
        return on_plan(self, plan)

    patch.setattr(PlanHolder, "on_plan", obey)


@mutant("", *GHOST, KILL)
def the_version_check_of_activations_is_removed(patch: pytest.MonkeyPatch) -> None:
    on_activate = PlanHolder.on_activate

    def obey(self: PlanHolder, order: Any) -> Any:
        held, self.version = self.version, Version()
        outcome = on_activate(self, order)
        self.version = max(held, self.version) if self.version == Version() else self.version
        return outcome

    patch.setattr(PlanHolder, "on_activate", obey)


@mutant("", KILL)
def an_activation_puts_the_old_route_in_force(patch: pytest.MonkeyPatch) -> None:
    on_activate = PlanHolder.on_activate

    def obey(self: PlanHolder, order: Any) -> Any:
        outcome = on_activate(self, order)
        assert self._plan is not None
        step = self._plan.step
        return msgspec.structs.replace(outcome, step=step) if hasattr(outcome, "step") else outcome

    patch.setattr(PlanHolder, "on_activate", obey)


@mutant("a_coordinator_that_forgot_its_term_meets_agents_that_were_restarted")
def the_accepted_version_is_not_kept_across_a_restart(patch: pytest.MonkeyPatch) -> None:
    born = PlanHolder.__init__
    patch.setattr(PlanHolder, "__init__", lambda self, bundle, _=None: born(self, bundle))


@mutant("the_coordinator_hangs_and_then_a_node_dies")
def contingencies_held_are_not_acted_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Repairs, "_leave_out", _nothing)


@mutant("the_coordinator_hangs_and_then_a_node_dies")
def a_repair_outranks_the_coordinator(patch: pytest.MonkeyPatch) -> None:
    repaired = PlanHolder.repaired

    def outrank(self: PlanHolder, failed: frozenset[str], *, best: bool) -> Any:
        order = repaired(self, failed, best=best)
        above = Version(self.version.term + 1, 0)
        return msgspec.structs.replace(order, version=above) if order else None

    patch.setattr(PlanHolder, "repaired", outrank)


@mutant("a_restarted_coordinator_costs_no_request_any_time")
def a_new_coordinators_short_list_makes_agents_forget_their_peers(
    patch: pytest.MonkeyPatch,
) -> None:
    patch.setattr(ControlCore, "_with_planned", lambda _, members: members)


@mutant("what_one_agent_goes_around_the_coordinator_judges_for_all")
def a_repair_is_not_reported_to_the_coordinator(patch: pytest.MonkeyPatch) -> None:
    def quiet(self: ControlCore, knock: Any, answer: Any, now: int) -> Any:
        return self.repairs.on_knocked(knock, answer, now)

    patch.setattr(ControlCore, "on_knocked", quiet)


# --- the ingress --------------------------------------------------------------------------


@mutant("", PAUSE)
def requests_are_not_sent_anew_after_a_plan(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(IngressCore, "_after_death", _nothing)


@mutant("", *DROP)
def nothing_is_sent_anew_when_no_answer_comes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("agent.ingress_core.MAX_SENDS", 2)


@mutant("a_request_that_kills_takes_three_nodes_at_most")
def a_request_that_kills_is_not_quarantined(patch: pytest.MonkeyPatch) -> None:
    def again(self: IngressCore, pending: Any, now: int) -> Any:
        pending.attempts = 0
        return self._resend(pending, now)

    patch.setattr(IngressCore, "_after_death", again)


@mutant("", KILL)
def an_answer_claims_the_whole_path(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Served, "path_of", lambda *_: (BUNDLE.path(), None))


@mutant("", Fault(100, "slow", ("n4",), 3000), Fault(500, "kill", ("n2",), 2000))
def answers_are_tagged_with_the_plan_in_force(patch: pytest.MonkeyPatch) -> None:
    on_result = IngressCore.on_result

    def tag(self: IngressCore, result: Any, frames: Any) -> Any:
        pending = self._pending.get((result.client, result.seq))
        if pending is not None and self._step is not None:
            pending.sends = [(version, self._step, of) for version, _, of in pending.sends]
        return on_result(self, result, frames)

    patch.setattr(IngressCore, "on_result", tag)


# --- the client ---------------------------------------------------------------------------


@mutant("", Fault(500, "pause", ("n1",), 600))
def a_client_takes_every_answer_for_a_new_one(patch: pytest.MonkeyPatch) -> None:
    on_message = ClientCore.on_message

    def twice(self: ClientCore, endpoint: str, message: Any, frames: Any, now: int) -> Any:
        if isinstance(message, Reply):
            return [Complete(message.seq, message, frames)]
        return on_message(self, endpoint, message, frames, now)

    patch.setattr(ClientCore, "on_message", twice)


@mutant("the_first_node_dies_and_comes_back")
def a_client_stays_with_an_ingress_that_is_gone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ClientCore, "_move", _nothing)


# --- the coordinator ----------------------------------------------------------------------


@mutant("", KILL)
def nobody_is_told(patch: pytest.MonkeyPatch) -> None:
    send_all = Coordinator._send_all

    def once(self: Coordinator, message: Any, now: int) -> Any:
        return send_all(self, message, now) if self.version.number < 2 else []

    patch.setattr(Coordinator, "_send_all", once)


@mutant("", PAUSE)
def the_brake_is_always_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Detector, "_are_links_away", lambda *_: True)


@mutant("", Fault(500, "deaf", ("coordinator",), 200, "everyone"))
def the_brake_is_missing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Detector, "_company", lambda _, silent, __: silent[:1])


@mutant("everything_is_restarted_at_once")
def the_term_does_not_rise(patch: pytest.MonkeyPatch) -> None:
    join = Coordinator._join

    def forget(self: Coordinator, link: bytes, message: Any, now: int) -> Any:
        commands = join(self, link, message, now)
        self._held_term = 0
        return commands

    patch.setattr(Coordinator, "_join", forget)


@mutant("", PAUSE)
def a_suspect_is_never_trusted_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Membership, "_regain", _nothing)
