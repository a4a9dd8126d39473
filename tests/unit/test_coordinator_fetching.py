"""Agents with stores around a real coordinator core: who fetches what from whom."""

from __future__ import annotations

from typing import Any

import msgspec

from continuer.wire import Message, Prepare, Prepared
from coordinator.preparing import PREPARE_TIMEOUT_MS
from tests.unit.harness import BUNDLE, FakeAgent, World

EVERYTHING = frozenset(range(len(BUNDLE.part_names)))
SHELF = "tcp://*:7402"
FETCHED_PER_MS = 1000.0


class StoringAgent(FakeAgent):
    """Fetches what it lacks from whoever the order names, as long as one of those has it."""

    def __init__(self, name: str, incarnation: int, world: StoringWorld) -> None:
        super().__init__(name, incarnation, world.standby)
        self.stored: set[int] = set()
        self.store = f"tcp://{name}:4"
        self.world = world

    @property
    def orders(self) -> list[Prepare]:
        return [message for message in self.received if isinstance(message, Prepare)]

    def join(self, **changes: Any) -> Any:
        return super().join(
            **{"stored": tuple(sorted(self.stored)), "store": self.store, **changes}
        )

    def receive(self, message: Message) -> list[Message]:
        lacking: set[int] = set()
        if isinstance(message, Prepare):
            lacking = set(message.parts) - self.stored
            self.stored |= lacking & self.world.offered(message.sources)
            self.cannot_load = lacking - self.stored
        answers = super().receive(message)
        return [
            msgspec.structs.replace(a, **self.account(lacking)) if isinstance(a, Prepared) else a
            for a in answers
        ]

    def account(self, lacking: set[int]) -> dict[str, Any]:
        nbytes = sum(BUNDLE.manifest.parts[part].bytes for part in lacking & self.stored)
        took_us = int(nbytes / FETCHED_PER_MS * 1000)
        stored = tuple(sorted(self.stored))
        return {"stored": stored, "fetched_bytes": nbytes, "fetch_us": took_us}


class StoringWorld(World):
    """``shelf``: the parts that the coordinator hands out."""

    def __init__(self, *, shelf: frozenset[int] = EVERYTHING, **config: Any) -> None:
        super().__init__(**config)
        self.shelf = shelf
        self.core.shelf_endpoint = SHELF
        self.core.planning.shelf = shelf

    def add(self, name: str, incarnation: int = 1, stored: frozenset[int] = frozenset()) -> None:
        agent = StoringAgent(name, incarnation, self)
        agent.stored = set(stored)
        self.agents[name] = agent
        self.perform(self.core.on_message(agent.link, agent.join(), self.now))

    def agent(self, name: str) -> StoringAgent:
        found = self.agents[name]
        assert isinstance(found, StoringAgent)
        return found

    def offered(self, sources: tuple[str, ...]) -> set[int]:
        """What these sources have, of those that live."""
        found = set(self.shelf) if SHELF in sources else set()
        for name in self.agents:
            agent = self.agent(name)
            if agent.alive and agent.store in sources:
                found |= agent.stored
        return found

    def form_with(self, stored: dict[str, frozenset[int]] | None = None) -> None:
        for name in self.config.nodes:
            self.add(name, stored=(stored or {}).get(name, frozenset()))
        self.run(50)


def test_empty_agents_are_sent_to_the_coordinator_and_serve() -> None:
    world = StoringWorld()
    world.form_with()
    assert world.technique() == "none"
    for name in world.config.nodes:
        assert world.agent(name).orders[0].sources == (SHELF,)
        assert world.agent(name).stored < EVERYTHING  # with standby none, only what is needed


def test_peers_that_have_parts_are_named_before_the_coordinator() -> None:
    world = StoringWorld()
    world.form_with({"n2": EVERYTHING})
    assert world.agent("n1").orders[0].sources == ("tcp://n2:4", SHELF)
    assert world.agent("n2").orders[0].sources == (SHELF,)  # itself, it need not ask


def test_an_agent_with_the_bundle_on_disk_is_sent_to_nobody() -> None:
    world = World()
    world.form()
    orders = [m for m in world.agents["n1"].received if isinstance(m, Prepare)]
    assert [order.sources for order in orders] == [()]


def test_with_the_manifest_alone_the_coordinator_is_no_source() -> None:
    world = StoringWorld(shelf=frozenset())
    world.form_with({"n4": EVERYTHING})
    assert world.technique() == "none"
    assert world.agent("n1").orders[0].sources == ("tcp://n4:4",)


def test_where_nobody_has_a_block_there_is_no_plan() -> None:
    world = StoringWorld(shelf=EVERYTHING - {8})
    world.form_with()
    assert world.core.plan is None


def test_when_the_one_that_has_a_block_dies_others_fetch_it() -> None:
    world = StoringWorld()
    world.form_with()
    lost = set(world.core.layout["n3"])
    others = [name for name in world.config.nodes if name != "n3"]
    assert lost - set().union(*(world.agent(name).stored for name in others))
    world.kill("n3")
    assert world.technique() != "repartition"  # the bridge
    world.run(300)
    assert world.technique() == "repartition"
    assert lost <= set().union(*(world.agent(name).stored for name in others))


def test_the_bandwidth_that_was_seen_predicts_the_next_fetch() -> None:
    world = StoringWorld()
    world.form_with()
    for name in world.config.nodes:
        took_ms = world.core.planning.timings.fetch(name, 10_000)
        assert round(took_ms, 2) == round(10_000 / FETCHED_PER_MS, 2)


def test_a_slow_network_gets_its_time() -> None:
    world = StoringWorld()
    timings = world.core.planning.timings
    world.core.planning.timings = msgspec.structs.replace(timings, fetch_bytes_per_ms=10.0)
    for name in world.config.nodes:
        world.add(name)
        world.agent(name).slow_to_load = name == "n1"
    world.run(PREPARE_TIMEOUT_MS + 100)
    assert len(world.agent("n1").orders) == 1  # hundreds of kB at 10 kB/s take longer than 5 s


def test_what_could_not_be_fetched_is_tried_again_when_somebody_comes() -> None:
    world = StoringWorld(shelf=frozenset())
    world.form_with({"n1": EVERYTHING})
    world.kill("n1")
    world.run(300)
    for name in ("n2", "n3", "n4", "n5"):
        assert world.state(name) == "active"
    assert world.technique() != "repartition"
    world.add("n1", incarnation=2, stored=EVERYTHING)
    world.run(1500)
    assert world.technique() == "none"
