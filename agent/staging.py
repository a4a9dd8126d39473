"""The staging thread: holds a bundle ready beside the running one, at the coordinator's offer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from agent.fetch import Fetcher
from agent.models import Model, Models
from agent.seeking import fetch_manifest
from continuer.bundle import Bundle
from continuer.config import AgentConfig
from continuer.errors import BundleError, ContinuerError
from continuer.journal import Journal
from continuer.plan import Member
from continuer.security import signing
from continuer.service import unwritable
from continuer.store import Store
from continuer.wire import Offer, PartTiming, Staged, Unstage

MAX_PROBLEM = 500
NO_STORE = (
    "this agent has nowhere to keep another bundle than the one in 'bundle'; give it a 'state_dir'"
)


class Staging(threading.Thread):
    """``make_model`` makes engine and loader of a bundle, and starts the latter.

    ``report`` is called in this thread, and so is ``make_model``.
    """

    def __init__(
        self,
        config: AgentConfig,
        fetching: tuple[Store, Fetcher] | None,
        member: Member,
        models: Models,
        make_model: Callable[[Bundle], Model],
        report: Callable[[Staged], None],
        journal: Journal,
    ) -> None:
        super().__init__(name="staging", daemon=True)
        self._config = config
        self._fetching = fetching
        self._member = member
        self._models = models
        self._make_model = make_model
        self._report = report
        self._journal = journal
        self._orders: queue.SimpleQueue[Offer | Unstage | Bundle | None] = queue.SimpleQueue()
        self._latest = b""
        self._stopping = False

    def post(self, order: Offer | Unstage | Bundle | None) -> None:
        """What the coordinator says, a bundle that is in force now, or None to end."""
        if order is None:
            self._stopping = True
        elif isinstance(order, Offer):
            self._latest = order.bundle
        self._orders.put(order)

    def run(self) -> None:
        """Obey until None is posted."""
        while (order := self._orders.get()) is not None:
            if isinstance(order, Offer):
                self._stage(order)
            elif isinstance(order, Unstage):
                self._models.drop(order.bundle)
            else:
                self._keep(order)

    def _stage(self, offer: Offer) -> None:
        def interrupted() -> bool:
            return self._stopping or self._latest != offer.bundle

        problem, stored = "", None
        loaded: tuple[PartTiming, ...] = ()
        fields = {"digest": offer.bundle.hex()[:16]}
        try:
            model = self._models.find(offer.bundle)
            if model is None:
                model = self._make_model(self._fetch(offer, interrupted))
                self._models.add(model)
            stored, loaded = model.loader.stored(), model.engine.timings()
            self._journal.emit("bundle_staged", bundle=model.bundle.name, **fields)
        except (ContinuerError, OSError) as error:
            problem = str(error)[:MAX_PROBLEM]
        if interrupted():
            return  # another one is offered meanwhile
        if problem:
            self._journal.emit("bundle_refused", problem=problem, **fields)
        own = self._member
        self._report(Staged(own.node, own.incarnation, offer.bundle, problem, stored, loaded))

    def _fetch(self, offer: Offer, interrupted: Callable[[], bool]) -> Bundle:
        """The offered bundle's manifest, here, and signed by whom this box trusts."""
        if self._fetching is None:
            raise BundleError(NO_STORE)
        store, fetcher = self._fetching
        coordinator = self._config.coordinator
        problem = fetch_manifest(coordinator, store, fetcher, offer, interrupted)
        if problem:
            raise BundleError(problem)
        bundle = store.bundle(offer.bundle)
        signing.check(bundle, offer.signature, signing.trusted_by(self._config))
        store.make_room(bundle)
        return bundle

    def _keep(self, bundle: Bundle) -> None:
        """It is in force: the last two stay on disk."""
        if self._fetching is None or not bundle.by_hash:
            return
        try:
            self._fetching[0].keep(bundle)
        except OSError as error:
            directory = self._config.state_dir
            assert directory is not None  # else there would be no store
            self._journal.emit("state_unwritable", problem=unwritable(directory, error))
