"""The book-keeping of requests at an ingress, as scenarios: what was asked, and what came of it."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from agent.ingress_core import (
    MAX_CLIENTS,
    MAX_SENDS,
    Command,
    ToClient,
)
from continuer import wire
from continuer.errors import WireError
from continuer.plan import ClassStep, Hop, Member, Version
from continuer.wire import (
    Accepted,
    Hello,
    Notice,
    Refuse,
    Rejected,
    Reply,
    TensorMeta,
    Welcome,
    Work,
)
from tests.unit.entrance import (
    CLIENT,
    EXIT,
    FULL,
    IMAGE,
    INPUT,
    LINK,
    LOGITS,
    Entrance,
    forwards,
    rejection_of,
    reply_of,
    step_over,
    told,
    work_of,
)
from tests.unit.harness import BUNDLE, MS

# --- the ordinary course ------------------------------------------------------------------


def test_an_accepted_request_is_forwarded_to_the_first_node_by_the_plan() -> None:
    entrance = Entrance(planned=False)
    entrance.plan("n1", "n2", "n3", classes=[ClassStep("camera")])
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
        wire.metas(BUNDLE.parts["head"].outputs), bundle=BUNDLE.hash[:16],
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
    nodes = [f"{'n' * 60}{i:02}" for i in range(17)]
    entrance.plan(*nodes, classes=[ClassStep("c" * 128)])
    work = work_of(entrance.submit(client=b"c" * 128, request_class="c" * 128))
    assert wire.decode(wire.encode(work), Work) == work


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


def test_an_answer_to_an_attempt_before_the_client_gave_up_and_came_back_is_late() -> None:
    entrance = Entrance()
    work = work_of(entrance.submit())
    assert entrance.answer(work, attempt=2) == []
    assert entrance.core.counters.late == 1
    assert reply_of(entrance.answer(work)).seq == 1


@pytest.mark.parametrize(
    ("changes", "frames"),
    [
        ({"attempt": 0}, None),
        ({"attempt": MAX_SENDS + 1}, None),
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
