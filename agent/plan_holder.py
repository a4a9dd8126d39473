"""The plan that an agent holds. Sans-IO; versions never go back."""

from __future__ import annotations

import msgspec

from continuer.plan import Plan, Step, Version
from continuer.wire import Activate, Foresee


class InForce(msgspec.Struct, frozen=True):
    """A step to put in force, the nodes held failed, and those that are to get no new work."""

    version: Version
    deployment: str
    step: Step
    failed: frozenset[str]
    draining: frozenset[str] = frozenset()


class Refused(msgspec.Struct, frozen=True):
    """Why a plan or activation is not put in force; ``stale`` asks for a whole plan."""

    problem: str
    stale: bool


class PlanHolder:
    """Accepts whole plans and activations of their contingencies, in rising versions only."""

    def __init__(self, bundle_hash: bytes) -> None:
        self._bundle_hash = bundle_hash
        self._plan: Plan | None = None
        self.version = Version()

    def on_plan(self, plan: Plan) -> InForce | Refused:
        """A whole plan. The same version again is put in force again: an ack was lost."""
        if plan.version < self.version:
            return Refused(f"version {plan.version} is older than {self.version}", stale=False)
        if plan.bundle != self._bundle_hash:
            return Refused("the plan is for another bundle; copy the same bundle here", stale=False)
        self._plan, self.version = plan, plan.version
        return self._in_force(plan, plan.step, frozenset(plan.failed))

    def on_activate(self, order: Activate) -> InForce | Refused:
        """A step of a contingency of the plan held."""
        if order.version <= self.version:
            return Refused(f"version {order.version} is not above {self.version}", stale=False)
        plan = self._plan
        if plan is None or plan.version != order.base:
            return Refused(f"the base {order.base} is not held", stale=True)
        contingency = plan.contingency(frozenset(order.failed))
        if contingency is None or not 0 <= order.step < len(contingency.steps):
            return Refused(f"no contingency for {', '.join(order.failed)}", stale=True)
        self.version = order.version
        failed = frozenset(order.failed) | frozenset(plan.failed)
        return self._in_force(plan, contingency.steps[order.step], failed)

    def on_foresee(self, more: Foresee) -> None:
        """Contingencies that were decided after the plan went out; others' are ignored."""
        if self._plan is not None and self._plan.version == more.base:
            known = self._plan.contingencies
            contingencies = (*known, *more.contingencies)
            self._plan = msgspec.structs.replace(self._plan, contingencies=contingencies)

    def _in_force(self, plan: Plan, step: Step, failed: frozenset[str]) -> InForce:
        draining = frozenset(plan.draining)
        return InForce(self.version, plan.deployment, step, failed, draining)
