"""Another bundle beside the one in force: when it takes its place, and when nothing changes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from continuer import bundle as bundles
from continuer.bundle import Bundle
from continuer.catalog import find_bundle
from continuer.errors import UsageError
from continuer.objectives import Objectives
from continuer.wire import NewPlan, Offer, PartTiming, Prepare, Prepared, Staged, Unstage
from coordinator.commands import Send
from coordinator.core import Coordinator
from coordinator.deploying import STAGE_TIMEOUT_MS, Deployments
from coordinator.orders import Orders
from tests.unit.harness import BUNDLE, World

OTHER = bundles.load(find_bundle("mobilenetv2-cifar10"))
OTHER_ID = OTHER.hash[:16]
SIGNATURE = b"signed"


class Front:
    """What a world feeds in the core's stead, and the core in force for what it looks at."""

    def __init__(self, deployments: Deployments) -> None:
        self._deployments = deployments

    def __getattr__(self, name: str) -> Any:
        fed = hasattr(Deployments, name)
        return getattr(self._deployments if fed else self._deployments.core, name)


class Fleet(World):
    """Agents that hold an offered bundle ready, load its parts and say so, unless told not to."""

    def __init__(self, **config: Any) -> None:
        super().__init__(form_timeout_ms=100, **config)
        self.deployments = Deployments(self.core, self._make_core, self._remember)
        front: Any = Front(self.deployments)
        self.core = front
        self.remembered: list[tuple[bytes, bytes]] = []
        self.disk_full = False
        self.offered: list[str] = []
        self.unstaged: list[str] = []
        self.refuses: dict[str, str] = {}
        self.cannot_load: set[str] = set()
        self.mute: set[str] = set()
        self.busy_loading: set[str] = set()
        self.orders_to_load: list[tuple[str, Prepare]] = []

    def _make_core(self, bundle: Bundle, orders: Orders, former: Coordinator) -> Coordinator:
        return Coordinator(former.config, bundle, former.version.term, orders, former)

    def _remember(self, bundle: Bundle, signature: bytes) -> None:
        if self.disk_full:
            raise OSError(28, "No space left on device")
        self.remembered.append((bundle.hash, signature))

    def deploy(self, bundle: Bundle = OTHER, **how: Any) -> None:
        self.perform(self.deployments.start(bundle, SIGNATURE, self.now, **how))

    @property
    def in_force(self) -> bytes:
        """The bundle of the core in force."""
        return self.deployments.core.bundle.hash

    def obeyed(self) -> set[bytes]:
        """The bundles of the plans that living agents have in force."""
        found = [a.in_force.bundle for a in self.agents.values() if a.alive and a.in_force]
        return set(found)

    def _deliver(self, command: Send) -> None:
        message = command.message
        agent = next((a for a in self.agents.values() if a.link == command.link), None)
        other = isinstance(message, Prepare) and message.bundle == OTHER_ID
        if agent is None or not (isinstance(message, Offer | Unstage) or other):
            super()._deliver(command)
            return
        own = (agent.name, agent.member.incarnation)
        if isinstance(message, Unstage):
            self.unstaged.append(agent.name)
        elif isinstance(message, Offer):
            self.offered.append(agent.name)
            assert message.signature == SIGNATURE
            agent.holder.bundles.add(message.bundle)
            problem = self.refuses.get(agent.name, "")
            if agent.name not in self.mute and agent.alive:
                self._hear(agent.link, Staged(*own, message.bundle, problem))
        elif isinstance(message, Prepare):
            self.orders_to_load.append((agent.name, message))
            if agent.name not in self.busy_loading:
                self._hear(agent.link, self.loaded(agent.name, message))

    def loaded(self, name: str, order: Prepare) -> Prepared:
        """What an agent says when it has done what it was told to, as far as it could."""
        problem = "block03: damaged" if name in self.cannot_load else ""
        timings = tuple(PartTiming(part, 100.0, 400.0) for part in sorted(order.parts))
        own = (name, self.agents[name].member.incarnation)
        return Prepared(*own, order.ticket, timings, problem, bundle=order.bundle)

    def _hear(self, link: bytes, message: Staged | Prepared) -> None:
        self.perform(self.deployments.on_message(link, message, self.now))

    def hear(self, message: Staged | Prepared) -> None:
        """Something comes from an agent late."""
        self._hear(self.agents[message.node].link, message)


