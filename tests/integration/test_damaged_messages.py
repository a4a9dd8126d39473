"""Messages of ours, damaged: dropped or refused with a reason, and nobody is harmed."""

from __future__ import annotations

import socket
from contextlib import suppress

import msgspec
import numpy as np
import pytest
import zmq

from continuer import wire
from continuer.bundle import Bundle
from continuer.client import Client
from continuer.demo.cluster import Cluster
from continuer.plan import Hop, Version
from continuer.wire import (
    BUNDLE_ID_BYTES,
    Accepted,
    Hello,
    Refuse,
    Rejected,
    Reply,
    Result,
    Submit,
    TensorMeta,
    Work,
)
from tests.integration.strangers import (
    CLIENT,
    IMAGE,
    IMAGE_META,
    NODE,
    Peer,
    connect,
    endpoints,
    frame,
    journalled,
    shake_hands,
)
from tests.integration.support import BUDGET_MS, state, until


def work_for(cluster: Cluster, shipped: Bundle, /, **changes: object) -> Work:
    """Work that NODE would do, were it not for the changes."""
    (node,) = [n for n in state(cluster)["nodes"] if n["node"] == NODE]
    work = Work(
        cluster="continuer",
        client=CLIENT,
        seq=1,
        deployment="default",
        request_class="",
        bundle=shipped.hash[:BUNDLE_ID_BYTES],
        origin=NODE,
        origin_incarnation=node["incarnation"],
        attempt=1,
        version=Version(1, 1),
        remaining_us=1_000_000,
        cursor=0,
        route=(Hop(NODE, node["incarnation"], (shipped.part_ids["stem"],)),),
        tensors=IMAGE_META,
    )
    return msgspec.structs.replace(work, **changes)


def test_damaged_work_is_dropped(unharmed: Cluster, bundle: Bundle) -> None:
    data = endpoints(unharmed, NODE)["data"]
    incarnation = work_for(unharmed, bundle).origin_incarnation
    stem = bundle.part_ids["stem"]
    here = Hop(NODE, incarnation, (stem,))
    damages: list[dict[str, object]] = [
        {"route": (here, Hop("nobody", 1, (1,)))},  # done here, then on to a stranger
        {"route": (Hop("nobody", 1, (stem,)),)},
        {"route": ()},
        {"route": (Hop(NODE, incarnation, ()),)},
        {"route": (Hop(NODE, incarnation, (10**6,)),)},
        {"route": (Hop(NODE, incarnation, (-1,)),)},
        {"route": (Hop(NODE, incarnation, (2**62, stem)),)},
        {"route": (here,) * 100, "cursor": 99},  # in circles through ourselves
        {"cursor": 1},
        {"cursor": -1},
        {"cursor": 2**40},
        {"bundle": bytes(BUNDLE_ID_BYTES)},
        {"bundle": b""},
        {"cluster": "staging"},
        {"origin": "nobody"},
        {"origin_incarnation": 1},
        {"remaining_us": 0},
        {"remaining_us": -5},
        {"attempt": 99},
        {"client": b""},
        {"tensors": (TensorMeta("float32", (1, 32, 32, 4)),)},
        {"tensors": (TensorMeta("object", (1, 32, 32, 3)),)},
        {"tensors": (TensorMeta("float32", (-1, 32, 32, 3)),)},
        {"tensors": (TensorMeta("float32", (2**31, 2**31, 2**31)),)},
        {"tensors": ()},
        {"tensors": IMAGE_META * 70},
        {"client": bytes(3800)},  # fits the cap here, but not with what the next hop adds
    ]
    with Peer(data, zmq.PUSH) as peer:
        for damage in damages:
            work = work_for(unharmed, bundle, **damage)
            peer.tell(work, IMAGE)
            peer.tell(work)  # without its tensor
            peer.tell(work, b"x")  # with another one
    until(lambda: journalled(unharmed, "data"), "the journal to speak of it")


def test_a_header_just_below_the_cap_does_not_fall_over_it(
    unharmed: Cluster, bundle: Bundle
) -> None:
    data = endpoints(unharmed, NODE)["data"]
    empty = len(wire.encode(work_for(unharmed, bundle, client=b"x" * 300)))
    with Peer(data, zmq.PUSH) as peer:
        for spare in range(24):
            client = b"x" * (300 + wire.MAX_HEADER_BYTES - empty - spare)
            peer.tell(work_for(unharmed, bundle, client=client), IMAGE)
            peer.tell(work_for(unharmed, bundle, client=client, bundle=bytes(16)), IMAGE)


