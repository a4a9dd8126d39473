"""The client's core: every request gets one outcome, whatever becomes of the ingresses."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from continuer.bundle import InputSpec, TensorSpec
from continuer.client_core import (
    ACCEPT_MS,
    MAX_SENDS,
    MS,
    ClientCore,
    Command,
    Complete,
    Connect,
    Pending,
    View,
)
from continuer.errors import RequestError
from continuer.plan import Version
from continuer.wire import (
    Accepted,
    Hello,
    Message,
    Notice,
    Refuse,
    Rejected,
    Reply,
    Submit,
    TensorMeta,
    Welcome,
)

CLIENT = bytes(range(16))
MANIFEST = msgspec.json.encode(View(InputSpec((TensorSpec("x", (1, 2)),)), ("cat", "dog")))
METAS = (TensorMeta("float32", (1, 2)),)
FRAMES = (b"\0" * 8,)
NODES = ("n1", "n2", "n3")
BUDGET_MS = 1000


def endpoint(node: str) -> str:
    return f"tcp://{node}:7410"


INGRESSES = tuple((node, endpoint(node)) for node in NODES)


def reply(seq: int, attempt: int = 1) -> Reply:
    return Reply(seq, "none", None, ("stem",), ("n1",), Version(1, 1), 0.8, attempt, METAS)


class Session:
    """A client core between an application and ingresses, in virtual time."""

    def __init__(self, *nodes: str) -> None:
        self.core = ClientCore("c", CLIENT, [endpoint(node) for node in nodes or NODES])
        self.now = 7_000 * MS
        self.submits: list[tuple[str, Submit]] = []
        self.outcomes: dict[int, list[Reply | RequestError]] = {}
        self.connects: list[str] = []
        self.hellos: list[str] = []
        self._sequence = 0

    def perform(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Complete):
                self.outcomes.setdefault(command.seq, []).append(command.outcome)
            elif isinstance(command, Connect):
                self.connects.append(command.endpoint)
            elif isinstance(command.message, Submit):
                assert command.frames is FRAMES
                self.submits.append((command.endpoint, command.message))
            else:
                assert command.message == Hello("c", CLIENT)
                self.hellos.append(command.endpoint)

    # --- what happens

    def connect(self, node: str) -> None:
        self.perform(self.core.on_connected(endpoint(node)))

    def welcome(self, node: str, number: int = 1, **changes: Any) -> None:
        """The ingress at this node introduces itself; number 0: it has no plan yet."""
        fields = {
            "cluster": "c",
            "node": node,
            "incarnation": 1,
            "deployment": "default",
            "model": "m",
            "bundle": CLIENT,
            "manifest": MANIFEST,
            "version": Version(1, number) if number else Version(),
            "ingresses": INGRESSES if number else (),
            "preferred": "n1" if number else None,
            "unavailable": (),
        }
        self.receive(node, Welcome(**{**fields, **changes}))

    def notice(self, node: str, number: int, *unavailable: str, preferred: str = "n1") -> None:
        self.receive(node, Notice(Version(1, number), preferred, unavailable, INGRESSES))

    def receive(self, node: str, message: Message) -> None:
        self.perform(self.core.on_message(endpoint(node), message, (), self.now))

    def disconnect(self, node: str) -> None:
        self.perform(self.core.on_disconnected(endpoint(node), self.now))

    def submit(self, budget_ms: float = BUDGET_MS) -> int:
        self._sequence += 1
        budget_ns = int(budget_ms * MS)
        pending = Pending(self._sequence, "", "", METAS, FRAMES, self.now + budget_ns, budget_ns)
        self.perform(self.core.submit(pending, self.now))
        return self._sequence

    def run(self, ms: int) -> None:
        for _ in range(ms):
            self.now += MS
            self.perform(self.core.on_tick(self.now))

    # --- what comes of it

    def sent_to(self, seq: int) -> list[str]:
        """The nodes that a request went to, in order."""
        by_endpoint = {endpoint(node): node for node in NODES}
        return [by_endpoint[where] for where, submit in self.submits if submit.seq == seq]

    def outcome(self, seq: int) -> Reply | RequestError | None:
        """The one outcome, if there is one."""
        found = self.outcomes.get(seq, [])
        assert len(found) <= 1
        return found[0] if found else None

    def code(self, seq: int) -> str:
        """The code of the error that is the request's outcome."""
        outcome = self.outcome(seq)
        assert isinstance(outcome, RequestError)
        return outcome.code


