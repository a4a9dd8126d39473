"""The book-keeping of requests at an ingress, as scenarios: what was asked, and what came of it."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.ingress_core import (
    MAX_ATTEMPTS,
    MAX_CLIENTS,
    MAX_SENDS,
    ONE_EVENT_MS,
    Command,
    Forward,
    IngressCore,
    Limits,
    ToClient,
)
from agent.plan_holder import InForce
from continuer import wire
from continuer.errors import WireError
from continuer.plan import Hop, Member, Step, Technique, Version
from continuer.wire import (
    Accepted,
    Hello,
    Message,
    Notice,
    Problem,
    Refuse,
    Rejected,
    Reply,
    Result,
    Submit,
    TensorMeta,
    Welcome,
    Work,
)
from tests.unit.harness import BUNDLE, MS

CLIENT = b"client-0123456789"
LINK = b"link"
INPUT = BUNDLE.manifest.input.tensors
IMAGE = bytes(INPUT[0].nbytes)
LOGITS = np.arange(10, dtype=np.float32)
FULL = BUNDLE.path()
EXIT = BUNDLE.path(exit_name="exit03")
SKIP = BUNDLE.path(skipped=["block07", "block08"])


def step_over(
    nodes: Sequence[str], path: Sequence[str] = FULL, technique: Technique = "none"
) -> Step:
    """A step that runs the path in equal runs over the nodes."""
    ids = [BUNDLE.part_ids[name] for name in path]
    bounds = [round(i * len(ids) / len(nodes)) for i in range(len(nodes) + 1)]
    runs = [tuple(ids[a:b]) for a, b in itertools.pairwise(bounds)]
    route = tuple(Hop(node, 1, run) for node, run in zip(nodes, runs, strict=True))
    accuracy = BUNDLE.measured_accuracy(path)
    assert accuracy is not None
    exit_name, _ = BUNDLE.variant_of(path)
    return Step(technique, exit_name, route, accuracy, 3.0, 5.0, 500.0)


class Entrance:
    """An ingress core in virtual time, with its clients and the plans it is given."""

    def __init__(self, *, planned: bool = True, **limits: Any) -> None:
        self.core = IngressCore("continuer", "n1", 11, BUNDLE, Limits(**limits))
        self.now = 5_000 * MS
        self.number = 0
        self.said: list[Command] = []
        if planned:
            self.plan("n1", "n2", "n3")

    def plan(
        self,
        *nodes: str,
        failed: Sequence[str] = (),
        path: Sequence[str] = FULL,
        technique: Technique = "none",
        draining: Sequence[str] = (),
    ) -> list[Command]:
        """A step over these nodes is put in force."""
        self.number += 1
        step = step_over(nodes, path, technique)
        version = Version(1, self.number)
        order = InForce(version, "default", step, frozenset(failed), frozenset(draining))
        return self.hear(self.core.on_step(order, self.now))

    def submit(
        self, seq: int = 1, *, link: bytes = LINK, frames: Sequence[Any] = (IMAGE,), **changes: Any
    ) -> list[Command]:
        """A client sends a request, well-formed but for the changes."""
        request = Submit("continuer", CLIENT, seq, "default", "", 1_000_000, 1, wire.metas(INPUT))
        request = msgspec.structs.replace(request, **changes)
        return self.hear(self.core.on_submit(link, request, frames, self.now))

    def answer(
        self, work: Work, frames: Sequence[Any] | None = None, **changes: Any
    ) -> list[Command]:
        """The last stage of the work's route answers, well-formed but for the changes."""
        result = msgspec.structs.replace(result_of(work), **changes)
        return self.hear(
            self.core.on_result(result, [LOGITS.tobytes()] if frames is None else frames)
        )

    def complain(self, work: Work, **changes: Any) -> list[Command]:
        """A stage could not run its part of the work."""
        problem = Problem(
            work.cluster, work.client, work.seq, work.origin_incarnation, work.attempt,
            "n2", "failed", "block05 is damaged",
        )  # fmt: skip
        problem = msgspec.structs.replace(problem, **changes)
        return self.hear(self.core.on_problem(problem, self.now))

    def wait(self, ms: float) -> list[Command]:
        """Time passes, with a tick every 10 ms as in the thread around the core."""
        commands: list[Command] = []
        end = self.now + int(ms * MS)
        while self.now < end:
            self.now = min(end, self.now + 10 * MS)
            commands += self.core.on_tick(self.now)
        return self.hear(commands)

    def hear(self, commands: list[Command]) -> list[Command]:
        self.said += commands
        return commands

    @property
    def inflight_bytes(self) -> int:
        return self.core._bytes


