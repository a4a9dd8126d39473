"""How often an agent speaks: beacons at its own pace, heartbeats at the coordinator's."""

from __future__ import annotations

from agent.control_core import SHINE_ON_MS, Command, ControlCore, Say, Shine
from agent.plan_holder import PlanHolder
from agent.repairs import MS
from continuer.plan import Member, Version
from continuer.wire import Heartbeat, Join, Members, Pace
from tests.unit.harness import BUNDLE

BEAT_MS = 10
MEMBER = Member("n1", 1, "tcp://h:1", "tcp://h:2", "tcp://h:3")
KEY = b"k" * 32


class Agent:
    """A control core that beats every 10 ms, and what it says."""

    def __init__(self) -> None:
        self.now = 9_000 * MS
        self.core = ControlCore(
            MEMBER, "tcp://c:1", self._join, self._beat, PlanHolder(BUNDLE.hash, Version())
        )
        self.core.on_connected(self.now)
        self.core.on_message(Members((MEMBER,)), self.now)
        assert self.core.joined

    def _join(self) -> Join:
        return Join("continuer", MEMBER, BUNDLE.name, BUNDLE.hash, Version(), 0, "all", ())

    def _beat(self, sequence: int) -> Heartbeat:
        return Heartbeat("n1", 1, sequence, Version(), 0, 0, 0, 0)

    def told(self, pace: Pace) -> list[Command]:
        return self.core.on_message(pace, self.now)

    def beats(self, count: int) -> list[Command]:
        found: list[Command] = []
        for _ in range(count):
            self.now += BEAT_MS * MS
            found += self.core.on_beat(self.now)
        return found


def heartbeats(commands: list[Command]) -> list[int]:
    messages = [command.message for command in commands if isinstance(command, Say)]
    return [message.seq for message in messages if isinstance(message, Heartbeat)]


def beacons(commands: list[Command]) -> list[tuple[int, int]]:
    return [(c.session, c.sequence) for c in commands if isinstance(c, Shine)]


def test_without_a_word_of_the_coordinator_every_beat_is_a_heartbeat_and_none_a_beacon() -> None:
    said = Agent().beats(20)
    assert heartbeats(said) == list(range(1, 21))
    assert not beacons(said)


def test_beacons_go_on_at_every_beat_while_heartbeats_become_few() -> None:
    agent = Agent()
    assert not agent.told(Pace(100_000, 5, KEY))
    said = agent.beats(100)
    assert beacons(said) == [(5, i) for i in range(1, 101)]
    assert len(heartbeats(said)) == 10
    assert all(isinstance(c, Say) or c.key == KEY for c in said if isinstance(c, Say | Shine))


def test_one_who_is_asked_answers_at_once_and_beats_as_ever() -> None:
    agent = Agent()
    agent.told(Pace(1_000, 5, KEY))
    agent.told(Pace(100_000, 5, KEY))
    agent.beats(13)
    assert len(heartbeats(agent.told(Pace(1_000, 5, KEY)))) == 1
    assert len(heartbeats(agent.told(Pace(1_000, 5, KEY)))) == 1, "and once more"
    assert len(heartbeats(agent.beats(20))) == 20


def test_a_new_session_counts_from_the_beginning_and_the_same_one_goes_on() -> None:
    agent = Agent()
    agent.told(Pace(1_000, 5, KEY))
    agent.beats(3)
    agent.told(Pace(100_000, 5, KEY))
    assert beacons(agent.beats(1)) == [(5, 4)]
    agent.told(Pace(100_000, 6, KEY))
    assert beacons(agent.beats(1)) == [(6, 1)]


def test_a_session_of_0_means_no_beacons() -> None:
    agent = Agent()
    agent.told(Pace(100_000))
    said = agent.beats(100)
    assert not beacons(said)
    assert len(heartbeats(said)) == 10


def test_beacons_bridge_a_link_that_is_made_anew_but_not_one_that_stays_away() -> None:
    agent = Agent()
    agent.told(Pace(100_000, 5, KEY))
    agent.beats(1)
    agent.core.on_disconnected()
    said = agent.beats(2 * SHINE_ON_MS // BEAT_MS)
    assert not heartbeats(said)
    assert len(beacons(said)) == SHINE_ON_MS // BEAT_MS - 1


def test_a_new_link_begins_at_the_agents_own_pace() -> None:
    agent = Agent()
    agent.told(Pace(100_000, 5, KEY))
    agent.core.on_disconnected()
    agent.core.on_connected(agent.now)
    agent.core.on_message(Members((MEMBER,)), agent.now)
    assert len(heartbeats(agent.beats(20))) == 20