@pytest.fixture
def session() -> Session:
    """Three ingresses have welcomed the client; n1 is preferred."""
    made = Session()
    for node in NODES:
        made.welcome(node)
    return made


# --- links ----------------------------------------------------------------------------------


def test_a_client_introduces_itself_on_every_new_connection() -> None:
    session = Session()
    session.connect("n2")
    session.connect("n2")
    assert session.hellos == [endpoint("n2")] * 2


def test_a_welcome_says_what_the_model_is() -> None:
    session = Session()
    assert session.core.view is None
    session.welcome("n1")
    assert session.core.model == "m"
    assert session.core.view is not None
    assert session.core.view.classes == ("cat", "dog")
    assert session.core.view.input.tensors[0].shape == (1, 2)


def test_ingresses_that_were_not_named_are_learned_once() -> None:
    session = Session("n2")
    session.welcome("n2")
    assert session.connects == [endpoint("n1"), endpoint("n3")]
    session.notice("n2", 2)
    assert len(session.connects) == 2
    # They are used once they have welcomed the client, not before.
    seq = session.submit()
    assert session.sent_to(seq) == ["n2"]
    session.welcome("n1")
    assert session.sent_to(session.submit()) == ["n1"]


def test_a_refusal_is_kept_for_who_waits_for_a_welcome() -> None:
    session = Session()
    session.receive("n1", Refuse("cluster", "this is another cluster"))
    assert session.core.refusal == "cluster: this is another cluster"


# --- the usual case -------------------------------------------------------------------------


def test_a_request_goes_to_the_preferred_ingress_and_its_answer_is_the_outcome(
    session: Session,
) -> None:
    session.notice("n2", 2, preferred="n3")
    seq = session.submit(budget_ms=250)
    assert session.sent_to(seq) == ["n3"]
    where, submit = session.submits[-1]
    assert (where, submit.client, submit.budget_us, submit.attempt) == (
        endpoint("n3"),
        CLIENT,
        250_000,
        1,
    )
    session.receive("n3", Accepted(seq))
    session.run(200)
    session.receive("n3", reply(seq))
    assert session.outcome(seq) == reply(seq)
    assert session.core.inflight == 0
    session.run(2000)
    assert len(session.submits) == 1


def test_a_request_without_any_ingress_waits_for_the_first_welcome() -> None:
    session = Session()
    seq = session.submit()
    session.run(150)
    assert session.submits == []
    session.welcome("n2")
    assert session.sent_to(seq) == ["n2"]
    assert session.submits[0][1].budget_us == (BUDGET_MS - 150) * 1000


# --- it moves -------------------------------------------------------------------------------


def test_a_request_that_is_not_accepted_in_time_moves(session: Session) -> None:
    seq = session.submit()
    session.run(ACCEPT_MS - 1)
    assert session.sent_to(seq) == ["n1"]
    session.run(1)
    assert session.sent_to(seq) == ["n1", "n2"]
    submit = session.submits[-1][1]
    assert (submit.attempt, submit.budget_us) == (2, (BUDGET_MS - ACCEPT_MS) * 1000)
    assert session.core.moved == 1
    session.receive("n2", Accepted(seq))
    session.run(ACCEPT_MS + 10)
    assert session.sent_to(seq) == ["n1", "n2"]


def test_a_request_moves_when_its_ingress_closes_the_link_even_if_it_was_accepted(
    session: Session,
) -> None:
    seq = session.submit()
    session.receive("n1", Accepted(seq))
    session.disconnect("n1")
    assert session.sent_to(seq) == ["n1", "n2"]
    # Its acceptance by n1 is worth nothing any more: n2 has to accept in its turn.
    session.run(ACCEPT_MS)
    assert session.sent_to(seq) == ["n1", "n2", "n3"]


def test_requests_elsewhere_do_not_move_when_a_link_closes(session: Session) -> None:
    seq = session.submit()
    session.disconnect("n3")
    assert session.sent_to(seq) == ["n1"]


def test_a_request_moves_when_another_ingress_reports_its_own_as_failed(session: Session) -> None:
    seq = session.submit()
    session.receive("n1", Accepted(seq))
    session.notice("n3", 2, "n1", preferred="n2")
    assert session.sent_to(seq) == ["n1", "n2"]
    assert session.sent_to(session.submit()) == ["n2"]


def test_an_ingress_that_is_heard_again_is_used_again(session: Session) -> None:
    session.notice("n3", 2, "n1", preferred="n2")
    session.notice("n3", 3, preferred="n1")
    assert session.sent_to(session.submit()) == ["n1"]