def result_of(work: Work) -> Result:
    """What the last stage of the work's route sends."""
    metas = wire.metas(BUNDLE.parts["head"].outputs)
    return Result(
        work.cluster, work.client, work.seq, work.origin_incarnation, work.attempt,
        work.version, work.route, 900, metas,
    )  # fmt: skip


def forwards(commands: Sequence[Command]) -> list[Forward]:
    return [command for command in commands if isinstance(command, Forward)]


def work_of(commands: Sequence[Command]) -> Work:
    """The only piece of work among the commands."""
    (forward,) = forwards(commands)
    return forward.work


def told(commands: Sequence[Command]) -> list[Message]:
    """What clients are told."""
    return [command.message for command in commands if isinstance(command, ToClient)]


def reply_of(commands: Sequence[Command]) -> Reply:
    """The only message to a client, which is an answer."""
    (message,) = told(commands)
    assert isinstance(message, Reply)
    return message


def rejection_of(commands: Sequence[Command]) -> Rejected:
    """The only message to a client, which is an error."""
    (message,) = told(commands)
    assert isinstance(message, Rejected)
    return message


# --- the ordinary course ------------------------------------------------------------------


def test_an_accepted_request_is_forwarded_to_the_first_node_by_the_plan() -> None:
    entrance = Entrance()
    (forward,) = forwards(entrance.submit(seq=7, request_class="camera"))
    assert (forward.node, forward.incarnation, forward.frames) == ("n1", 1, (IMAGE,))
    work = forward.work
    assert work.route == step_over(("n1", "n2", "n3")).route
    assert (work.client, work.seq, work.request_class) == (CLIENT, 7, "camera")
    assert (work.origin, work.origin_incarnation) == ("n1", 11)
    assert (work.cursor, work.attempt, work.remaining_us) == (0, 1, 1_000_000)
    assert (work.version, work.bundle) == (Version(1, 1), BUNDLE.hash[:16])
    assert work.tensors == wire.metas(INPUT)
    assert entrance.core.inflight == 1
    assert entrance.inflight_bytes == len(IMAGE)


def test_the_answer_goes_to_the_client_with_how_it_was_made() -> None:
    entrance = Entrance()
    work = work_of(entrance.submit())
    (command,) = entrance.answer(work)
    assert isinstance(command, ToClient)
    assert (command.link, list(command.frames)) == (LINK, [LOGITS.tobytes()])
    assert command.message == Reply(
        1, "none", None, FULL, ("n1", "n2", "n3"), Version(1, 1), 0.8694, 1,
        wire.metas(BUNDLE.parts["head"].outputs),
    )  # fmt: skip


def test_a_request_has_one_outcome_however_often_its_answer_comes() -> None:
    entrance = Entrance()
    work = work_of(entrance.submit())
    assert len(told(entrance.answer(work))) == 1
    assert entrance.answer(work) == []
    assert entrance.complain(work) == []
    assert entrance.wait(3000) == []
    assert entrance.core.counters.late == 1
    assert entrance.core.counters.answered == 1
    assert (entrance.core.inflight, entrance.inflight_bytes) == (0, 0)


def test_what_is_in_flight_is_counted_in_bytes_until_its_outcome() -> None:
    entrance = Entrance()
    works = [work_of(entrance.submit(seq)) for seq in range(3)]
    assert entrance.inflight_bytes == 3 * len(IMAGE)
    entrance.answer(works[1])
    assert entrance.inflight_bytes == 2 * len(IMAGE)
    entrance.wait(1000)  # the others run out of budget
    assert entrance.inflight_bytes == 0


def test_only_a_slow_request_is_acknowledged_on_the_way_and_only_once() -> None:
    entrance = Entrance()
    entrance.submit(1)
    entrance.answer(work_of(entrance.said))
    entrance.submit(2)
    assert told(entrance.wait(10)) == []
    assert told(entrance.wait(10)) == [Accepted(2)]
    assert told(entrance.wait(200)) == []


