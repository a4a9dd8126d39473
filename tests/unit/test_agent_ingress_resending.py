"""What an ingress does when nodes fail or stay silent under a request, and at its deadline."""

from __future__ import annotations

from agent.ingress_core import (
    LONGER,
    MAX_ATTEMPTS,
    ONE_EVENT_MS,
    VERDICT_MS,
    Forward,
)
from continuer.events import Event
from continuer.plan import Version
from continuer.wire import (
    Accepted,
    Rejected,
)
from tests.unit.entrance import (
    SKIP,
    Entrance,
    forwards,
    rejection_of,
    reply_of,
    told,
    work_of,
)
from tests.unit.harness import MS

# --- resending ----------------------------------------------------------------------------


def test_a_request_held_up_by_a_failed_node_is_sent_again_by_the_new_plan() -> None:
    entrance = Entrance()
    entrance.submit()
    entrance.now += 30 * MS
    work = work_of(entrance.plan("n1", "n3", failed=["n2"], path=SKIP, technique="skip"))
    assert work.attempt == 2
    assert work.version == Version(1, 2)
    assert work.remaining_us == 970_000  # what is left of the budget
    assert [hop.node for hop in work.route] == ["n1", "n3"]
    assert entrance.core.counters.resent == 1


def test_a_request_that_the_failed_node_does_not_hold_stays_where_it_is() -> None:
    entrance = Entrance()
    work = work_of(entrance.submit())
    assert forwards(entrance.plan("n1", "n2", "n3", failed=["n9"])) == []
    assert reply_of(entrance.answer(work)).attempt == 1


def test_a_request_that_was_sent_again_already_is_not_held_up_by_the_same_failure() -> None:
    entrance = Entrance()
    entrance.submit()
    entrance.plan("n1", "n3", failed=["n2"])
    assert forwards(entrance.plan("n3", failed=["n2"])) == []  # healed: the route still stands


def test_a_request_without_an_answer_is_sent_again_after_a_while() -> None:
    entrance = Entrance(resend_after_ms=300)
    entrance.submit(budget_us=5_000_000)
    assert forwards(entrance.wait(290)) == []
    assert work_of(entrance.wait(10)).attempt == 2


def test_the_last_attempt_is_kept_for_another_route() -> None:
    entrance = Entrance(resend_after_ms=100)
    entrance.submit(budget_us=2_000_000)
    commands = entrance.wait(100 + 100 * LONGER - 10)
    assert len(forwards(commands)) == MAX_ATTEMPTS - 2
    assert told(commands) == [Accepted(1)]
    assert work_of(entrance.plan("n1", "n3", failed=["n2"])).attempt == MAX_ATTEMPTS
    assert rejection_of(entrance.wait(2_000)).code == "deadline"


def test_where_no_new_plan_comes_it_goes_by_the_old_one_after_longer_and_longer_waits() -> None:
    entrance = Entrance(resend_after_ms=100)
    entrance.submit(budget_us=60_000_000)
    sent_ms = []
    for at_ms in range(10, 40_000, 10):
        sent_ms += [(at_ms, f.work.attempt) for f in forwards(entrance.wait(10))]
    assert sent_ms == [(100, 2), (500, 3), (2_100, 4), (8_500, 5)]
    # None of them took the attempt that a new plan needs.
    assert work_of(entrance.plan("n1", "n3", failed=["n2"])).attempt == 6


def test_a_stage_that_cannot_run_its_part_is_tried_again_and_then_an_error() -> None:
    entrance = Entrance()
    works = [work_of(entrance.submit())]
    for attempt in (2, 3):
        works.append(work_of(entrance.complain(works[-1])))
        assert works[-1].attempt == attempt
    rejected = rejection_of(entrance.complain(works[-1]))
    assert (rejected.code, rejected.message) == ("failed", "n2: block05 is damaged")
    assert entrance.core.counters.failed == 1
    assert entrance.inflight_bytes == 0


def test_a_complaint_about_an_older_attempt_changes_nothing() -> None:
    entrance = Entrance()
    first = work_of(entrance.submit())
    entrance.complain(first)
    assert entrance.complain(first) == []
    assert entrance.core.inflight == 1


def test_a_complaint_to_an_earlier_life_of_this_agent_changes_nothing() -> None:
    entrance = Entrance()
    work = work_of(entrance.submit())
    assert entrance.complain(work, origin_incarnation=10) == []


# --- deaths -------------------------------------------------------------------------------


def test_two_separate_deaths_under_a_request_put_it_in_quarantine() -> None:
    entrance = Entrance()
    entrance.submit()
    entrance.now += 50 * MS
    assert forwards(entrance.plan("n1", "n3", failed=["n2"]))
    entrance.now += 150 * MS
    assert entrance.plan("n1", failed=["n2", "n3"]) == []
    assert told(entrance.wait(VERDICT_MS - 1)) == [Accepted(1)]
    rejected = rejection_of(entrance.wait(2))
    assert rejected.code == "quarantined"
    assert "nodes died, one after another" in rejected.message
    assert entrance.inflight_bytes == 0