def test_no_plan_sends_a_request_elsewhere_and_leaves_that_ingress_alone(session: Session) -> None:
    seq = session.submit()
    session.receive("n1", Rejected(seq, "no_plan", "the coordinator has not formed one"))
    assert session.sent_to(seq) == ["n1", "n2"]
    assert session.outcome(seq) is None
    assert session.sent_to(session.submit()) == ["n2"]
    session.notice("n1", 2)  # it has a plan now
    assert session.sent_to(session.submit()) == ["n1"]


def test_no_plan_anywhere_is_waited_out_within_the_budget() -> None:
    session = Session("n1")
    session.welcome("n1", ingresses=())
    seq = session.submit()
    session.receive("n1", Rejected(seq, "no_plan", "not yet"))
    session.run(300)
    assert session.outcome(seq) is None
    session.notice("n1", 2)
    assert session.sent_to(seq) == ["n1", "n1"]
    session.receive("n1", reply(seq, 2))
    assert session.outcome(seq) == reply(seq, 2)


@pytest.mark.parametrize("code", ["busy", "bad_input", "unknown_model", "quarantined", "failed"])
def test_any_other_rejection_is_the_outcome(session: Session, code: str) -> None:
    seq = session.submit()
    session.receive("n1", Rejected(seq, code, "because"))
    assert session.code(seq) == code
    session.run(300)
    assert session.sent_to(seq) == ["n1"]


def test_with_one_ingress_a_request_that_is_not_accepted_stays_and_may_still_be_answered() -> None:
    session = Session("n1")
    session.welcome("n1", ingresses=())
    seq = session.submit()
    session.run(ACCEPT_MS * 5)
    assert session.sent_to(seq) == ["n1"]
    session.receive("n1", reply(seq))
    assert session.outcome(seq) == reply(seq)


def test_with_one_ingress_a_request_is_sent_again_when_it_is_back() -> None:
    session = Session("n1")
    session.welcome("n1", ingresses=())
    seq = session.submit()
    session.disconnect("n1")
    session.run(200)
    assert session.sent_to(seq) == ["n1"]
    session.connect("n1")
    assert session.sent_to(seq) == ["n1"]
    session.welcome("n1", 2, ingresses=())
    assert session.sent_to(seq) == ["n1", "n1"]


# --- who has a say --------------------------------------------------------------------------


def test_the_first_answer_wins_and_later_ones_are_counted_and_dropped(session: Session) -> None:
    seq = session.submit()
    session.run(ACCEPT_MS)
    session.receive("n1", reply(seq, 1))  # from the ingress that was left: as good as any
    session.receive("n2", reply(seq, 2))
    session.receive("n2", reply(seq, 2))
    assert session.outcome(seq) == reply(seq, 1)
    assert session.core.late == 2


def test_an_ingress_that_was_left_has_no_say_but_by_an_answer(session: Session) -> None:
    seq = session.submit()
    session.disconnect("n1")
    assert session.sent_to(seq) == ["n1", "n2"]
    session.receive("n1", Rejected(seq, "busy", "too late"))
    session.receive("n1", Rejected(seq, "no_plan", "too late"))
    session.receive("n1", Accepted(seq))
    assert session.outcome(seq) is None
    session.run(ACCEPT_MS)  # what n1 accepted does not count for n2
    assert session.sent_to(seq) == ["n1", "n2", "n3"]


def test_what_is_said_of_a_finished_request_changes_nothing(session: Session) -> None:
    seq = session.submit()
    session.receive("n1", reply(seq))
    session.receive("n1", Accepted(seq))
    session.receive("n1", Rejected(seq, "busy", "too late"))
    session.receive("n1", Rejected(999, "busy", "never sent"))
    session.disconnect("n1")
    session.run(2 * BUDGET_MS)
    assert session.outcome(seq) == reply(seq)
    assert session.sent_to(seq) == ["n1"]


def test_a_restarted_ingress_that_knows_less_is_not_believed(session: Session) -> None:
    session.notice("n2", 5, "n3", preferred="n2")
    session.disconnect("n1")
    session.welcome("n1", number=0)
    # It has no plan: n2 is still preferred, n3 still avoided, and n1 is not used.
    assert session.sent_to(session.submit()) == ["n2"]
    session.disconnect("n2")
    waits = session.submit()
    assert session.sent_to(waits) == []
    session.notice("n1", 6, "n2", preferred="n1")
    assert session.sent_to(waits) == ["n1"]


