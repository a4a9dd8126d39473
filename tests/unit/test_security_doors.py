"""Real sockets with keys: who gets in, whoever keeps the door, and who is put out again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from continuer import sockets
from continuer.errors import ConfigError, ContinuerError
from continuer.plan import Member, Version
from continuer.security import access, keys, ring, zap
from continuer.security.access import Access, Gate, RefusedError
from continuer.security.identity import Identity, with_key
from continuer.security.keys import KeyPair
from continuer.wire import Ask, Join

LOCAL = "127.0.0.1"
# Below some hundred bytes the handshake itself would be refused.
BYTES = 1 << 16
DEADLINE_S = 20.0


class Notes:
    """A journal that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def emit(self, name: str, /, **fields: Any) -> None:
        self.events.append((name, fields))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [fields for found, fields in self.events if found == name]


class House:
    """A process with one guarded socket, and visitors to it."""

    def __init__(self, directory: Path, door: str = "control") -> None:
        self.pair = keys.make()
        self.notes = Notes()
        self.access = Access(self.pair, (), directory, self.notes)
        access.install(self.access)
        self.context: zmq.Context[Any] = zmq.Context()
        self.outside: zmq.Context[Any] = zmq.Context()
        self.socket = sockets.make(self.context, zmq.ROUTER, BYTES)
        self.port = sockets.bind(self.socket, f"{door}_port", LOCAL, 0)
        self.gate = access.gate(door)

    @property
    def endpoint(self) -> str:
        return with_key(sockets.endpoint(LOCAL, self.port), self.pair.public)

    def know(self, *identities: Identity) -> None:
        self.access.learn(identities)

    def visitor(self, pair: KeyPair | None = None) -> tuple[Any, Any]:
        """A socket that connects with this key, or one that nobody knows; and its monitor."""
        made = sockets.make(self.outside, zmq.DEALER, BYTES)
        monitor = made.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | sockets.TURNED_AWAY
        )
        sockets.dial(made, self.endpoint, pair or keys.make())
        return made, monitor

    def heard(self, within_s: float = DEADLINE_S) -> tuple[list[Any], Identity | None]:
        def look() -> Any:
            self.socket.poll(20)
            try:
                return self.gate.receive(self.socket)
            except zmq.Again:
                return None

        found: tuple[list[Any], Identity | None] = until(look, within_s)
        return found

    def close(self) -> None:
        self.outside.destroy(linger=0)
        sockets.end(self.context)
        access.install(None)


def until(condition: Callable[[], Any], within_s: float = DEADLINE_S) -> Any:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError("it did not come about")


def outcome(monitor: Any) -> bool:
    """Whether the next attempt to get in succeeds."""
    assert monitor.poll(int(DEADLINE_S * 1000)), "no outcome"
    return bool(recv_monitor_message(monitor)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def operator(pair: KeyPair, name: str = "boss") -> Identity:
    return Identity(name, "operator", pair.public)


# --- strangers ----------------------------------------------------------------------------


def test_a_key_that_nobody_knows_is_refused_and_said(house: House) -> None:
    _, monitor = house.visitor()
    assert not outcome(monitor)
    until(lambda: house.notes.of("key_refused"))
    assert house.notes.of("key_refused")[0]["socket"] == "control"


def test_a_key_that_is_known_gets_in_and_says_who_it_is(house: House) -> None:
    pair = keys.make()
    house.know(operator(pair))
    visitor, monitor = house.visitor(pair)
    assert outcome(monitor)
    visitor.send(b"hello")
    frames, sender = house.heard()
    assert bytes(frames[1]) == b"hello"
    assert sender == operator(pair)


@pytest.mark.parametrize("keeper", ["alive", "dead", "restarted"])
def test_strangers_stay_out_whatever_becomes_of_the_doorkeeper(house: House, keeper: str) -> None:
    pair = keys.make()
    house.know(operator(pair))
    if keeper != "alive":
        house.access.close(house.context)
    if keeper == "restarted":
        house.access.guard(sockets.make(house.context, zmq.ROUTER, BYTES), "control")
    strangers = [house.visitor() for _ in range(20)]
    assert not any(outcome(monitor) for _, monitor in strangers)
    friend, monitor = house.visitor(pair)
    if keeper == "dead":
        assert not outcome(monitor)  # closed to all: better than open to all
    else:
        friend.send(b"hello") if outcome(monitor) else pytest.fail("a friend was refused")
        assert house.heard()[1] == operator(pair)


def test_a_peer_without_any_key_is_refused(house: House) -> None:
    made = sockets.make(house.outside, zmq.DEALER, BYTES)
    monitor = made.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | sockets.TURNED_AWAY
    )
    made.connect(sockets.endpoint(LOCAL, house.port))
    assert not outcome(monitor)


