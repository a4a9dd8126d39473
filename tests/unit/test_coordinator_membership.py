"""Who is here: links, lives and knocks, beyond what the scenarios of the core show."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from continuer.config import CoordinatorConfig
from continuer.journal import Event
from continuer.plan import Member, Version
from continuer.wire import Heartbeat, Join, Leave, Members, Refuse
from coordinator.commands import Command, Failure, Probe, Send
from coordinator.membership import (
    KNOCK_EVERY_MS,
    LEFT_OUT_MS,
    MAX_LEFT_OUT_MS,
    TRUST_AFTER_MS,
    Membership,
    links,
)
from tests.unit.harness import BUNDLE, MS, World


class House:
    """A membership in virtual time, and what it reported."""

    def __init__(self, **config: Any) -> None:
        self.config = CoordinatorConfig(bundle="-", nodes=("n1", "n2", "n3"), **config)
        self.failures: list[Failure] = []
        self.membership = Membership(self.config, BUNDLE, self._failed)
        self.now = 3_000 * MS
        self.due = 0

    def _failed(self, failure: Failure, _now: int) -> list[Command]:
        self.failures.append(failure)
        return []

    def join(self, name: str, life: int = 1, link: bytes | None = None) -> list[Command]:
        member = Member(name, life, f"tcp://{name}:1", f"tcp://{name}:2", f"tcp://{name}:3")
        join = Join("continuer", member, BUNDLE.name, BUNDLE.hash, Version(), 0, "all", ())
        return self.membership.join(link or f"{name}/{life}".encode(), join, self.now)

    def beat(
        self, name: str, life: int = 1, link: bytes | None = None, **counts: int
    ) -> list[Command]:
        numbers = {"accepted": 0, "done": 0, "queued": 0, "rss_bytes": 0} | counts
        beat = Heartbeat(name, life, 1, Version(), **numbers)
        return self.membership.heartbeat(link or f"{name}/{life}".encode(), beat, self.now)

    def accuse(self, name: str, life: int, by: str = "n3") -> list[Command]:
        """Another node, a live one, says that it cannot reach this one."""
        accuser = self.membership.nodes[by]
        if accuser.state == "absent":
            self.join(by)
        return self.membership.accused(accuser, name, life, self.now)

    def close(self, name: str, life: int = 1) -> list[Command]:
        return self.membership.link_closed(f"{name}/{life}".encode(), self.now)

    def run(self, ms: int, beating: tuple[str, ...] = ()) -> list[Command]:
        """Time passes; the beating nodes beat every 10 ms, and ticks come when due."""
        commands: list[Command] = []
        for elapsed in range(1, ms + 1):
            self.now += MS
            if elapsed % 10 == 0:
                for name in beating:
                    commands += self.beat(name)
            if self.now >= self.due:
                commands += self.membership.tick(self.now)
                self.due = self.membership.due(self.now)
        return commands

    def state(self, name: str) -> str:
        return self.membership.nodes[name].state

    def known(self) -> list[tuple[str, int]]:
        return [(member.node, member.incarnation) for member in self.membership.members()]


def probes(commands: list[Command]) -> list[Probe]:
    return [command for command in commands if isinstance(command, Probe)]


def refusals(commands: list[Command]) -> list[str]:
    messages = [command.message for command in commands if isinstance(command, Send)]
    return [message.code for message in messages if isinstance(message, Refuse)]


def events(commands: list[Command]) -> list[str]:
    return [command.name for command in commands if isinstance(command, Event)]


# --- joining ------------------------------------------------------------------------------


def test_everybody_is_told_of_a_node_that_joins() -> None:
    house = House()
    house.join("n1")
    commands = house.join("n2")
    told = [command for command in commands if isinstance(command, Send)]
    assert [command.link for command in told] == [b"n1/1", b"n2/1"]
    assert all(command.message == Members(house.membership.members()) for command in told)
    assert house.known() == [("n1", 1), ("n2", 1)]


def test_a_live_agent_that_joins_over_a_new_link_keeps_its_place() -> None:
    house = House()
    house.join("n1")
    house.membership.nodes["n1"].state = "active"
    house.join("n1", link=b"second")
    assert house.state("n1") == "active"
    assert house.beat("n1", link=b"second") == []
    assert refusals(house.beat("n1")) == ["unknown"]  # the first link is forgotten
    assert house.close("n1") == []  # and its end means nothing
    assert house.state("n1") == "active"


def test_what_an_agent_can_hold_is_remembered() -> None:
    house = House()
    member = Member("n1", 1, "tcp://n1:1", "tcp://n1:2", "tcp://n1:3")
    join = Join("continuer", member, BUNDLE.name, BUNDLE.hash, Version(), 123, "none", ())
    house.membership.join(b"link", join, house.now)
    node = house.membership.nodes["n1"]
    assert (node.memory_bytes, node.standby, node.loaded) == (123, "none", {})


# --- heartbeats ---------------------------------------------------------------------------


def test_a_heartbeat_over_an_unknown_link_counts_for_nobody() -> None:
    house = House()
    house.join("n1")
    house.now += 20 * MS
    assert refusals(house.beat("n1", link=b"stranger")) == ["unknown"]
    assert house.membership.detector.silence_ns("n1", house.now) == 20 * MS


def test_a_heartbeat_of_another_life_counts_for_nobody() -> None:
    house = House()
    house.join("n1", life=5)
    house.now += 20 * MS
    assert refusals(house.beat("n1", life=4, link=b"n1/5")) == ["unknown"]
    assert house.membership.detector.silence_ns("n1", house.now) == 20 * MS
    assert house.membership.nodes["n1"].heartbeats == 0


def test_heartbeats_carry_the_progress_of_the_work() -> None:
    house = House()
    house.join("n1")
    house.beat("n1", accepted=5, done=4, queued=1, rss_bytes=77)
    node = house.membership.nodes["n1"]
    assert (node.accepted, node.done, node.queued, node.rss_bytes) == (5, 4, 1, 77)
    house.close("n1")
    house.join("n1", life=2)
    assert (node.accepted, node.done, node.queued) == (0, 0, 0)  # a new life counts anew


def test_the_busiest_ingress_is_told_first() -> None:
    house = House()
    for name, accepted in (("n1", 3), ("n2", 9), ("n3", 5)):
        house.join(name)
        house.beat(name, accepted=accepted)
    assert links(house.membership.live()) == [b"n2/1", b"n3/1", b"n1/1"]
    house.close("n2")
    assert links(house.membership.nodes.values()) == [b"n3/1", b"n1/1"]


def test_a_suspect_is_trusted_after_two_hundred_milliseconds_of_heartbeats() -> None:
    house = House(dead_after_ms=60_000)
    for name in ("n1", "n2", "n3"):
        house.join(name)
    house.run(100, ("n1", "n2"))
    assert house.state("n3") == "suspect"
    house.run(TRUST_AFTER_MS, ("n1", "n2", "n3"))
    assert house.state("n3") == "suspect"
    commands = house.run(10, ("n1", "n2", "n3"))
    assert events(commands) == ["node_trusted"]
    assert house.state("n3") == "joined"
    assert not house.membership.nodes["n3"].was_dead


def test_a_node_held_dead_that_beats_again_is_known_to_have_been_dead() -> None:
    house = House(dead_after_ms=300)
    house.join("n1")
    commands = house.run(400)
    assert house.state("n1") == "dead"
    assert events(commands) == ["node_suspect", "node_dead"]
    assert house.known() == []
    house.run(TRUST_AFTER_MS + 10, ("n1",))
    assert house.state("n1") == "joined"
    assert house.membership.nodes["n1"].was_dead


# --- closed links and lives ---------------------------------------------------------------


def test_a_closed_link_that_nobody_knows_means_nothing() -> None:
    house = House()
    house.join("n1")
    assert house.membership.link_closed(b"stranger", house.now) == []
    assert house.failures == []


def test_a_closed_link_is_one_failure_and_one_knock() -> None:
    house = House()
    house.join("n2")
    house.now += 7 * MS
    commands = house.close("n2")
    assert house.failures == [Failure("n2", "link closed", house.now - 7 * MS, house.now, False)]
    assert probes(commands) == [Probe("n2", 1, "tcp://n2:1")]
    assert house.close("n2") == []
    assert len(house.failures) == 1


def test_a_new_life_waits_outside_until_the_end_of_the_old_one_is_known() -> None:
    house = House()
    house.join("n1")
    commands = house.join("n1", life=2)
    assert refusals(commands) == ["node"]
    assert events(commands) == ["node_refused"]
    assert house.known() == [("n1", 1)]
    house.close("n1")
    assert refusals(house.join("n1", life=2)) == []
    assert house.known() == [("n1", 2)]
    assert [failure.reason for failure in house.failures] == ["link closed"]


def test_a_new_life_of_a_silent_node_is_taken_in_and_the_old_link_means_nothing() -> None:
    house = House()
    house.join("n1")
    house.run(60)
    assert house.state("n1") == "suspect"  # stopped; its link is still open
    assert refusals(house.join("n1", life=2)) == []
    assert house.close("n1") == []
    assert house.state("n1") == "joined"
    assert house.beat("n1", life=2) == []
    assert len(house.failures) == 1


def test_a_refused_knock_at_an_earlier_life_does_not_bury_the_new_one() -> None:
    house = House()
    house.join("n1")
    house.close("n1")
    house.join("n1", life=2)
    assert house.membership.probed("n1", 1, True, house.now) == []
    assert house.state("n1") == "joined"


def test_a_new_life_is_not_credited_with_the_link_of_the_old_one() -> None:
    house = House()
    house.join("n1")
    house.close("n1")
    house.join("n1", life=2)
    assert refusals(house.beat("n1", life=1, link=b"n1/1")) == ["unknown"]


# --- knocks -------------------------------------------------------------------------------


def test_one_knock_at_a_time() -> None:
    house = House()
    house.join("n1")
    assert probes(house.accuse("n1", 1))
    assert house.accuse("n1", 1) == []


def leave_out(house: House) -> None:
    """n1 lives, and n3 cannot reach it."""
    assert probes(house.accuse("n1", 1))
    assert events(house.membership.probed("n1", 1, False, house.now)) == ["node_suspect"]
    assert house.failures[-1].reason == "unreachable from n3"
    assert house.state("n1") == "suspect"


def test_a_live_node_that_another_cannot_reach_is_left_out_twice_as_long_each_time() -> None:
    house = House()
    house.join("n1")
    for left_out_ms in (LEFT_OUT_MS, 2 * LEFT_OUT_MS, 4 * LEFT_OUT_MS):
        leave_out(house)
        house.run(left_out_ms, ("n1", "n3"))
        assert house.state("n1") == "suspect"
        house.membership.probed("n1", 1, False, house.now)  # it was knocked at again meanwhile
        house.run(TRUST_AFTER_MS + 20, ("n1", "n3"))
        assert house.state("n1") == "joined"
        house.membership.probed("n1", 1, False, house.now)
    house.run(2 * MAX_LEFT_OUT_MS, ("n1", "n3"))
    leave_out(house)
    house.run(LEFT_OUT_MS + TRUST_AFTER_MS + 20, ("n1", "n3"))
    assert house.state("n1") == "joined"


def test_a_node_that_is_left_out_itself_accuses_nobody() -> None:
    house = House()
    house.join("n1")
    leave_out(house)
    assert house.accuse("n3", 1, by="n1") == []


def test_a_suspect_is_knocked_at_again_every_twenty_milliseconds_until_it_refuses() -> None:
    house = House(dead_after_ms=1000)
    house.join("n1")
    (probe,) = probes(house.close("n1"))
    knocks = [house.now]
    for _ in range(100):
        house.membership.probed("n1", probe.incarnation, False, house.now)
        if probes(house.run(1)):
            knocks.append(house.now)
    gaps = [(b - a) / MS for a, b in itertools.pairwise(knocks)]
    assert len(gaps) >= 2
    assert all(KNOCK_EVERY_MS < gap <= 2 * KNOCK_EVERY_MS + 1 for gap in gaps), gaps
    commands = house.membership.probed("n1", 1, True, house.now)
    assert events(commands) == ["node_dead"]
    assert probes(house.run(100)) == []


def test_a_knock_that_is_never_answered_is_not_repeated_and_silence_decides() -> None:
    house = House(dead_after_ms=300)
    house.join("n1")
    house.close("n1")
    commands = house.run(280)
    assert house.state("n1") == "suspect"
    commands += house.run(50)
    assert probes(commands) == []
    assert house.state("n1") == "dead"


def test_a_live_node_whose_port_refuses_fails_and_is_dead_at_once() -> None:
    house = House()
    house.join("n1")
    house.accuse("n1", 1)
    commands = house.membership.probed("n1", 1, True, house.now)
    assert events(commands) == ["node_suspect", "node_dead"]
    assert [failure.reason for failure in house.failures] == ["connection refused"]
    assert house.membership.probed("n1", 1, True, house.now) == []


@pytest.mark.parametrize(("name", "life"), [("n9", 1), ("n1", 2), ("n2", 1)])
def test_an_accusation_of_somebody_unknown_is_not_looked_into(name: str, life: int) -> None:
    house = House()
    house.join("n1")
    assert house.accuse(name, life) == []


def test_an_accusation_of_a_node_that_is_suspect_already_adds_nothing() -> None:
    house = House()
    house.join("n1")
    house.close("n1")
    house.membership.probed("n1", 1, False, house.now)
    assert house.accuse("n1", 1) == []


# --- silence ------------------------------------------------------------------------------


def test_the_evidence_of_silence_is_when_the_timeout_expired() -> None:
    house = House(heartbeat_timeout_ms=30)
    house.join("n1")
    joined = house.now
    house.run(60)
    (failure,) = house.failures
    assert (failure.node, failure.reason) == ("n1", "silence")
    assert failure.last_heard_ns == joined
    assert failure.evidence_ns == joined + 30 * MS


def test_silence_that_is_held_is_said_once() -> None:
    house = House(heartbeat_timeout_ms=100)
    for name in ("n1", "n2", "n3"):
        house.join(name)
    commands = house.run(290, ("n1",))
    assert events(commands) == ["suspicion_held"]
    assert house.failures == []
    house.run(20, ("n1",))
    assert {failure.node for failure in house.failures} == {"n2", "n3"}


def test_a_link_that_closes_while_everybody_is_silent_is_knocked_at_but_no_failure() -> None:
    house = House()
    for name in ("n1", "n2", "n3"):
        house.join(name)
    house.run(60)
    commands = house.close("n2")
    assert [probe.node for probe in probes(commands)] == ["n2"]
    assert house.failures == []
    house.membership.probed("n2", 1, True, house.now)  # it was the node and not the network
    assert [failure.node for failure in house.failures] == ["n2"]


# --- leaving ------------------------------------------------------------------------------


def test_a_node_that_left_is_neither_knocked_at_nor_held_dead() -> None:
    house = House(dead_after_ms=300)
    house.join("n1")
    commands = house.membership.leave(b"n1/1", house.now)
    assert events(commands)[0] == "node_left"
    assert [failure.reason for failure in house.failures] == ["left"]
    assert house.close("n1") == []
    assert probes(house.run(1000)) == []
    assert house.state("n1") == "left"
    assert house.known() == []
    assert house.membership.detector.silence_ns("n1", house.now) == 0  # nothing is expected


def test_a_node_that_left_may_join_again() -> None:
    world = World(return_stable_ms=0)
    world.form()
    agent = world.agents["n4"]
    leave = Leave("n4", agent.member.incarnation)
    world.perform(world.core.on_message(agent.link, leave, world.now))
    world.perform(world.core.on_link_closed(agent.link, world.now))
    agent.alive = False
    world.run(300)
    assert "n4" not in world.step.nodes
    assert world.state("n4") == "left"
    world.join("n4")
    world.run(1500)
    assert world.state("n4") == "active"
    assert world.technique() == "none"
    assert len(world.core.failovers) == 1


def test_a_goodbye_over_an_unknown_link_means_nothing() -> None:
    house = House()
    house.join("n1")
    assert house.membership.leave(b"stranger", house.now) == []
    assert house.state("n1") == "joined"


def test_a_suspect_may_still_say_goodbye() -> None:
    house = House()
    house.join("n1")
    house.run(60)
    house.membership.leave(b"n1/1", house.now)
    assert house.state("n1") == "left"
    assert len(house.failures) == 1
