"""How a network was trained: kept beside its weights, and in the bundle's manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from continuer.errors import UsageError
from models.network import Network
from models.networks import define

#: Name of the file beside the weights.
RECIPE = "recipe.json"


@dataclass(frozen=True)
class Recipe:
    """What determines a training run, up to rounding.

    ``network``: its name. ``form``: of the training images. ``fraction``: of the training
    images used. ``width``: factor for channels. ``plain``: without exits and skips.
    ``precision``: of products. ``refine``: epochs with frozen statistics after ``epochs``.
    ``initial``: SHA-256 of the file of weights it began with; empty: drawn from the seed.
    """

    network: str
    form: str
    epochs: int
    seed: int
    learning_rate: float
    batch: int
    fraction: float
    width: float
    plain: bool
    precision: str
    refine: int = 0
    initial: str = ""

    def define(self) -> Network:
        """The network that it trains."""
        network = define(self.network, self.width)
        return network.plain() if self.plain else network

    def fields(self) -> dict[str, str | int | float | bool]:
        """The fields by name, for JSON."""
        return asdict(self)


def load_recipe(directory: Path) -> Recipe | None:
    """The recipe in a directory, or None. Raises UsageError when it is damaged."""
    path = directory / RECIPE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Recipe)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{path}: not a recipe ({error}); copy it again, or delete it") from error