def test_a_visitor_does_not_talk_to_a_house_that_has_another_key(house: House) -> None:
    pair = keys.make()
    house.know(operator(pair))
    made = sockets.make(house.outside, zmq.DEALER, BYTES)
    monitor = made.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | sockets.TURNED_AWAY
    )
    wrong = with_key(sockets.endpoint(LOCAL, house.port), keys.make().public)
    sockets.dial(made, wrong, pair)
    assert not outcome(monitor)


def test_a_role_that_has_no_business_at_a_door_does_not_get_in(tmp_path: Path) -> None:
    house = House(tmp_path, door="data")
    try:
        client, agent = keys.make(), keys.make()
        house.know(Identity("c1", "client", client.public), Identity("n1", "agent", agent.public))
        visitors = [house.visitor(client), house.visitor(agent)]
        assert [outcome(monitor) for _, monitor in visitors] == [False, True]
    finally:
        house.close()


def test_a_key_that_becomes_known_while_it_waits_gets_in_at_the_first_attempt(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zap, "PATIENCE_NS", int(DEADLINE_S * 1e9))
    monkeypatch.setattr(sockets, "HANDSHAKE_MS", int(DEADLINE_S * 1000))
    slow = sockets.make(house.context, zmq.ROUTER, BYTES)
    port = sockets.bind(slow, "control_port", LOCAL, 0)
    pair = keys.make()
    made = sockets.make(house.outside, zmq.DEALER, BYTES)
    monitor = made.get_monitor_socket(zmq.EVENT_ALL)
    sockets.dial(made, with_key(sockets.endpoint(LOCAL, port), house.pair.public), pair)
    keeper = house.access._doorkeepers[house.context]
    until(lambda: keeper._waiting)
    house.know(operator(pair))
    seen: list[int] = []

    def inside() -> bool:
        while monitor.poll(20):
            seen.append(int(recv_monitor_message(monitor)["event"]))
        return zmq.EVENT_HANDSHAKE_SUCCEEDED in seen

    until(inside)
    assert zmq.EVENT_DISCONNECTED not in seen
    assert not house.notes.of("key_refused")


# --- the doorkeeper -----------------------------------------------------------------------


def test_a_start_without_a_doorkeeper_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zap, "PROOF_MS", 200)
    context: zmq.Context[Any] = zmq.Context()
    with pytest.raises(ContinuerError, match="does not answer"):
        zap.prove(context, keys.make())
    context.destroy(linger=0)


def test_a_start_with_a_doorkeeper_that_lets_everyone_in_is_refused() -> None:
    context: zmq.Context[Any] = zmq.Context()
    keeper = zap.Doorkeeper(context, lambda *_: True, lambda *_: None, lambda _: None)
    try:
        with pytest.raises(ContinuerError, match="was let in"):
            zap.prove(context, keys.make())
    finally:
        keeper.stop()
        context.destroy(linger=0)


def test_a_doorkeeper_that_dies_does_not_die_unseen() -> None:
    context: zmq.Context[Any] = zmq.Context()
    died = threading.Event()
    pair = keys.make()

    def break_down(*_: str) -> bool:
        raise RuntimeError("a defect")

    keeper = zap.Doorkeeper(context, break_down, lambda *_: None, lambda _: died.set())
    server = context.socket(zmq.ROUTER)
    zap.guard(server, "control", pair)
    port = server.bind_to_random_port(f"tcp://{LOCAL}")
    visitor = context.socket(zmq.DEALER)
    zap.introduce(visitor, keys.make(), pair.public)
    visitor.connect(f"tcp://{LOCAL}:{port}")
    assert died.wait(DEADLINE_S)
    keeper.join(DEADLINE_S)
    context.destroy(linger=0)


def test_a_socket_that_no_role_may_use_is_not_opened(house: House) -> None:
    sock = sockets.make(house.context, zmq.ROUTER, BYTES)
    with pytest.raises(ConfigError, match="no role may come in"):
        sockets.bind(sock, "backdoor_port", LOCAL, 0)


