"""The networks that can be trained and built, by name."""

from __future__ import annotations

from models import allconv, mobilenetv2, resnet32
from models.network import Network

_DEFINITIONS = {
    "resnet32": resnet32.define,
    "mobilenetv2": mobilenetv2.define,
    "allconv": allconv.define,
}
NAMES = tuple(_DEFINITIONS)


def define(name: str, width: float = 1.0) -> Network:
    """The network of one of ``NAMES``; ``width`` multiplies its channels."""
    return _DEFINITIONS[name](width)
