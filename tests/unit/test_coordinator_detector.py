"""Judging silence: timeouts, jitter, the observer's own stalls, silence of most at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.detector import MS, Detector, Verdict

NAMES = ("n1", "n2", "n3", "n4", "n5")


class Watch:
    """A detector in virtual time, checked when it is due, and what it said."""

    def __init__(self, timeout_ms: float = 30, nodes: Sequence[str] = NAMES) -> None:
        self.detector = Detector(timeout_ms)
        self.nodes = nodes
        self.now = 7_000 * MS
        for node in nodes:
            self.detector.watch(node, self.now)
        self.due = self.detector.due(self.now, nodes)

    def pass_time(
        self, ms: float, beating: Sequence[str] = (), every_ms: int = 10
    ) -> list[Verdict]:
        """Time passes in milliseconds; the beating nodes beat. Verdicts that say something."""
        verdicts = []
        for elapsed in range(1, int(ms) + 1):
            self.now += MS
            if elapsed % every_ms == 0:
                for node in beating:
                    self.detector.heard(node, self.now)
            if self.now >= self.due:
                verdicts.append(self.detector.check(self.now, self.nodes))
                self.due = self.detector.due(self.now, self.nodes)
        return [verdict for verdict in verdicts if verdict != Verdict()]

    def timeout_ms(self, node: str) -> float:
        return self.detector.timeout_ns(node) / MS


def others(*silent: str) -> list[str]:
    return [node for node in NAMES if node not in silent]


# --- timeouts -----------------------------------------------------------------------------


def test_a_node_is_silent_after_its_timeout_and_not_before() -> None:
    watch = Watch(timeout_ms=30)
    assert watch.pass_time(30, others("n3")) == []
    assert watch.pass_time(1, others("n3")) == [Verdict(("n3",))]


def test_the_next_check_is_due_just_after_the_first_timeout_that_can_expire() -> None:
    detector = Detector(30)
    detector.watch("n1", 0)
    detector.watch("n2", 0)
    detector.heard("n1", 20 * MS)
    assert detector.due(22 * MS, ("n1",)) == 42 * MS  # at least every 20 ms
    assert detector.due(22 * MS, ("n1", "n2")) == 30 * MS + 1
    assert detector.check(30 * MS, ("n1", "n2")) == Verdict()
    assert detector.check(30 * MS + 1, ("n1", "n2")) == Verdict(("n2",))


def test_an_overdue_node_does_not_make_the_observer_spin() -> None:
    detector = Detector(30)
    detector.watch("n1", 0)
    assert detector.due(500 * MS, ("n1",)) == 501 * MS


def test_only_the_nodes_asked_about_are_judged() -> None:
    detector = Detector(30)
    for node in NAMES:
        detector.watch(node, 0)
    assert detector.check(40 * MS, ()) == Verdict()
    assert detector.check(40 * MS, ("n4", "nobody")) == Verdict(("n4",))


def test_what_is_forgotten_is_not_expected_any_more() -> None:
    watch = Watch()
    watch.detector.forget("n3")
    watch.detector.heard("n3", watch.now)  # its last words do not bring it back
    assert watch.pass_time(200, others("n3")) == []
    assert watch.detector.silence_ns("n3", watch.now) == 0


def test_a_node_that_was_watched_again_starts_afresh() -> None:
    watch = Watch()
    watch.pass_time(200, others("n3"))
    watch.detector.watch("n3", watch.now)
    assert watch.detector.silence_ns("n3", watch.now) == 0
    assert watch.timeout_ms("n3") == 30


# --- jitter -------------------------------------------------------------------------------


def test_the_timeout_grows_to_one_and_a_half_times_the_largest_gap() -> None:
    watch = Watch(timeout_ms=30)
    watch.pass_time(40, NAMES, every_ms=40)
    assert watch.timeout_ms("n1") == 60
    watch.pass_time(100, NAMES, every_ms=10)
    assert watch.timeout_ms("n1") == 60  # smaller gaps do not shrink it at once


def test_gaps_within_the_timeouts_share_leave_it_as_configured() -> None:
    watch = Watch(timeout_ms=30)
    watch.pass_time(200, NAMES, every_ms=20)
    assert watch.timeout_ms("n1") == 30


def test_every_node_has_a_timeout_of_its_own() -> None:
    watch = Watch(timeout_ms=30)
    for _ in range(5):
        watch.pass_time(20, others("n1"))
        watch.pass_time(20, NAMES, every_ms=20)
    assert watch.timeout_ms("n1") == 60
    assert watch.timeout_ms("n2") == 30


def test_the_timeout_grows_to_ten_times_the_configured_one_and_no_further() -> None:
    watch = Watch(timeout_ms=30)
    watch.detector.heard("n1", watch.now + 299 * MS)
    assert watch.timeout_ms("n1") == 300


def test_an_outage_is_not_taken_for_jitter() -> None:
    watch = Watch(timeout_ms=30)
    watch.detector.heard("n1", watch.now + 301 * MS)
    assert watch.timeout_ms("n1") == 30


def test_a_large_gap_is_forgotten_after_a_while() -> None:
    watch = Watch(timeout_ms=30, nodes=("n1",))
    watch.pass_time(100, ["n1"], every_ms=100)
    assert watch.timeout_ms("n1") == 150
    watch.pass_time(5_000, ["n1"])
    assert watch.timeout_ms("n1") == 150  # the bucket before still counts
    watch.pass_time(5_100, ["n1"])
    assert watch.timeout_ms("n1") == 30


# --- the observer doubts itself -----------------------------------------------------------


def test_an_observer_that_was_late_judges_nobody() -> None:
    watch = Watch(timeout_ms=30)
    late = watch.detector.check(watch.due + 16 * MS, NAMES)
    assert late == Verdict(late_ns=16 * MS)


def test_a_check_that_is_a_little_late_judges_as_ever() -> None:
    watch = Watch(timeout_ms=30)
    watch.pass_time(30, others("n3"))
    assert watch.detector.check(watch.due + 15 * MS, NAMES) == Verdict(("n3",))


def test_after_a_stall_whoever_is_heard_is_alive_and_the_dead_are_found_soon() -> None:
    watch = Watch(timeout_ms=30)
    watch.now += 500 * MS
    verdict = watch.detector.check(watch.now, NAMES)
    watch.due = watch.detector.due(watch.now, NAMES)
    assert verdict.late_ns > 0
    assert watch.pass_time(15, others("n3")) == []
    assert watch.pass_time(1, others("n3")) == [Verdict(("n3",))]


def test_a_stall_lends_nobody_more_silence_than_a_fresh_heartbeat_would() -> None:
    watch = Watch(timeout_ms=30, nodes=("n1",))
    watch.now += 500 * MS
    watch.detector.heard("n1", watch.now - MS)
    watch.detector.check(watch.now, ("n1",))
    assert watch.detector.silence_ns("n1", watch.now) == MS


def test_the_first_check_is_never_late() -> None:
    detector = Detector(30)
    for node in NAMES:
        detector.watch(node, 0)
        detector.heard(node, 9_000 * MS)
    assert detector.check(9_010 * MS, NAMES) == Verdict()


# --- silence of most at once --------------------------------------------------------------


def test_silence_of_most_nodes_at_once_is_held_for_three_timeouts() -> None:
    watch = Watch(timeout_ms=30)
    silent = ("n2", "n3", "n5")
    verdicts = watch.pass_time(90, others(*silent))
    assert verdicts
    assert set(verdicts) == {Verdict((), silent)}
    assert Verdict(silent) in watch.pass_time(2, others(*silent))


def test_nodes_that_are_heard_again_while_held_were_never_silent() -> None:
    watch = Watch(timeout_ms=30)
    assert all(not verdict.silent for verdict in watch.pass_time(80))
    for node in NAMES:
        watch.detector.heard(node, watch.now)
    assert watch.pass_time(200, NAMES) == []


def test_silence_of_less_than_most_is_not_held() -> None:
    watch = Watch(timeout_ms=30)
    assert watch.pass_time(31, others("n1", "n2")) == [Verdict(("n1", "n2"))]
    half = Watch(timeout_ms=30, nodes=NAMES[:4])
    assert half.pass_time(31, ["n3", "n4"]) == [Verdict(("n1", "n2"))]


@pytest.mark.parametrize("nodes", [("n1",), ("n1", "n2")])
def test_a_single_silent_node_is_not_held_however_few_there_are(nodes: tuple[str, ...]) -> None:
    watch = Watch(timeout_ms=30, nodes=nodes)
    assert watch.pass_time(31, nodes[1:]) == [Verdict(("n1",))]


def test_silence_of_everybody_is_held_as_long_as_it_lasts() -> None:
    watch = Watch(timeout_ms=30)
    verdicts = watch.pass_time(5_000)
    assert verdicts
    assert set(verdicts) == {Verdict((), NAMES)}


def test_after_a_long_silence_of_everybody_the_others_get_two_seconds_to_come_back() -> None:
    watch = Watch(timeout_ms=30)
    watch.pass_time(1_000)
    watch.detector.heard("n1", watch.now)
    verdicts = watch.pass_time(1_950, ["n1"])
    assert set(verdicts) == {Verdict((), tuple(others("n1")))}
    assert Verdict(tuple(others("n1"))) in watch.pass_time(100, ["n1"])


def test_after_a_short_silence_of_everybody_the_others_get_as_long_as_it_lasted() -> None:
    watch = Watch(timeout_ms=30)
    watch.pass_time(60)
    watch.detector.heard("n1", watch.now)
    verdicts = watch.pass_time(50, ["n1"])
    assert all(not verdict.silent for verdict in verdicts)
    assert Verdict(tuple(others("n1"))) in watch.pass_time(50, ["n1"])


# --- whatever happens ---------------------------------------------------------------------


@settings(deadline=None)
@given(
    timeout_ms=st.integers(2, 1000),
    shares=st.lists(
        st.lists(st.floats(0.01, 1.0), min_size=20, max_size=60), min_size=1, max_size=5
    ),
    delays=st.lists(st.floats(0, 3), min_size=1, max_size=20),
)
def test_a_node_whose_gaps_stay_within_the_timeout_is_never_silent(
    timeout_ms: int, shares: list[list[float]], delays: list[float]
) -> None:
    """However nodes jitter within the timeout, and however late the observer is."""
    detector = Detector(timeout_ms)
    beats = []
    for index, gaps in enumerate(shares):
        at = 0
        detector.watch(NAMES[index], at)
        for share in gaps:
            at += int(share * timeout_ms * MS)
            beats.append((at, NAMES[index]))
    names = NAMES[: len(shares)]
    ends = {name: max(at for at, node in beats if node == name) for name in names}
    beats.sort()
    now = heard = checks = 0
    while now < min(ends.values()):
        delay_ns = int(delays[checks % len(delays)] * timeout_ms * MS)
        now = min(detector.due(now, names) + delay_ns, *ends.values())
        while heard < len(beats) and beats[heard][0] <= now:
            at, name = beats[heard]
            detector.heard(name, at)
            heard += 1
        verdict = detector.check(now, names)
        assert not verdict.silent
        assert not verdict.held
        checks += 1
    assert checks


@settings(deadline=None)
@given(
    timeout_ms=st.integers(2, 1000),
    gaps_ms=st.lists(st.integers(1, 12_000), max_size=40),
)
def test_the_timeout_stays_between_the_configured_one_and_ten_times_it(
    timeout_ms: int, gaps_ms: list[int]
) -> None:
    detector = Detector(timeout_ms)
    detector.watch("n1", 0)
    now = 0
    for gap in gaps_ms:
        now += gap * MS
        detector.heard("n1", now)
        assert timeout_ms * MS <= detector.timeout_ns("n1") <= 10 * timeout_ms * MS
    now += 10 * timeout_ms * MS + 1
    assert detector.check(now, ("n1",)) == Verdict(("n1",))
