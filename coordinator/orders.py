"""What the operator has ordered through the CLI, kept across restarts of the coordinator."""

from __future__ import annotations

from pathlib import Path

import msgspec

from continuer.errors import ConfigError
from continuer.objectives import Objectives

FILE = "orders.json"


class Orders(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``objectives`` override the configuration's until reset; ``drained`` nodes get no work."""

    objectives: Objectives | None = None
    drained: tuple[str, ...] = ()


def load(state_dir: Path | None) -> Orders:
    """The orders in force when the coordinator ended. Raises ConfigError where unreadable."""
    if state_dir is None:
        return Orders()
    path = state_dir / FILE
    try:
        orders = msgspec.json.decode(path.read_bytes(), type=Orders)
    except FileNotFoundError:
        return Orders()
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            "state_dir", str(state_dir), f"cannot read {path}: {error}; repair or remove it"
        ) from error
    if orders.objectives is not None:
        orders.objectives.check(f"{path}: objectives.")
    return orders


def save(state_dir: Path, orders: Orders) -> None:
    """Write the orders; the file is whole at all times. Raises OSError."""
    state_dir.mkdir(parents=True, exist_ok=True)
    temporary = state_dir / (FILE + ".new")
    temporary.write_bytes(msgspec.json.encode(orders) + b"\n")
    temporary.replace(state_dir / FILE)
