"""Random and mutated bytes at every port of a running fleet with keys, which keeps serving."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest
import zmq

from continuer.bundle import Bundle
from continuer.client import Client
from continuer.demo.cluster import Cluster
from continuer.demo.report import Oracle
from tests.integration.conftest import CALM
from tests.integration.strangers import GREETING, IMAGE, PEER_OF, connect, endpoints, frame, ready
from tests.integration.support import (
    BUDGET_MS,
    Stream,
    assert_all_well,
    events,
    make_whole,
    running,
    techniques,
)

CURVE = GREETING.replace(b"NULL".ljust(20, b"\0"), b"CURVE".ljust(20, b"\0"))
HELLO = b"\x04\xc8\x05HELLO\x01\x00" + bytes(72 + 32 + 8 + 80)
NODE = "n2"
ROUNDS = 60


@pytest.fixture(scope="module")
def fleet(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("noise")
    made = Cluster(directory, bundle.directory, ["n1", "n2", "n3"], coordinator=CALM, secured=True)
    try:
        made.start_all()
        yield made
    finally:
        made.stop_all()


def ports(fleet: Cluster) -> dict[str, str]:
    found = endpoints(fleet, NODE)
    assert found.keys() == PEER_OF.keys()
    return found


def noise(chance: random.Random) -> bytes:
    """From plain noise to a CURVE handshake that is right but for a few bytes."""
    kind = chance.randrange(6)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 4000))
    whole = {
        1: GREETING + ready(zmq.DEALER) + frame(b"\x93\x01\x0c\x00"),
        2: CURVE + HELLO,
        3: CURVE + HELLO[:12] + chance.randbytes(190),
        4: CURVE + b"\x06" + struct.pack(">Q", chance.choice((2**20, 2**40, 2**63))) + bytes(50),
        5: CURVE + b"\x04\xff\x08INITIATE" + chance.randbytes(246),
    }[kind]
    damaged = bytearray(whole)
    for _ in range(chance.randrange(0, 4)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    return bytes(damaged[: chance.randrange(1, len(damaged) + 1)])


def test_noise_at_every_port_harms_nobody(fleet: Cluster, oracle: Oracle, bundle: Bundle) -> None:
    make_whole(fleet)
    before = fleet.status(brief=True)
    chance = random.Random(5)
    targets = ports(fleet)
    with Stream(fleet.endpoints, rate=20, seconds=4, keys=fleet.keys) as stream:
        stream.flowing(5)
        for endpoint in targets.values():
            for _ in range(ROUNDS):
                with connect(endpoint) as sock:
                    sock.sendall(noise(chance))
    assert_all_well(oracle, bundle, stream.records)
    assert techniques(stream.records) == {"none"}
    assert all(running(fleet).values()), running(fleet)
    after = fleet.status(brief=True)
    assert after["failovers"] == before["failovers"]
    assert after["health"] == "full"
    # Nothing of it has got as far as a message.
    for name in (NODE, "coordinator"):
        assert not events(fleet, name, "foreign_bytes")
    with Client(fleet.endpoints, keys=fleet.keys) as client:
        assert client.infer(IMAGE, BUDGET_MS).technique == "none"
