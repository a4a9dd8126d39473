"""Steps that the tests in network namespaces share."""

from __future__ import annotations

from collections.abc import Callable

from continuer.outage import RequestRecord
from tests.root.cluster import NetworkCluster, Traffic, failed_over, route_nodes

StartLoad = Callable[..., Traffic]  # of a rate and a budget, if these matter


def fail_over(cluster: NetworkCluster, node: str, reason: str = "silence") -> None:
    """Wait until a plan without the node is in force, for this reason and no other."""
    state = cluster.wait_for(
        lambda s: failed_over(s, node) and node not in route_nodes(s), f"a failover of {node}"
    )
    assert set(failed_over(state, node)) == {reason}


def come_back(cluster: NetworkCluster) -> None:
    """Mend everything and wait until every node is at work again."""
    cluster.network.heal()
    cluster.wait_for(all_at_work, "all nodes to be taken back in")


def all_at_work(state: dict[str, object]) -> bool:
    """The full plan is in force, and nobody is doubted."""
    return state["health"] == "full"


def finish_well(cluster: NetworkCluster, traffic: Traffic, without: str) -> list[RequestRecord]:
    """Nothing was lost; there are answers made without the node, and again with all nodes."""
    requests = traffic.finish()
    assert any(without not in r.nodes for r in requests)
    assert set(requests[-1].nodes) == set(cluster.nodes)
    return requests