# --- duplicates ---------------------------------------------------------------------------


def test_a_request_submitted_again_is_acknowledged_and_not_sent_again() -> None:
    entrance = Entrance()
    entrance.submit(1)
    assert entrance.submit(1) == [ToClient(LINK, Accepted(1))]
    assert told(entrance.wait(100)) == []  # it was acknowledged once
    assert entrance.core.counters.accepted == 1
    assert entrance.inflight_bytes == len(IMAGE)


def test_the_answer_goes_to_the_link_that_asked_last() -> None:
    entrance = Entrance()
    work = work_of(entrance.submit(1, link=b"old"))
    entrance.submit(1, link=b"new")
    (command,) = entrance.answer(work)
    assert isinstance(command, ToClient)
    assert command.link == b"new"


def test_the_same_number_of_another_client_is_another_request() -> None:
    entrance = Entrance()
    first = work_of(entrance.submit(1))
    second = work_of(entrance.submit(1, client=b"another", link=b"other"))
    assert entrance.core.inflight == 2
    (command,) = entrance.answer(second)
    assert isinstance(command, ToClient)
    assert command.link == b"other"
    assert len(told(entrance.answer(first))) == 1


# --- refusals -----------------------------------------------------------------------------

IMAGE_META = wire.metas(INPUT)[0]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"cluster": "staging"}, "bad_input", ["cluster", "'staging'", "'continuer'"]),
        ({"deployment": "vgg"}, "unknown_model", ["model", "'vgg'", "'resnet32-cifar10'"]),
        ({"budget_us": 0}, "bad_input", ["budget_us", "0", "give 1 to 3600000000"]),
        ({"budget_us": -5}, "bad_input", ["budget_us", "-5", "give 1 to 3600000000"]),
        ({"budget_us": 3_600_000_001}, "bad_input", ["3600000001", "give 1 to 3600000000"]),
        ({"client": b"c" * 129}, "bad_input", ["client", "129 bytes", "at most 128"]),
        ({"request_class": "c" * 129}, "bad_input", ["request_class", "129 bytes", "at most 128"]),
        ({"tensors": ()}, "bad_input", ["1 tensor frames for 0 descriptions"]),
        (
            {"tensors": (TensorMeta("int16", (1, 32, 32, 6)),)},
            "bad_input",
            ["'image'", "shape (1, 32, 32, 6)", "give (1, 32, 32, 3)"],
        ),
        (
            {"tensors": (TensorMeta("int32", (1, 32, 32, 3)),)},
            "bad_input",
            ["'image'", "dtype int32", "give float32"],
        ),
        (
            {"tensors": (TensorMeta("float32", (1, 32, 32, 1)),)},
            "bad_input",
            ["tensor 0", "12288 bytes", "float32", "(1, 32, 32, 1)"],
        ),
        ({"tensors": (TensorMeta("complex", (1,)),)}, "bad_input", ["'complex'", "float32"]),
        ({"tensors": (TensorMeta("float32", (-1,)),)}, "bad_input", ["tensor 0", "(-1,)"]),
    ],
)
def test_what_cannot_be_served_is_refused_with_field_value_and_remedy(
    changes: dict[str, Any], code: str, words: list[str]
) -> None:
    entrance = Entrance()
    commands = entrance.submit(4, **changes)
    rejected = rejection_of(commands)
    assert (rejected.seq, rejected.code) == (4, code)
    assert all(word in rejected.message for word in words), rejected.message
    assert len(commands) == 1
    assert entrance.core.counters.refused == 1
    assert (entrance.core.inflight, entrance.inflight_bytes) == (0, 0)


def test_two_tensors_for_a_network_of_one_are_refused() -> None:
    entrance = Entrance()
    rejected = rejection_of(
        entrance.submit(frames=(IMAGE, IMAGE), tensors=(IMAGE_META, IMAGE_META))
    )
    assert (rejected.code, rejected.message) == ("bad_input", "2 tensors; give 1")


@pytest.mark.parametrize("name", ["", "default", "resnet32-cifar10"])
def test_the_model_may_be_named_by_deployment_by_model_or_not_at_all(name: str) -> None:
    assert forwards(Entrance().submit(deployment=name))


