"""What the operator can order of deployments, once the files are here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from continuer.errors import BundleError, UsageError
from coordinator.commands import Command
from coordinator.deploying import Deployments
from coordinator.library import Library

MAX_SIGNATURE_BYTES = 1000

Outcome = tuple[dict[str, Any], list[Command]]


class DeployVerbs:
    """Verbs for ``coordinator/verbs.py``, which turns their errors into answers."""

    def __init__(self, deployments: Deployments, library: Library) -> None:
        self._deployments = deployments
        self._library = library

    @property
    def table(self) -> dict[str, Callable[[dict[str, Any], int], Outcome]]:
        """The verbs by name."""
        return {
            "deploy.start": self._start,
            "deploy.rollback": self._rollback,
            "deploy.cancel": self._cancel,
        }

    def _start(self, arguments: dict[str, Any], now: int) -> Outcome:
        signature = arguments.get("signature", b"")
        if not isinstance(signature, bytes) or len(signature) > MAX_SIGNATURE_BYTES:
            raise UsageError("signature: give what 'continuer model sign' has made")
        try:
            digest = bytes.fromhex(str(arguments.get("bundle", "")))
            bundle = self._library.find(digest)
        except (BundleError, ValueError) as error:
            raise UsageError(f"bundle: {error}") from error
        new_input = arguments.get("new_input") is True
        commands = self._deployments.start(bundle, signature, now, new_input=new_input)
        return self._said(now), commands

    def _rollback(self, arguments: dict[str, Any], now: int) -> Outcome:
        bundle, signature = self._library.previous()
        new_input = arguments.get("new_input") is True
        commands = self._deployments.start(
            bundle, signature, now, rollback=True, new_input=new_input
        )
        return self._said(now), commands

    def _cancel(self, _: dict[str, Any], now: int) -> Outcome:
        commands = self._deployments.cancel(now)
        return self._said(now), commands

    def report(self, now: int) -> dict[str, Any] | None:
        """The latest deployment, for the status."""
        return self._deployments.report(now)

    def _said(self, now: int) -> dict[str, Any]:
        return {"schema": 1, "rollout": self.report(now)}
