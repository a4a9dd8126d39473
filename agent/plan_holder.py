"""The plan that an agent holds. Sans-IO; versions never go back, across restarts neither."""

from __future__ import annotations

import msgspec

from continuer.plan import ClassStep, Plan, Step, Version
from continuer.wire import Activate, Foresee


class InForce(msgspec.Struct, frozen=True):
    """A step to put in force, the nodes held failed, and those that are to get no new work.

    ``repaired``: nodes and links that this agent goes around on its own account. ``classes``:
    every request class, and what is done for it. ``bundle``: the hash of the one that is run.
    """

    version: Version
    deployment: str
    step: Step
    failed: frozenset[str]
    draining: frozenset[str] = frozenset()
    repaired: frozenset[str] = frozenset()
    classes: tuple[ClassStep, ...] = ()
    bundle: bytes = b""


class Refused(msgspec.Struct, frozen=True):
    """Why a plan or activation is not put in force; ``stale`` asks for a whole plan."""

    problem: str
    stale: bool


class PlanHolder:
    """Accepts whole plans and activations of their contingencies, in rising versions only.

    ``floor``: the highest version that earlier lives of this agent have accepted. ``bundles``:
    the hashes of those that can be run here; any thread may add one.
    """

    def __init__(self, bundle_hash: bytes, floor: Version = Version()) -> None:  # noqa: B008  # frozen
        self.bundles = {bundle_hash}
        self._plan: Plan | None = None
        self._ordered: InForce | None = None  # what the coordinator said last
        self.version = floor

    def on_plan(self, plan: Plan) -> InForce | Refused:
        """A whole plan. The same version again is put in force again: an ack was lost."""
        if plan.version < self.version:
            return Refused(f"version {plan.version} is older than {self.version}", stale=False)
        if plan.bundle not in self.bundles:
            return Refused("the plan is for another bundle; copy the same bundle here", stale=False)
        held = self._plan
        if held is not None and held.version == plan.version and not plan.contingencies:
            # A whole plan for a link that is new goes out without them; they still hold.
            plan = msgspec.structs.replace(plan, contingencies=held.contingencies)
        self._plan, self.version = plan, plan.version
        return self._in_force(plan, plan.step, frozenset(plan.failed), plan.classes)

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
        classes = plan.classes_with(contingency.classes_at(order.step))
        return self._in_force(plan, contingency.steps[order.step], failed, classes)

    def on_foresee(self, more: Foresee) -> None:
        """Contingencies that were decided after the plan went out; others' are ignored."""
        if self._plan is not None and self._plan.version == more.base:
            known = self._plan.contingencies
            contingencies = (*known, *more.contingencies)
            self._plan = msgspec.structs.replace(self._plan, contingencies=contingencies)

    def means(self, node: str, incarnation: int) -> bool:
        """The plan counts on no other life of the node than this one."""
        route = self._plan.step.route if self._plan is not None else ()
        return all(hop.incarnation == incarnation for hop in route if hop.node == node)

    def repaired(self, failed: frozenset[str], *, best: bool) -> InForce | None:
        """What is held against these nodes and links failing too; None where nothing is.

        The version stays: whatever the coordinator says later outranks it. Of the contingency
        for exactly what has failed, the bridge or (``best``) the last step; where none is held,
        the most accurate step that goes around it.
        """
        plan, ordered = self._plan, self._ordered
        if plan is None or ordered is None:
            return None
        step = ordered.step
        if step.uses(failed):
            exact = plan.contingency((ordered.failed | failed) - frozenset(plan.failed))
            others = [s for c in plan.contingencies for s in c.steps[-1:]]
            steps = [*exact.steps] if exact else sorted(others, key=_accuracy, reverse=True)
            around = [s for s in steps if not s.uses(ordered.failed | failed)]
            if not around:
                return None
            step = around[-1 if best and exact else 0]
        return msgspec.structs.replace(
            ordered,
            step=step,
            failed=ordered.failed | failed,
            repaired=failed,
            classes=tuple(each.without(failed) for each in ordered.classes),
        )

    def _in_force(
        self, plan: Plan, step: Step, failed: frozenset[str], classes: tuple[ClassStep, ...]
    ) -> InForce:
        draining = frozenset(plan.draining)
        self._ordered = InForce(
            *(self.version, plan.deployment, step, failed, draining),
            classes=classes,
            bundle=plan.bundle,
        )
        return self._ordered


def _accuracy(step: Step) -> float:
    """The expected accuracy; what was not measured runs every block."""
    return 1.0 if step.accuracy is None else step.accuracy