@pytest.fixture
def fleet() -> Fleet:
    made = Fleet()
    made.form()
    return made


def test_a_bundle_that_all_hold_ready_takes_the_place_of_the_one_in_force(fleet: Fleet) -> None:
    before = fleet.deployments.core.version
    fleet.deploy()
    fleet.run(50)
    assert fleet.in_force == OTHER.hash
    assert fleet.obeyed() == {OTHER.hash}
    assert fleet.deployments.core.version > before
    assert fleet.technique() == "none"
    assert fleet.remembered == [(OTHER.hash, SIGNATURE)]
    (said,) = fleet.said("deployed")
    assert said.fields["digest"] == OTHER.hash.hex()[:16]
    report = fleet.deployments.report(fleet.now)
    assert report is not None
    assert (report["state"], report["problem"]) == ("in_force", "")


def test_until_the_last_one_is_ready_nothing_changes(fleet: Fleet) -> None:
    fleet.mute.add("n4")
    fleet.deploy()
    fleet.run(500)
    assert fleet.obeyed() == {BUNDLE.hash}
    assert fleet.orders_to_load == []
    report = fleet.deployments.report(fleet.now)
    assert report is not None
    assert (report["state"], report["waiting_for"]) == ("staging", ["n4"])
    fleet.hear(Staged("n4", fleet.agents["n4"].member.incarnation, OTHER.hash))
    fleet.run(50)
    assert fleet.obeyed() == {OTHER.hash}


def test_a_plan_for_the_new_bundle_goes_out_only_when_all_have_loaded(fleet: Fleet) -> None:
    fleet.busy_loading.add("n2")
    fleet.deploy()
    fleet.run(500)
    assert fleet.obeyed() == {BUNDLE.hash}
    plans = [m for m in fleet.agents["n1"].received if isinstance(m, NewPlan)]
    assert {message.plan.bundle for message in plans} == {BUNDLE.hash}
    order = next(order for name, order in fleet.orders_to_load if name == "n2")
    fleet.hear(fleet.loaded("n2", order))
    fleet.run(50)
    assert fleet.obeyed() == {OTHER.hash}


def test_a_node_that_refuses_the_bundle_leaves_all_as_it_was(fleet: Fleet) -> None:
    fleet.refuses["n3"] = "not signed"
    before = fleet.deployments.core.version
    fleet.deploy()
    fleet.run(200)
    assert fleet.obeyed() == {BUNDLE.hash}
    assert fleet.deployments.core.version == before
    assert fleet.remembered == []
    assert set(fleet.unstaged) == set(fleet.config.nodes)
    (said,) = fleet.said("deploy_failed")
    assert (said.fields["nodes"], said.fields["problem"]) == (["n3"], "not signed")


def test_a_node_that_cannot_load_a_part_leaves_all_as_it_was(fleet: Fleet) -> None:
    fleet.cannot_load.add("n5")
    fleet.deploy()
    fleet.run(200)
    assert fleet.obeyed() == {BUNDLE.hash}
    (said,) = fleet.said("deploy_failed")
    assert (said.fields["nodes"], said.fields["problem"]) == (["n5"], "block03: damaged")
    # It says nothing against the node: the bundle in force goes on there, and another may come.
    fleet.cannot_load.clear()
    fleet.deploy()
    fleet.run(50)
    assert fleet.obeyed() == {OTHER.hash}