def test_without_a_plan_nothing_is_accepted() -> None:
    entrance = Entrance(planned=False)
    rejected = rejection_of(entrance.submit())
    assert rejected.code == "no_plan"
    assert "try again" in rejected.message
    entrance.plan("n2")
    assert forwards(entrance.submit())


def test_it_is_busy_when_so_many_requests_are_in_flight() -> None:
    entrance = Entrance(max_inflight=2)
    work = work_of(entrance.submit(1))
    entrance.submit(2)
    rejected = rejection_of(entrance.submit(3))
    assert rejected.code == "busy"
    assert "2 requests are in flight" in rejected.message
    entrance.answer(work)
    assert forwards(entrance.submit(3))


def test_it_is_busy_when_so_many_bytes_are_in_flight() -> None:
    entrance = Entrance(max_inflight_bytes=2 * len(IMAGE))
    work = work_of(entrance.submit(1))
    entrance.submit(2)
    rejected = rejection_of(entrance.submit(3))
    assert rejected.code == "busy"
    assert f"{2 * len(IMAGE)} bytes are in flight" in rejected.message
    entrance.answer(work)
    assert forwards(entrance.submit(3))


@pytest.mark.parametrize("field", ["cluster", "deployment"])
def test_a_refusal_fits_its_header_whatever_it_quotes(field: str) -> None:
    changes: dict[str, Any] = {field: "\0" * 3900}
    (message,) = told(Entrance().submit(**changes))
    assert wire.decode(wire.encode(message), Rejected) == message


def test_the_longest_labels_that_are_accepted_leave_room_for_a_long_route() -> None:
    entrance = Entrance(planned=False)
    entrance.plan(*(f"{'n' * 60}{i:02}" for i in range(17)))
    work = work_of(entrance.submit(client=b"c" * 128, request_class="c" * 128))
    assert wire.decode(wire.encode(work), Work) == work


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
    assert forwards(entrance.wait(290)) == []
    assert work_of(entrance.wait(10)).attempt == 3


def test_a_request_is_sent_three_times_at_most_and_then_waits_for_its_deadline() -> None:
    entrance = Entrance(resend_after_ms=100)
    entrance.submit(budget_us=2_000_000)
    commands = entrance.wait(1990)
    assert len(forwards(commands)) == MAX_ATTEMPTS - 1
    assert told(commands) == [Accepted(1)]
    assert rejection_of(entrance.wait(10)).code == "deadline"


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
    rejected = rejection_of(entrance.plan("n1", failed=["n2", "n3"]))
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
    assert rejection_of(entrance.plan("n1", failed=["n2", "n3"])).code == "quarantined"


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
    entrance = Entrance(resend_after_ms=2 * ONE_EVENT_MS)
    entrance.submit(budget_us=60_000_000)
    assert len(forwards(entrance.wait(5.5 * ONE_EVENT_MS))) == 2
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
    assert not isinstance(event, Forward | ToClient)
    assert event.name == "request_failed"
    assert event.fields["code"] == "deadline"


# --- answers ------------------------------------------------------------------------------


def test_a_late_answer_of_an_older_attempt_counts_and_the_later_one_does_not() -> None:
    entrance = Entrance()
    first = work_of(entrance.submit())
    second = work_of(entrance.complain(first))
    assert reply_of(entrance.answer(first)).attempt == 1
    assert entrance.answer(second) == []
    assert entrance.core.counters.late == 1


def test_an_answer_is_tagged_with_the_step_it_was_sent_by() -> None:
    entrance = Entrance()
    work = work_of(entrance.submit())
    entrance.plan("n1", path=EXIT, technique="early_exit")
    reply = reply_of(entrance.answer(work))
    assert (reply.technique, reply.exit, reply.version) == ("none", None, Version(1, 1))
    assert reply.expected_accuracy == 0.8694
    later = work_of(entrance.submit(2))
    reply = reply_of(entrance.answer(later))
    assert (reply.technique, reply.exit, reply.version) == ("early_exit", "exit03", Version(1, 2))
    assert reply.expected_accuracy == 0.7907
    assert reply.path == EXIT