def test_results_that_nobody_asked_for_change_no_answer(unharmed: Cluster, bundle: Bundle) -> None:
    answers = endpoints(unharmed, NODE)["answers"]
    work = work_for(unharmed, bundle)
    head = bundle.part_ids["head"]
    logits = np.full((1, 10), 9.0, np.float32)
    with Peer(answers, zmq.PUSH) as peer:
        for seq in range(200):
            result = Result(
                "continuer",
                CLIENT,
                seq,
                work.origin_incarnation,
                1,
                Version(1, 1),
                (Hop(NODE, work.origin_incarnation, (head,)),),
                1,
                (TensorMeta("float32", (1, 10)),),
            )
            peer.tell(result, logits)
            peer.tell(result)


def submit(**changes: object) -> Submit:
    """A request that would be answered, were it not for the changes."""
    good = Submit("continuer", CLIENT, 1, "", "", 2_000_000, 1, IMAGE_META)
    return msgspec.structs.replace(good, **changes)


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"cluster": "staging"}, "bad_input", "'staging'"),
        ({"deployment": "vgg16"}, "unknown_model", "'vgg16'"),
        ({"budget_us": 0}, "bad_input", "budget_us = 0"),
        ({"budget_us": 2**50}, "bad_input", "budget_us"),
        ({"client": bytes(3900)}, "bad_input", "client"),
        ({"request_class": "x" * 3900}, "bad_input", "request_class"),
        ({"deployment": "x" * 3900}, "unknown_model", "xxx"),
        ({"cluster": "\x00" * 3900}, "bad_input", "cluster"),
        ({"tensors": (TensorMeta("float32", (1, 3, 32, 32)),)}, "bad_input", "(1, 32, 32, 3)"),
        ({"tensors": (TensorMeta("int32", (1, 32, 32, 3)),)}, "bad_input", "float32"),
        ({"tensors": ()}, "bad_input", "1 tensor frames for 0"),
    ],
)
def test_an_ingress_refuses_a_damaged_request_and_says_why(
    cluster: Cluster, changes: dict[str, object], code: str, said: str
) -> None:
    """Our own client would not send these: others' clients may."""
    with Peer(cluster.endpoints[1], zmq.DEALER) as peer:
        peer.tell(submit(**changes), IMAGE)
        answer = peer.hear(Rejected)
        assert answer.code == code
        assert said in answer.message
        peer.tell(submit(seq=2), IMAGE)
        reply = peer.hear(Reply, Accepted)
        if isinstance(reply, Accepted):
            reply = peer.hear(Reply)
        assert reply.technique == "none"


def test_a_client_of_another_protocol_version_is_told_so(unharmed: Cluster) -> None:
    raw = bytearray(wire.encode(Hello("continuer", CLIENT)))
    assert raw[1] == wire.PROTOCOL
    raw[1] += 1
    with Peer(unharmed.endpoints[1], zmq.DEALER) as peer:
        peer.send(bytes(raw))
        refusal = peer.hear(Refuse)
    assert refusal.code == "protocol"
    assert f"protocol = {wire.PROTOCOL + 1}" in refusal.message
    assert "install the same version" in refusal.message


def test_a_client_that_never_reads_harms_nobody_else(unharmed: Cluster) -> None:
    """Its answers pile up in its own queue, until its connection is given up perhaps."""
    image = frame(IMAGE.tobytes())
    # Refusals are long and cost nothing to make: thousands of them, none read. What is asked
    # in earnest is little, so that the ingress is not busy for others.
    refused = frame(wire.encode(submit(seq=0, deployment="x" * 400)), more=True) + image
    with connect(unharmed.endpoints[0]) as sock, Client(unharmed.endpoints[:1]) as client:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        shake_hands(sock, zmq.DEALER)
        sock.sendall(frame(wire.encode(Hello("continuer", CLIENT))))
        for seq in range(1, 120):
            asked = frame(wire.encode(submit(seq=seq)), more=True) + image
            with suppress(ConnectionError):
                sock.sendall(refused * 20 + asked)
            if seq % 4 == 0:
                assert client.infer(IMAGE, BUDGET_MS).technique == "none"