def test_a_node_that_says_nothing_is_not_waited_for_for_ever(fleet: Fleet) -> None:
    fleet.mute.add("n2")
    fleet.deploy()
    fleet.run(STAGE_TIMEOUT_MS - 100)
    assert fleet.said("deploy_failed") == []
    fleet.run(200)
    (said,) = fleet.said("deploy_failed")
    assert said.fields["nodes"] == ["n2"]
    assert fleet.obeyed() == {BUNDLE.hash}


@pytest.mark.parametrize("stage", ["mute", "busy_loading"])
def test_a_failure_meanwhile_is_met_by_the_bundle_in_force(fleet: Fleet, stage: str) -> None:
    getattr(fleet, stage).add("n2")
    fleet.deploy()
    fleet.run(20)
    fleet.kill("n4")
    fleet.run(5)
    assert fleet.obeyed() == {BUNDLE.hash}
    assert "n4" not in fleet.step.nodes
    assert all(a.in_force and "n4" in a.in_force.failed for a in fleet.agents.values() if a.alive)


def test_a_node_that_dies_meanwhile_is_not_waited_for(fleet: Fleet) -> None:
    fleet.mute.add("n4")
    fleet.deploy()
    fleet.run(20)
    fleet.kill("n4")
    fleet.run(300)
    assert fleet.obeyed() == {OTHER.hash}
    assert fleet.step.nodes == {"n1", "n2", "n3", "n5"}
    assert len(fleet.deployments.core.failovers) == 1  # what happened before is not forgotten


def test_a_node_that_dies_while_it_loads_is_done_without(fleet: Fleet) -> None:
    fleet.busy_loading.add("n4")
    fleet.deploy()
    fleet.run(20)
    fleet.kill("n4")
    fleet.run(300)
    assert fleet.obeyed() == {OTHER.hash}
    assert fleet.step.nodes == {"n1", "n2", "n3", "n5"}


def test_a_node_that_is_back_at_once_holds_the_bundle_in_its_new_life(fleet: Fleet) -> None:
    fleet.busy_loading.add("n4")
    fleet.deploy()
    fleet.run(20)
    fleet.kill("n4")
    fleet.busy_loading.clear()
    fleet.join("n4")
    fleet.run(300)
    assert fleet.obeyed() == {OTHER.hash}
    assert fleet.technique() == "none"
    lives = {hop.node: hop.incarnation for hop in fleet.step.route}
    assert lives["n4"] == fleet.agents["n4"].member.incarnation


def test_a_node_that_comes_meanwhile_is_offered_the_bundle_too(fleet: Fleet) -> None:
    fleet.kill("n5")
    fleet.run(300)
    fleet.busy_loading.add("n1")
    fleet.deploy()
    assert "n5" not in fleet.offered
    fleet.run(20)
    fleet.join("n5")
    assert "n5" in fleet.offered
    fleet.run(20)
    fleet.busy_loading.clear()
    for name, order in list(fleet.orders_to_load):
        if name == "n1":
            fleet.hear(fleet.loaded(name, order))
    fleet.run(3000)
    assert fleet.in_force == OTHER.hash
    assert fleet.state("n5") == "active"


def test_a_node_with_the_bundle_before_is_turned_away_after_the_change(fleet: Fleet) -> None:
    fleet.kill("n5")
    fleet.run(300)
    fleet.deploy()
    fleet.run(300)
    fleet.join("n5")  # it then asks what is served, and comes back with that
    assert fleet.refusals[-1].code == "bundle"
    fleet.agents["n5"].holder.bundles.add(OTHER.hash)
    fleet.join("n5", bundle=OTHER.hash)
    fleet.run(3000)
    assert fleet.state("n5") == "active"
    assert fleet.obeyed() == {OTHER.hash}


