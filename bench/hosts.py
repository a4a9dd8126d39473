"""A cluster on hosts of its own: network namespaces joined by a switch. Needs root."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from continuer.catalog import find_bundle
from continuer.demo.cluster import Cluster, Place
from tests.root.network import Network

MODEL = "resnet32-cifar10"


class HostedCluster(Cluster):
    """Each daemon is on the host of its name."""

    def __init__(self, directory: Path, network: Network, nodes: list[str]) -> None:
        self.network = network
        places = {
            name: Place(network.address(name), network.prefix(name))
            for name in ("coordinator", *nodes)
        }
        super().__init__(directory, find_bundle(MODEL), nodes, places=places)

    def status(self, *, brief: bool = False) -> dict[str, Any]:
        """What the coordinator says, asked on its own host."""
        asked = super().status
        return self.network.call("coordinator", lambda: asked(brief=brief))


@contextmanager
def hosted(directory: Path, nodes: list[str]) -> Iterator[HostedCluster]:
    """A cluster with the settings that a fleet has by default, all nodes in its plan."""
    network = Network([*nodes, "coordinator", "client"])
    try:
        cluster = HostedCluster(directory, network, nodes)
        try:
            cluster.start_all()
            yield cluster
        finally:
            cluster.stop_all()
    finally:
        network.close()