# --- those who were known -----------------------------------------------------------------


def test_whoever_is_revoked_is_cut_off_and_stays_out(house: House) -> None:
    good, bad = keys.make(), keys.make()
    house.know(operator(good, "good"), operator(bad, "bad"))
    links = {name: house.visitor(pair) for name, pair in (("good", good), ("bad", bad))}
    for link, monitor in links.values():
        assert outcome(monitor)
        link.send(b"hello")
    assert {who.name for _, who in (house.heard(), house.heard()) if who} == {"good", "bad"}
    house.know(operator(good, "good"))
    assert not outcome(links["bad"][1]), "its link stands"
    assert not outcome(links["bad"][1]), "it came in again"
    assert not links["good"][1].poll(100), "somebody else was cut off"
    links["good"][0].send(b"still here")
    frames, sender = house.heard()
    assert bytes(frames[1]) == b"still here"
    assert sender == operator(good, "good")


def test_a_message_of_a_revoked_key_that_is_on_its_way_is_dropped(house: House) -> None:
    pair = keys.make()
    house.know(operator(pair))
    visitor, monitor = house.visitor(pair)
    assert outcome(monitor)
    visitor.send(b"an order")
    assert house.socket.poll(int(DEADLINE_S * 1000))
    house.know()
    with pytest.raises(zmq.Again):
        house.gate.receive(house.socket)
    assert house.notes.of("message_refused")
    assert not outcome(monitor)


def test_a_descriptor_that_is_somebody_elses_now_is_left_alone(house: House) -> None:
    pair = keys.make()
    house.know(operator(pair))
    visitor, monitor = house.visitor(pair)
    assert outcome(monitor)
    visitor.send(b"hello")
    house.heard()
    gate: Gate = house.gate
    ((descriptor, (inode, public)),) = gate._links.items()
    gate._links[descriptor] = (inode + 1, public)
    gate.cut({public})
    visitor.send(b"still here")
    assert bytes(house.heard()[0][1]) == b"still here"


def test_a_thread_of_the_process_itself_needs_no_key(house: House) -> None:
    house.socket.bind("inproc://inside")
    inside = house.context.socket(zmq.DEALER)
    sockets.dial(inside, "inproc://inside")
    inside.send(b"hello")
    frames, sender = house.heard()
    assert bytes(frames[1]) == b"hello"
    assert sender is None


def test_what_is_learned_is_there_after_a_restart(house: House, tmp_path: Path) -> None:
    known = operator(keys.make())
    house.know(known)
    house.access.keep()
    assert ring.load(tmp_path) == (known,)
    assert house.notes.of("keys_changed") == [{"added": ["boss (operator)"], "removed": []}]
    house.know(known)
    assert len(house.notes.of("keys_changed")) == 1, "nothing has changed"


# --- what is said -------------------------------------------------------------------------


def test_a_known_sender_that_says_too_much_is_refused_and_said(house: House) -> None:
    watcher = Identity("wall", "observer", keys.make().public)
    house.gate.check(watcher, Ask("status", {}))
    with pytest.raises(RefusedError, match=r"wall \(observer\) may not ask for 'drain'"):
        house.gate.check(watcher, Ask("drain", {"node": "n1"}))
    (said,) = house.notes.of("message_refused")
    assert said["node"] == "wall"
    assert said["dropped"] == 1


def test_without_keys_everything_passes_but_a_box_that_demands_them() -> None:
    access.install(None)
    gate = access.gate("agents")
    ends = ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:3"]
    join = Join("c", Member("n1", 1, *ends), "m", b"", Version(), 0, "all", ())
    gate.check(None, join)
    keyed = Member("n1", 1, *(with_key(end, "k" * 40) for end in ends))
    with pytest.raises(RefusedError, match="demands keys"):
        gate.check(None, Join("c", keyed, "m", b"", Version(), 0, "all", ()))


def test_a_link_of_which_one_side_has_no_key_is_not_made() -> None:
    access.install(None)
    context: zmq.Context[Any] = zmq.Context()
    sock = sockets.make(context, zmq.DEALER, BYTES)
    with pytest.raises(ConfigError, match="demands a key"):
        sockets.dial(sock, f"tcp://{LOCAL}:1#{'k' * 40}")
    with pytest.raises(ConfigError, match="name the key"):
        sockets.dial(sock, f"tcp://{LOCAL}:1", keys.make())
    context.destroy(linger=0)
