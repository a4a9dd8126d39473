"""Which process a bundle's parts run in."""

from __future__ import annotations

import hashlib
import math
import sys

from agent.engine import Engine, Runner
from agent.memory import MIB
from agent.own_process import OwnProcess
from continuer.bundle import MANIFEST, Bundle
from continuer.catalog import shipped_bundles
from continuer.config import AgentConfig
from continuer.errors import ConfigError
from continuer.journal import Journal


def make_engine(bundle: Bundle, config: AgentConfig, journal: Journal) -> Engine:
    """The engine for a bundle, as the configuration says. ``stop`` it when it is not needed.

    Raises ConfigError where a process of its own is wanted and cannot be had, EngineLostError where
    it does not start.
    """
    memory = config.memory_mib * MIB if config.memory_mib else math.inf
    runner: Runner | None = None
    if wants_own_process(bundle, config):
        if not sys.platform.startswith("linux"):
            remedy = "a process of its own for the engine needs Linux; set 'in_process'"
            raise ConfigError("engine", config.engine, remedy)
        limit = config.engine_memory_mib
        runner = OwnProcess(
            bundle,
            None if limit is None else int(limit * MIB),
            config.engine_deadline_ms / 1e3,
            journal.emit,
        )
    return Engine(bundle, memory, config.slowdown, runner)


def wants_own_process(bundle: Bundle, config: AgentConfig) -> bool:
    """Whether the bundle runs in a process of its own."""
    if config.engine != "auto":
        return config.engine == "own_process"
    return bundle.manifest.recipe is None and not _shipped(bundle)


def _shipped(bundle: Bundle) -> bool:
    """The bundle came with this installation, whatever else has its name."""
    directory = shipped_bundles().get(bundle.name)
    if directory is None:
        return False
    return hashlib.sha256((directory / MANIFEST).read_bytes()).digest() == bundle.hash
