"""Starting without a bundle: the coordinator says which one, and hands out its manifest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zmq

from agent.fetch import Fetcher, Wanted
from agent.loader import reachable
from continuer import sockets, wire
from continuer.bundle import MAX_MANIFEST_BYTES, Bundle
from continuer.config import AgentConfig
from continuer.errors import ContinuerError, WireError
from continuer.journal import Journal
from continuer.security import signing, start
from continuer.store import Store
from continuer.wire import Offer, Refuse, Seek

ASK_EVERY_MS = 500


def seek(
    config: AgentConfig,
    store: Store,
    fetcher: Fetcher,
    journal: Journal,
    stopped: Callable[[], bool],
) -> Bundle | None:
    """The bundle to run, once the coordinator has said so and its manifest is here.

    Waits for both as long as it takes; None where ``stopped`` says that nobody waits for it.
    """
    said, coordinator = "", config.coordinator
    while not stopped():
        offer = _ask(config, coordinator)
        if isinstance(offer, Offer):
            problem = fetch_manifest(config.coordinator, store, fetcher, offer)
        else:
            problem = offer
        if not problem and isinstance(offer, Offer):
            bundle = store.bundle(offer.bundle)
            signing.check(bundle, offer.signature, signing.trusted_by(config))
            store.keep(bundle)
            return bundle
        if problem != said:
            journal.emit("bundle_awaited", coordinator=config.coordinator, problem=problem)
            said = problem
        coordinator = start.next_endpoint(coordinator)
    return None


def _ask(config: AgentConfig, coordinator: str) -> Offer | str:
    """The coordinator's offer, or why there is none yet."""
    context: zmq.Context[Any] = zmq.Context()
    try:
        link = sockets.make(context, zmq.DEALER, wire.MAX_CONTROL_BYTES)
        link.set(zmq.IMMEDIATE, 0)  # one question: it may wait for the connection
        sockets.dial(link, coordinator)
        link.send(wire.encode(Seek(config.cluster, config.node)))
        if not link.poll(ASK_EVERY_MS):
            return "the coordinator does not answer"
        answer = wire.decode(link.recv(), Offer, Refuse)
    except (zmq.ZMQError, WireError) as error:
        return str(error)
    finally:
        context.destroy(linger=0)
    return answer if isinstance(answer, Offer) else getattr(answer, "message", "refused")


def fetch_manifest(
    coordinator: str,
    store: Store,
    fetcher: Fetcher,
    offer: Offer,
    interrupted: Callable[[], bool] = lambda: False,
) -> str:
    """Have the manifest in the store; what is wrong, if anything."""
    if store.sound(offer.bundle):
        return ""
    wanted = Wanted(offer.bundle, MAX_MANIFEST_BYTES, "the manifest")
    try:
        fetched = fetcher.fetch([wanted], [reachable(offer.source, coordinator)], interrupted)
    except ContinuerError as error:
        return str(error)
    return "; ".join(fetched.problems)