def test_a_late_answer_is_tagged_with_the_step_of_its_own_attempt() -> None:
    entrance = Entrance()
    first = work_of(entrance.submit())
    entrance.now += 50 * MS
    assert forwards(entrance.plan("n1", failed=["n2"], path=EXIT, technique="early_exit"))
    reply = reply_of(entrance.answer(first))
    assert (reply.technique, reply.version, reply.attempt) == ("none", Version(1, 1), 1)
    assert reply.expected_accuracy == 0.8694


def test_an_answer_names_the_path_that_was_really_taken() -> None:
    entrance = Entrance()
    work = work_of(entrance.submit())
    taken = step_over(("n1", "n4"), EXIT).route
    reply = reply_of(entrance.answer(work, route=taken))
    assert (reply.path, reply.nodes, reply.exit) == (EXIT, ("n1", "n4"), "exit03")


def test_an_answer_to_an_earlier_life_of_this_agent_is_late() -> None:
    entrance = Entrance()
    work = work_of(entrance.submit())
    assert entrance.answer(work, origin_incarnation=10) == []
    assert entrance.core.counters.late == 1
    assert entrance.core.inflight == 1


@pytest.mark.parametrize(
    ("changes", "frames"),
    [
        ({"attempt": 0}, None),
        ({"attempt": 2}, None),
        ({"route": ()}, None),
        ({"route": (Hop("n1", 1, ()),)}, None),
        ({"route": (Hop("n1", 1, (0, 33)),)}, None),
        ({"route": (Hop("n1", 1, (-1,)),)}, None),
        ({"route": (Hop("n1", 1, (0,)),)}, None),  # logits are no output of the stem
        ({}, []),
        ({}, [LOGITS.tobytes()[:-1]]),
        ({}, [LOGITS.tobytes(), LOGITS.tobytes()]),
        ({"tensors": (TensorMeta("float64", (1, 5)),)}, None),
        ({"tensors": (TensorMeta("float32", (10,)),)}, None),
    ],
)
def test_a_damaged_answer_is_an_error_of_the_wire_and_the_request_stays(
    changes: dict[str, Any], frames: list[bytes] | None
) -> None:
    entrance = Entrance()
    work = work_of(entrance.submit())
    with pytest.raises(WireError):
        entrance.answer(work, frames, **changes)
    assert entrance.core.inflight == 1
    assert reply_of(entrance.answer(work)).seq == 1


# --- clients ------------------------------------------------------------------------------


def test_a_client_that_introduces_itself_learns_what_is_served_and_where_else() -> None:
    entrance = Entrance(planned=False)
    members = tuple(Member(n, 1, "d", "a", f"tcp://{n}:7410") for n in ("n1", "n2"))
    entrance.core.on_members(members)
    entrance.plan("n2", failed=["n3"])
    (message,) = told(entrance.core.on_hello(LINK, Hello("continuer", CLIENT)))
    assert isinstance(message, Welcome)
    assert (message.node, message.incarnation, message.model) == ("n1", 11, "resnet32-cifar10")
    assert message.ingresses == (("n1", "tcp://n1:7410"), ("n2", "tcp://n2:7410"))
    assert (message.preferred, message.unavailable) == ("n2", ("n3",))
    view = msgspec.json.decode(message.manifest)
    assert view["input"]["tensors"][0]["shape"] == [1, 32, 32, 3]
    assert len(view["classes"]) == 10


def test_a_client_of_another_cluster_is_refused() -> None:
    (message,) = told(Entrance().core.on_hello(LINK, Hello("staging" * 500, CLIENT)))
    assert isinstance(message, Refuse)
    assert message.code == "cluster"
    assert "cluster = 'staging" in message.message
    assert wire.decode(wire.encode(message), Refuse) == message


def test_clients_are_told_of_every_change_until_they_are_gone() -> None:
    entrance = Entrance()
    entrance.core.on_hello(b"a", Hello("continuer", b"a"))
    entrance.core.on_hello(b"b", Hello("continuer", b"b"))
    commands = entrance.plan("n3", failed=["n1", "n2"])
    assert commands == [
        ToClient(link, Notice(Version(1, 2), "n3", ("n1", "n2"), ())) for link in (b"a", b"b")
    ]
    entrance.core.forget_client(b"a")
    assert [c.link for c in entrance.plan("n3") if isinstance(c, ToClient)] == [b"b"]


