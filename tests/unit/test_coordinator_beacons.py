"""Beacons beside the links: loss, doubt, the pace of heartbeats, links that bring nothing."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from continuer.config import CoordinatorConfig
from continuer.plan import Member, Version
from continuer.wire import Heartbeat, Join
from coordinator.commands import Command, Failure, Probe, SetPace
from coordinator.complaints import FORGET_MS, LASTING_MS
from coordinator.detector import Detector
from coordinator.membership import Membership
from coordinator.paces import ABSENT_MS, MUTE_AND_LOSING_MS, MUTE_MS, REPORT_US, STEADY_MS, every_us
from tests.unit.harness import BUNDLE, MS

INTERVAL_MS = 10
NAMES = ("n1", "n2", "n3")


class House:
    """Nodes that send beacons every 10 ms and heartbeats as they are told, in virtual time."""

    def __init__(self, nodes: tuple[str, ...] = NAMES) -> None:
        config = CoordinatorConfig(bundle="-", nodes=nodes)
        self.failures: list[Failure] = []
        self.broken: list[tuple[str, str]] = []
        self.told: list[SetPace] = []
        self.membership = Membership(config, BUNDLE, self._failed, (), self._link_failed)
        self.now = 3_000 * MS
        self.due = self.now
        self.sequence = dict.fromkeys(NAMES, 0)
        self.every_us = dict.fromkeys(NAMES, 0)
        self.said_ns = dict.fromkeys(NAMES, 0)
        self.alive: tuple[str, ...] = NAMES
        self.dark: set[str] = set()  # whose beacons are lost
        self.cut: set[str] = set()  # whose links bring nothing
        self.lossy: Callable[[str], bool] = lambda _: False
        for name in NAMES:
            member = Member(name, 1, f"tcp://{name}:1", f"tcp://{name}:2", f"tcp://{name}:3")
            join = Join("continuer", member, BUNDLE.name, BUNDLE.hash, Version(), 0, "all", ())
            self.obey(self.membership.join(name.encode(), join, self.now))

    def _failed(self, failure: Failure, _: int) -> list[Command]:
        self.failures.append(failure)
        return []

    def _link_failed(self, source: str, target: str, _: int) -> list[Command]:
        self.broken.append((source, target))
        return []

    def obey(self, commands: list[Command]) -> list[Command]:
        for command in commands:
            if isinstance(command, SetPace):
                self.told.append(command)
                asked = command.every_us <= self.every_us[command.node]
                self.every_us[command.node] = command.every_us
                if asked and command.node in self.alive:
                    self.beat(command.node)
        return commands

    def beat(self, name: str) -> None:
        self.said_ns[name] = self.now
        if name not in self.cut:
            beat = Heartbeat(name, 1, 1, Version(), 0, 0, 0, 0)
            self.obey(self.membership.heartbeat(name.encode(), beat, self.now))

    def shine(self, name: str) -> None:
        self.sequence[name] += 1
        if name not in self.dark and not self.lossy(name):
            found = (name, 1, self.sequence[name], INTERVAL_MS * MS, self.now)
            self.obey(list(self.membership.beacon(*found)))

    def run(self, ms: float) -> list[Command]:
        commands: list[Command] = []
        for _ in range(int(ms)):
            self.now += MS
            for index, name in enumerate(self.alive):
                if (self.now // MS + 3 * index) % INTERVAL_MS == 0:
                    self.shine(name)
                    if self.now - self.said_ns[name] >= self.every_us[name] * 1000:
                        self.beat(name)
            if self.now >= self.due:
                commands += self.obey(self.membership.tick(self.now))
                self.due = self.membership.due(self.now)
        return commands

    def timeout_ms(self, name: str) -> float:
        return self.membership.detector.timeout_ns(name) / MS

    def reasons(self) -> list[tuple[str, str]]:
        return [(failure.node, failure.reason) for failure in self.failures]


# --- loss ---------------------------------------------------------------------------------


def lose(detector: Detector, share: float, seconds: float, seed: int = 1) -> list[float]:
    """Beacons of n1 for so long, some of them lost. The timeouts in force, in ms."""
    luck = random.Random(seed)
    timeouts = []
    for sequence in range(1, int(seconds * 1000 / INTERVAL_MS) + 1):
        if luck.random() >= share:
            now = sequence * INTERVAL_MS * MS
            detector.beacon("n1", sequence, INTERVAL_MS * MS, now)
        timeouts.append(detector.timeout_ns("n1") / MS)
    return timeouts


def test_where_nothing_is_lost_the_timeout_stays_as_configured() -> None:
    detector = Detector(30)
    detector.watch("n1", 0)
    assert set(lose(detector, 0.0, 20)) == {30}
    assert not detector.loses("n1")


def test_the_timeout_covers_as_many_losses_in_a_row_as_their_share_makes_likely() -> None:
    detector = Detector(30)
    detector.watch("n1", 0)
    for sequence in (1, *range(3, 1001)):  # one of a thousand: 3/1000 at two deviations
        detector.beacon("n1", sequence, INTERVAL_MS * MS, sequence * INTERVAL_MS * MS)
    assert detector.loses("n1")
    # 0.003^4 is below 1e-8, and 0.003^3 is not: four in a row, and the fifth is waited for.
    assert detector.timeout_ns("n1") == 50 * MS


@pytest.mark.parametrize(("share", "least_ms", "most_ms"), [(0.01, 50, 90), (0.05, 80, 140)])
def test_the_timeout_grows_with_the_share_of_lost_beacons(
    share: float, least_ms: float, most_ms: float
) -> None:
    detector = Detector(30)
    detector.watch("n1", 0)
    assert least_ms <= lose(detector, share, 10)[-1] <= most_ms


def test_half_an_hour_of_five_percent_loss_makes_nobody_silent() -> None:
    detector = Detector(30)
    detector.watch("n1", 0)
    luck = random.Random(7)
    last_ns = 0
    for sequence in range(1, 30 * 60 * 100):
        now = sequence * INTERVAL_MS * MS
        if luck.random() >= 0.05:
            # The first loss comes without warning; after that silence is never long enough.
            if detector.loses("n1"):
                assert now - last_ns <= detector.timeout_ns("n1"), sequence
            detector.beacon("n1", sequence, INTERVAL_MS * MS, now)
            last_ns = now


def test_losses_are_forgotten_after_a_while() -> None:
    detector = Detector(30)
    detector.watch("n1", 0)
    lose(detector, 0.1, 10)
    at = 1_000
    for sequence in range(at + 1, at + 1_200):
        detector.beacon("n1", sequence, INTERVAL_MS * MS, sequence * INTERVAL_MS * MS)
    assert detector.timeout_ns("n1") == 30 * MS
    assert not detector.loses("n1")


def test_an_outage_is_not_taken_for_loss() -> None:
    detector = Detector(30)
    detector.watch("n1", 0)
    detector.beacon("n1", 1, INTERVAL_MS * MS, 10 * MS)
    detector.beacon("n1", 1001, INTERVAL_MS * MS, 10_010 * MS)
    assert not detector.loses("n1")


@pytest.mark.parametrize("again", [5, 4])
def test_a_beacon_that_was_heard_before_is_no_sign_of_life(again: int) -> None:
    detector = Detector(30)
    detector.watch("n1", 0)
    assert detector.beacon("n1", 5, INTERVAL_MS * MS, 10 * MS)
    assert not detector.beacon("n1", again, INTERVAL_MS * MS, 20 * MS)
    assert detector.silence_ns("n1", 30 * MS) == 20 * MS


def test_a_node_that_joins_again_keeps_what_its_link_has_taught() -> None:
    detector = Detector(30)
    detector.watch("n1", 0)
    before = lose(detector, 0.05, 10)[-1]
    detector.watch("n1", 10_000 * MS)
    assert detector.timeout_ns("n1") / MS == before
    assert detector.beacon("n1", 1, INTERVAL_MS * MS, 10_010 * MS), "in a session of its own"


def test_where_large_gaps_are_frequent_the_timeout_leaves_room_for_larger_ones() -> None:
    detector = Detector(30)
    detector.watch("n1", 0)
    now = 0
    for index in range(60):
        now += (20 if index % 2 else 10) * MS
        detector.heard("n1", now)
    assert detector.timeout_ns("n1") == 60 * MS


# --- the pace of heartbeats ---------------------------------------------------------------


def test_links_bring_few_heartbeats_once_beacons_have_come_for_a_while() -> None:
    house = House()
    house.run(STEADY_MS - 100)
    assert set(house.every_us.values()) == {every_us(3, beacons=False)}
    house.run(200)
    assert set(house.every_us.values()) == {REPORT_US}
    house.run(10_000)
    assert not house.failures


def test_beacons_of_another_life_count_for_nothing() -> None:
    house = House()
    house.membership.beacon("n1", 2, 1, INTERVAL_MS * MS, house.now + 5 * MS)
    assert house.membership.detector.silence_ns("n1", house.now + 5 * MS) == 5 * MS


def test_a_node_whose_beacons_stay_away_is_asked_and_its_answer_keeps_it() -> None:
    house = House()
    house.run(2_000)
    house.dark = {"n2"}
    asked = [c for c in house.run(100) if isinstance(c, SetPace)]
    assert {c.node for c in asked} == {"n2"}
    assert not any(c.fresh for c in asked)
    assert house.every_us["n2"] == every_us(3, beacons=False)
    house.run(20_000)
    assert not house.failures
    house.dark = set()
    house.run(15_000)  # the outage is no loss, and the beacons have come for long
    assert house.every_us["n2"] == REPORT_US


def test_a_node_that_dies_in_silence_is_found_within_the_timeout_all_the_same() -> None:
    house = House()
    house.run(2_000)
    house.alive = ("n1", "n3")
    house.run(45)
    assert house.reasons() == [("n2", "silence")]
    assert house.failures[0].evidence_ns - house.failures[0].last_heard_ns == 30 * MS


def test_whether_beacons_come_is_known() -> None:
    house = House()
    house.dark = {"n2"}
    house.run(100)
    come = {name: house.membership.beacons_come(name, house.now) for name in NAMES}
    assert come == {"n1": True, "n2": False, "n3": True}
    house.dark = {"n1", "n2"}
    house.run(ABSENT_MS + 100)
    assert not house.membership.beacons_come("n1", house.now)


def test_one_silence_is_asked_about_once() -> None:
    house = House()
    house.run(2_000)
    house.alive = ("n1", "n3")
    commands = house.run(29)
    assert [c.node for c in commands if isinstance(c, SetPace)] == ["n2"]


def test_links_that_lose_packets_stay_at_the_full_pace() -> None:
    house = House()
    luck = random.Random(3)
    house.lossy = lambda name: name == "n2" and luck.random() < 0.05
    house.run(20_000)
    told = {name: {c.every_us for c in house.told if c.node == name} for name in NAMES}
    full = every_us(3, beacons=False)
    assert told == {"n1": {full, REPORT_US}, "n2": {full}, "n3": {full, REPORT_US}}
    assert not house.failures


def test_in_a_large_fleet_without_beacons_the_timeout_follows_the_links_pace() -> None:
    house = House(tuple(f"n{i}" for i in range(1, 201)))
    house.dark = set(NAMES)
    house.run(5_000)
    assert set(house.every_us.values()) == {40_000}
    assert house.timeout_ms("n1") == 120
    assert not house.failures
    house.dark = set()
    house.run(12_000)  # gaps of 40 ms are forgotten by then
    assert house.timeout_ms("n1") == 30
    house.dark = set(NAMES)
    house.run(2 * ABSENT_MS)
    assert house.timeout_ms("n1") >= 120, "no beacon will come any more"
    assert not house.failures


@pytest.mark.parametrize(
    ("nodes", "beacons", "us"),
    [(5, True, 100_000), (200, True, 100_000), (1000, True, 500_000), (50, False, 10_000)],
)
def test_the_pace_keeps_the_coordinators_work_bounded(nodes: int, beacons: bool, us: int) -> None:
    assert every_us(nodes, beacons=beacons) == us


# --- links that bring nothing, and links that are complained of ---------------------------


def test_a_node_that_is_seen_and_not_heard_is_failed_over() -> None:
    house = House()
    house.run(2_000)
    house.cut = {"n2"}
    house.run(MUTE_MS - 100)
    assert not house.failures
    house.run(300)
    assert house.reasons() == [("n2", "link silent")]


def test_where_the_links_of_most_are_silent_nobody_is_blamed() -> None:
    """Whoever can tell most nodes nothing has nothing to tell the others."""
    house = House()
    house.run(2_000)
    house.cut = {"n1", "n2"}
    house.run(4 * MUTE_MS)
    assert not house.failures


def test_the_end_of_a_link_that_had_long_been_silent_is_no_failure() -> None:
    """After a cut of all links, beacons are back before the news that agents gave theirs up."""
    house = House()
    house.run(2_000)
    house.cut = set(NAMES)
    house.run(MUTE_MS + 100)
    commands = [c for name in NAMES for c in house.membership.link_closed(name.encode(), house.now)]
    assert not house.failures
    assert [c.node for c in commands if isinstance(c, Probe)] == list(NAMES)


def test_where_packets_are_lost_a_link_has_longer_to_come_back() -> None:
    house = House()
    luck = random.Random(3)
    house.lossy = lambda _: luck.random() < 0.05
    house.run(3_000)
    house.cut = {"n2"}
    house.run(MUTE_AND_LOSING_MS - 100)
    assert not house.failures
    house.run(300)
    assert house.reasons() == [("n2", "link silent")]


def test_an_observer_that_was_late_holds_no_link_for_mute() -> None:
    house = House()
    house.run(2_000)
    for _ in range(4_000 // INTERVAL_MS):  # the kernel dates beacons, but not what links bring
        house.now += INTERVAL_MS * MS
        for name in NAMES:
            house.shine(name)
    house.run(100)
    assert not house.failures


def test_a_link_that_closes_is_a_failure_at_once_where_nothing_is_lost() -> None:
    house = House()
    house.run(2_000)
    commands = house.membership.link_closed(b"n2", house.now)
    assert house.reasons() == [("n2", "link closed")]
    assert [c.node for c in commands if isinstance(c, Probe)] == ["n2"]


def test_where_packets_are_lost_a_closed_link_alone_is_no_failure() -> None:
    house = House()
    luck = random.Random(3)
    house.lossy = lambda _: luck.random() < 0.05
    house.run(3_000)
    commands = house.membership.link_closed(b"n2", house.now)
    assert [c.node for c in commands if isinstance(c, Probe)] == ["n2"]
    house.cut = {"n2"}
    house.run(500)
    assert not house.failures
    house.membership.probed("n2", 1, refused=True, now=house.now)
    assert house.reasons() == [("n2", "connection refused")]


@pytest.mark.parametrize("lossy", [False, True])
def test_where_packets_are_lost_a_link_is_broken_only_if_the_complaint_lasts(lossy: bool) -> None:
    house = House()
    luck = random.Random(3)
    if lossy:
        house.lossy = lambda _: luck.random() < 0.05
    house.run(3_000)

    def complain() -> None:
        house.membership.accused(house.membership.nodes["n1"], "n2", 1, house.now)
        house.membership.probed("n2", 1, refused=False, now=house.now)

    complain()
    assert house.broken == ([] if lossy else [("n1", "n2")])
    house.run(FORGET_MS + 100)
    complain()
    house.broken.clear()
    for _ in range(LASTING_MS // 100 + 1):
        house.run(100)
        complain()
    assert ("n1", "n2") in house.broken