def test_a_request_whose_nodes_die_in_quick_succession_waits_and_is_then_tried_once_more() -> None:
    entrance = Entrance()
    entrance.submit()
    entrance.now += 50 * MS
    assert forwards(entrance.plan("n1", "n3", failed=["n2"]))
    entrance.now += 99 * MS
    assert not forwards(entrance.plan("n1", "n4", failed=["n2", "n3"]))
    # What dies while the request waits does not die of it.
    entrance.now += 40 * MS
    assert not forwards(entrance.plan("n1", failed=["n2", "n3", "n4"]))
    assert not forwards(entrance.wait(59))
    work = work_of(entrance.wait(2))
    assert reply_of(entrance.answer(work)).nodes == ("n1",)


def test_a_death_just_after_the_hundred_milliseconds_counts() -> None:
    entrance = Entrance()
    entrance.submit()
    entrance.now += 50 * MS
    entrance.plan("n1", "n3", failed=["n2"])
    entrance.now += 100 * MS
    assert entrance.plan("n1", failed=["n2", "n3"]) == []
    *_, rejected = told(entrance.wait(VERDICT_MS))
    assert isinstance(rejected, Rejected)
    assert rejected.code == "quarantined"


def test_a_node_that_was_only_silent_for_a_moment_condemns_no_request() -> None:
    """The second to be held dead is back, in the same life, before the verdict."""
    entrance = Entrance()
    entrance.submit()
    entrance.now += 50 * MS
    assert forwards(entrance.plan("n1", "n3", failed=["n2"]))
    entrance.now += 150 * MS
    assert not forwards(entrance.plan("n1", failed=["n2", "n3"]))
    entrance.now += 150 * MS
    work = work_of(entrance.plan("n1", "n3", failed=["n2"]))
    assert reply_of(entrance.answer(work)).nodes == ("n1", "n3")


def test_the_second_of_two_silent_nodes_counts_only_as_long_as_the_first_is_gone() -> None:
    entrance = Entrance()
    entrance.submit()
    entrance.now += 50 * MS
    assert forwards(entrance.plan("n1", "n3", failed=["n2"]))
    entrance.now += 150 * MS
    assert forwards(entrance.plan("n1", "n2", failed=["n3"]))


def test_a_request_that_kills_what_runs_it_takes_three_nodes_at_most() -> None:
    entrance = Entrance(planned=False)
    nodes = [f"n{i}" for i in range(1, 11)]
    entrance.plan(*nodes)
    killed = 0
    commands = entrance.submit()
    while entrance.core.inflight:
        if forwards(commands):  # whoever gets it is dead, and known to be, 4 ms later
            killed += 1
            entrance.now += 4 * MS
            commands = entrance.plan(*nodes[killed:], failed=nodes[:killed])
        else:
            commands = entrance.wait(10)
    assert rejection_of(commands).code == "quarantined"
    assert killed == 3  # not all ten


def test_a_failure_after_three_attempts_is_an_error_and_not_a_fourth() -> None:
    entrance = Entrance()
    works = [work_of(entrance.submit(budget_us=60_000_000))]
    for _ in range(2):
        works.append(work_of(entrance.complain(works[-1])))
    entrance.now += 2 * ONE_EVENT_MS * MS
    rejected = rejection_of(
        [c for c in entrance.plan("n1", "n3", failed=["n2"]) if not isinstance(c, Forward)]
    )
    assert rejected.code == "failed"
    assert "3 attempts" in rejected.message


# --- deadlines ----------------------------------------------------------------------------


def test_a_request_out_of_budget_ends_with_one_error() -> None:
    entrance = Entrance()
    work = work_of(entrance.submit(budget_us=80_000))
    assert told(entrance.wait(70)) == [Accepted(1)]
    rejected = rejection_of(entrance.wait(10))
    assert (rejected.seq, rejected.code) == (1, "deadline")
    assert "80 ms" in rejected.message
    assert entrance.wait(1000) == []
    assert entrance.answer(work) == []
    assert entrance.core.counters.late == 1
    assert (entrance.core.counters.failed, entrance.inflight_bytes) == (1, 0)


def test_a_request_out_of_budget_is_not_sent_again() -> None:
    entrance = Entrance(resend_after_ms=80)
    entrance.submit(budget_us=80_000)
    assert forwards(entrance.wait(500)) == []


def test_a_failure_is_put_in_the_journal() -> None:
    entrance = Entrance()
    entrance.submit(budget_us=10_000)
    event = entrance.wait(10)[-1]
    assert isinstance(event, Event)
    assert event.name == "request_failed"
    assert event.fields["code"] == "deadline"