def test_the_clients_longest_silent_get_no_notices_beyond_the_limit() -> None:
    entrance = Entrance()
    links = [str(number).encode() for number in range(MAX_CLIENTS)]
    for link in (*links, links[0], b"one more"):
        entrance.core.on_hello(link, Hello("continuer", link))
    noticed = {c.link for c in entrance.plan("n1") if isinstance(c, ToClient)}
    assert noticed == {*links, b"one more"} - {links[1]}


# --- whatever happens ---------------------------------------------------------------------


class Chaos:
    """A seeded schedule of requests, answers, failures and time, checked as it goes."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.limit = self.chance.choice([3, 8]) * len(IMAGE)
        self.entrance = Entrance(
            max_inflight=self.chance.choice([4, 6]),
            max_inflight_bytes=self.limit,
            resend_after_ms=self.chance.choice([30, 100]),
        )
        self.nodes = ["n1", "n2", "n3", "n4", "n5"]
        self.failed: set[str] = set()
        self.works: list[Work] = []
        self.accepted: set[int] = set()
        self.outcomes: Counter[int] = Counter()
        self.sends: Counter[int] = Counter()
        self.seq = 0

    def act(self) -> None:
        """One event of any kind, then the checks."""
        kinds = [self.ask, self.ask, self.ask_again, self.answer, self.answer]
        kinds += [self.damage, self.complain, self.change, self.let_pass]
        self.note(self.chance.choice(kinds)())
        assert 0 <= self.entrance.inflight_bytes <= self.limit
        assert self.entrance.inflight_bytes == self.entrance.core.inflight * len(IMAGE)
        assert set(self.outcomes) <= self.accepted
        assert max(self.outcomes.values(), default=1) == 1
        assert max(self.sends.values(), default=0) <= MAX_SENDS

    def ask(self) -> list[Command]:
        self.seq += 1
        commands = self.entrance.submit(self.seq, budget_us=self.chance.choice([20_000, 400_000]))
        if forwards(commands):
            self.accepted.add(self.seq)
            return commands
        assert rejection_of(commands).code == "busy"
        return []

    def ask_again(self) -> list[Command]:
        open_ones = sorted(self.accepted - set(self.outcomes))
        if not open_ones:
            return []
        commands = self.entrance.submit(self.chance.choice(open_ones))
        assert [type(message) for message in told(commands)] == [Accepted]
        return commands

    def answer(self) -> list[Command]:
        return self.entrance.answer(self.chance.choice(self.works)) if self.works else []

    def damage(self) -> list[Command]:
        if not self.works:
            return []
        work = self.chance.choice(self.works)
        if work.seq in self.outcomes:
            return self.entrance.answer(work, [b"short"])  # late ones are not looked into
        with pytest.raises(WireError):
            self.entrance.answer(work, [b"short"])
        return []

    def complain(self) -> list[Command]:
        return self.entrance.complain(self.chance.choice(self.works)) if self.works else []

    def change(self) -> list[Command]:
        self.failed = set(self.chance.sample(self.nodes, self.chance.randint(0, 4)))
        alive = [node for node in self.nodes if node not in self.failed]
        return self.entrance.plan(*alive, failed=sorted(self.failed))

    def let_pass(self) -> list[Command]:
        return self.entrance.wait(self.chance.choice([1, 15, 60]))

    def note(self, commands: list[Command]) -> None:
        for forward in forwards(commands):
            assert not {hop.node for hop in forward.work.route} & self.failed
            self.works.append(forward.work)
            self.sends[forward.work.seq] += 1
        for message in told(commands):
            if isinstance(message, Reply | Rejected):
                self.outcomes[message.seq] += 1


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_every_accepted_request_has_exactly_one_outcome(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(300):
        chaos.act()
    chaos.note(chaos.entrance.wait(2000))
    assert chaos.accepted
    assert chaos.outcomes == Counter(chaos.accepted)
    assert (chaos.entrance.core.inflight, chaos.entrance.inflight_bytes) == (0, 0)
    counters = chaos.entrance.core.counters
    assert counters.accepted == counters.answered + counters.failed == len(chaos.accepted)