def test_an_older_notice_does_not_undo_a_newer_one(session: Session) -> None:
    session.notice("n2", 5, "n1", preferred="n2")
    session.notice("n3", 4, preferred="n1")
    assert session.sent_to(session.submit()) == ["n2"]


# --- the end --------------------------------------------------------------------------------


def test_a_budget_that_runs_out_is_one_error_that_says_how_long_it_was(session: Session) -> None:
    seq = session.submit(budget_ms=300)
    session.receive("n1", Accepted(seq))
    session.run(299)
    assert session.outcome(seq) is None
    session.run(500)
    assert session.code(seq) == "deadline"
    assert "300 ms" in str(session.outcome(seq))
    session.receive("n1", reply(seq))
    assert session.core.late == 1
    assert session.code(seq) == "deadline"


def test_a_budget_that_runs_out_unsent_says_that_no_ingress_was_there() -> None:
    session = Session()
    seq = session.submit()
    session.run(BUDGET_MS)
    assert session.code(seq) == "deadline"
    assert "no ingress is connected" in str(session.outcome(seq))


def test_a_request_that_nobody_accepts_is_sent_more_slowly_until_its_budget_ends(
    session: Session,
) -> None:
    seq = session.submit(budget_ms=10_000)
    session.run(900)
    assert len(session.sent_to(seq)) == MAX_SENDS
    session.run(9_000)
    assert MAX_SENDS + 8 <= len(session.sent_to(seq)) <= MAX_SENDS + 10
    session.run(200)
    assert session.code(seq) == "deadline"
    assert "no ingress has accepted it" in str(session.outcome(seq))


# --- any schedule ---------------------------------------------------------------------------


class Chance:
    """Anything that may happen, in an order drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.session = Session(*NODES[: self.random.randint(1, 3)])
        self.version = 1
        self.answered: set[int] = set()

    def node(self) -> str:
        known = [n for n, where in INGRESSES if where in self.session.core._links]
        return self.random.choice(known)

    def seq(self) -> int:
        return self.random.randint(1, self.session._sequence + 1)

    def step(self) -> None:
        session, random_ = self.session, self.random
        node = self.node()
        what = random_.choice(
            ["submit", "welcome", "restart", "notice", "accept", "reply", "reject", "close", "wait"]
        )
        if what == "submit":
            session.submit(random_.choice([5, 80, 400, 3000]))
        elif what == "welcome":
            self.version += random_.randint(0, 1)
            session.welcome(node, self.version)
        elif what == "restart":
            session.disconnect(node)
            session.welcome(node, number=0)
        elif what == "notice":
            number = random_.randint(1, self.version)
            failed = random_.sample(NODES, random_.randint(0, 2))
            session.notice(node, number, *failed, preferred=random_.choice(NODES))
        elif what == "accept":
            session.receive(node, Accepted(self.seq()))
        elif what == "reply":
            session.receive(node, reply(self.seq()))
        elif what == "reject":
            code = random_.choice(["busy", "no_plan", "no_plan"])
            session.receive(node, Rejected(self.seq(), code, ""))
        elif what == "close":
            session.disconnect(node)
        else:
            session.run(random_.choice([1, 30, 120]))

    def check(self) -> None:
        """What must hold at any moment."""
        session = self.session
        finished = set(session.outcomes)
        assert all(len(found) == 1 for found in session.outcomes.values())
        assert finished <= set(range(1, session._sequence + 1))
        assert session.core.inflight == session._sequence - len(finished)
        for seq in range(1, session._sequence + 1):
            attempts = [s.attempt for _, s in session.submits if s.seq == seq]
            assert attempts == list(range(1, len(attempts) + 1))
            assert len(attempts) <= MAX_SENDS + 3  # the longest budget is three seconds
        assert all(submit.budget_us >= 1 for _, submit in session.submits)


@pytest.mark.parametrize("seed", range(60))
def test_every_request_has_exactly_one_outcome_under_any_schedule(seed: int) -> None:
    chance = Chance(seed)
    for _ in range(150):
        chance.step()
        chance.check()
    submitted = len(chance.session.submits)
    chance.session.run(3001)  # the longest budget
    chance.check()
    assert chance.session.core.inflight == 0
    assert len(chance.session.outcomes) == chance.session._sequence > 0
    # The schedules are worth something: requests were really sent.
    assert submitted > 0
