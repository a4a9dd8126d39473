"""What a table predicts, by node, part and variant; and which table is in use, or why none is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from continuer import table as tables
from continuer.bundle import Bundle
from continuer.events import Event
from continuer.table import PredictedAccuracy, Table, TableError


class Predictions:
    """A table, indexed. Made once, when the table is read."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._latencies = {node: table.kinds[kind].latency_us for node, kind in table.nodes.items()}
        self._accuracies = {
            (entry.exit, frozenset(entry.skipped)): entry for entry in table.accuracies
        }

    def accuracy(self, exit_name: str | None, skipped: Iterable[str]) -> PredictedAccuracy | None:
        """What is predicted of a variant; None where the table does not have it."""
        return self._accuracies.get((exit_name, frozenset(skipped)))

    def latency_us(self, node: str) -> tuple[float, ...] | None:
        """Latency of every part on a node, by part number; None where its kind is unknown."""
        return self._latencies.get(node, self._latencies.get("*"))


class TableInUse(NamedTuple):
    """The table that plans are made with, or why there is none."""

    file: str | None = None
    predictions: Predictions | None = None
    problem: str = "no table is configured; what is not measured is estimated"

    def report(self) -> dict[str, Any]:
        """As ``continuer status --json`` shows it."""
        made = self.predictions.table.provenance if self.predictions is not None else None
        return {
            "file": self.file,
            "in_use": self.predictions is not None,
            "built": made.built if made is not None else None,
            "problem": self.problem,
        }


def read(file: str | None, bundle: Bundle) -> tuple[TableInUse, Event]:
    """The configured table, and what the journal says of it.

    A table that cannot be used stops nothing: measured values go on being used, and the reason
    is kept for the status.
    """
    if file is None:
        none = TableInUse()
        return none, Event("table_absent", {"problem": none.problem})
    try:
        table = tables.load(Path(file), bundle)
    except TableError as error:
        refused = TableInUse(file, None, str(error))
        return refused, Event("table_refused", {"file": file, "problem": str(error)})
    fields = {
        "file": file,
        "built": table.provenance.built,
        "kinds": len(table.kinds),
        "variants": len(table.accuracies),
    }
    return TableInUse(file, Predictions(table), ""), Event("table_loaded", fields)
