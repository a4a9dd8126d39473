"""What the operator has ordered through the CLI, kept across restarts of the coordinator."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from continuer.errors import ConfigError
from continuer.objectives import ClassObjectives, Objectives, RequestClass

FILE = "orders.json"


class Orders(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``objectives`` override the configuration's until reset; ``drained`` nodes get no work.

    ``classes`` override what the configuration says of request classes, by name.
    """

    objectives: Objectives | None = None
    drained: tuple[str, ...] = ()
    classes: dict[str, ClassObjectives] = {}


def changed_objectives(
    before: tuple[Objectives, Iterable[RequestClass]],
    after: tuple[Objectives, Iterable[RequestClass]],
) -> dict[str, Any]:
    """What differs, by name: ``min_accuracy``, or ``class.alarm.min_accuracy`` of a class."""
    old, new = _flat(*before), _flat(*after)
    return {key: value for key, value in new.items() if value != old.get(key)}


def _flat(objectives: Objectives, classes: Iterable[RequestClass]) -> dict[str, Any]:
    own: dict[str, Any] = dict(msgspec.structs.asdict(objectives))
    for each in classes:
        inner = {**msgspec.structs.asdict(each.objectives), "redundancy": each.redundancy}
        # What a class inherits changes with the deployment's, and is said there.
        own |= {
            f"class.{each.name}.{key}": value
            for key, value in inner.items()
            if key == "redundancy" or value != getattr(objectives, key)
        }
    return own


def load(state_dir: Path | None) -> Orders:
    """The orders in force when the coordinator ended. Raises ConfigError where unreadable."""
    if state_dir is None:
        return Orders()
    path = state_dir / FILE
    try:
        orders = msgspec.json.decode(path.read_bytes(), type=Orders)
    except FileNotFoundError:
        return Orders()
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise ConfigError(
            "state_dir", str(state_dir), f"cannot read {path}: {error}; repair or remove it"
        ) from error
    if orders.objectives is not None:
        orders.objectives.check(f"{path}: objectives.")
    for name, wanted in orders.classes.items():
        wanted.check(orders.objectives or Objectives(), f"{path}: objectives.class.{name}.")
    return orders


def save(state_dir: Path, orders: Orders) -> None:
    """Write the orders; the file is whole at all times. Raises OSError."""
    state_dir.mkdir(parents=True, exist_ok=True)
    temporary = state_dir / (FILE + ".new")
    temporary.write_bytes(msgspec.json.encode(orders) + b"\n")
    temporary.replace(state_dir / FILE)
