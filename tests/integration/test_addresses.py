"""Clusters whose boxes have IPv6 addresses."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from continuer.bundle import Bundle
from continuer.client import Client
from continuer.demo.cluster import Cluster, Place
from tests.integration.strangers import IMAGE
from tests.integration.support import BUDGET_MS, kill, state, until


def has_ipv6() -> bool:
    """Whether this machine's loopback has its IPv6 address."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no ::1 here; enable IPv6 on the loopback interface")
def test_a_cluster_on_ipv6_answers_and_survives_a_death(tmp_path: Path, bundle: Bundle) -> None:
    nodes = ["n1", "n2", "n3"]
    places = dict.fromkeys(("coordinator", *nodes), Place("::1"))
    cluster = Cluster(tmp_path, bundle.directory, nodes, places=places)
    try:
        cluster.start_all()
        with Client(cluster.endpoints) as client:
            assert client.infer(IMAGE, BUDGET_MS).technique == "none"
            kill(cluster, "n2")
            until(lambda: state(cluster)["failovers"], "the failover")
            assert "n2" not in client.infer(IMAGE, BUDGET_MS).nodes
    finally:
        cluster.stop_all()