def test_failures_after_the_change_are_foreseen_for_the_new_bundle(fleet: Fleet) -> None:
    fleet.deploy()
    fleet.run(200)
    decision = fleet.deployments.core.decisions[frozenset({"n3"})]
    fleet.kill("n3")
    fleet.run(5)
    assert fleet.step in [candidate.step for candidate in decision.chosen]
    assert fleet.obeyed() == {OTHER.hash}
    assert all(a.in_force and "n3" in a.in_force.failed for a in fleet.agents.values() if a.alive)


def test_orders_given_meanwhile_hold_for_the_new_bundle(fleet: Fleet) -> None:
    fleet.busy_loading.add("n1")
    fleet.deploy()
    fleet.run(20)
    core = fleet.deployments.core
    fleet.perform(core.drain("n5", fleet.now))
    fleet.perform(core.set_objectives(Objectives(min_accuracy=0.5), {}, fleet.now))
    fleet.busy_loading.clear()
    fleet.perform(fleet.deployments.orders_changed(fleet.now))
    fleet.run(300)
    assert fleet.in_force == OTHER.hash
    assert "n5" not in fleet.step.nodes
    assert fleet.deployments.core.planning.objectives.min_accuracy == 0.5
    assert fleet.deployments.core.membership.nodes["n5"].drained


def test_a_deployment_can_be_called_off(fleet: Fleet) -> None:
    fleet.mute.add("n1")
    fleet.deploy()
    fleet.perform(fleet.deployments.cancel(fleet.now))
    fleet.hear(Staged("n1", fleet.agents["n1"].member.incarnation, OTHER.hash))
    fleet.run(200)
    assert fleet.obeyed() == {BUNDLE.hash}
    with pytest.raises(UsageError, match="none is under way"):
        fleet.deployments.cancel(fleet.now)


def test_what_is_loaded_for_a_bundle_that_was_given_up_counts_for_nothing(fleet: Fleet) -> None:
    fleet.busy_loading.add("n1")
    fleet.deploy()
    fleet.run(20)
    before = dict(fleet.deployments.core.membership.nodes["n1"].loaded)
    fleet.perform(fleet.deployments.cancel(fleet.now))
    order = next(order for name, order in fleet.orders_to_load if name == "n1")
    fleet.hear(fleet.loaded("n1", order))
    assert fleet.deployments.core.membership.nodes["n1"].loaded == before


def test_what_cannot_be_remembered_does_not_come_into_force(fleet: Fleet) -> None:
    fleet.disk_full = True
    fleet.deploy()
    fleet.run(200)
    assert fleet.obeyed() == {BUNDLE.hash}
    (said,) = fleet.said("deploy_failed")
    assert "No space left" in said.fields["problem"]


def test_a_bundle_that_fits_nowhere_is_given_up(fleet: Fleet) -> None:
    for node in fleet.deployments.core.membership.nodes.values():
        node.memory_bytes = 1.0
    fleet.deploy()
    fleet.run(300)
    (said,) = fleet.said("deploy_failed")
    assert "memory budgets" in said.fields["problem"]
    assert fleet.obeyed() == {BUNDLE.hash}


def test_what_makes_no_sense_is_refused(fleet: Fleet) -> None:
    with pytest.raises(UsageError, match="in force already"):
        fleet.deploy(BUNDLE)
    fleet.mute.add("n1")
    fleet.deploy()
    with pytest.raises(UsageError, match="is being deployed"):
        fleet.deploy()
    with pytest.raises(UsageError, match="no plan is in force"):
        Fleet().deploy()


def test_another_form_of_input_has_to_be_asked_for(fleet: Fleet) -> None:
    manifest = OTHER.manifest
    unprepared = msgspec.structs.replace(manifest.input, preprocessing=None)
    changed = msgspec.structs.replace(manifest, input=unprepared)
    bundle = Bundle(OTHER.directory, changed, OTHER.hash)
    with pytest.raises(UsageError, match="--new-input"):
        fleet.deploy(bundle)
    fleet.deploy(bundle, new_input=True)
    fleet.run(50)
    assert fleet.in_force == OTHER.hash
