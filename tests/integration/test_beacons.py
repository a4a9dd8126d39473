"""Beacons in a real cluster, and a cluster whose firewall drops them."""

from __future__ import annotations

import socket
from typing import Any

from continuer.demo.cluster import HOST, free_ports
from tests.integration.conftest import StartCluster
from tests.integration.support import events


def come(state: dict[str, Any]) -> list[bool]:
    return [node["beacons"] for node in state["nodes"]]


def test_beacons_of_every_agent_come(start_cluster: StartCluster) -> None:
    cluster = start_cluster(2)
    cluster.wait_until(lambda state: come(state) == [True, True], "beacons of both", 20)
    assert not events(cluster, "coordinator", "foreign_bytes")


def test_where_none_can_come_heartbeats_on_the_links_do(start_cluster: StartCluster) -> None:
    port = free_ports(1)[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((HOST, port))
        cluster = start_cluster(
            2,
            agent={"coordinator": f"tcp://{HOST}:{port}"},
            coordinator={"agents_port": port},
        )
        state = cluster.status(brief=True)
        assert come(state) == [False, False]
        assert [node["state"] for node in state["nodes"]] == ["active", "active"]
