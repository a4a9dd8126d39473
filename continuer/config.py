"""Configuration of both daemons: TOML files, checked key by key.

A wrong file is refused as a whole with a ConfigError that names the key, the value and the
remedy, and the daemon ends with exit code 78 before it opens a socket.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import sys
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from continuer.errors import ConfigError
from continuer.objectives import Objectives

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Standby = Literal["all", "none"]
ForcedTechnique = Literal["auto", "repartition", "early_exit", "skip"]
NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
MAX_NODES = 200


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``agent.toml``. Ports of 0 let the system choose; ``advertise`` is what peers dial.

    ``standby``: ``all`` keeps every part of the model in memory, as far as ``memory_mib``
    allows; ``none`` only what the plan and its bridges need. ``realtime``: heartbeats run with
    real-time priority where the system permits it (see ``continuer/realtime.py``).
    """

    node: str
    bundle: str
    coordinator: str
    cluster: str = "continuer"
    listen: str = "127.0.0.1"
    advertise: str | None = None
    ingress_port: int = 7410
    data_port: int = 7411
    answers_port: int = 7412
    standby: Standby = "all"
    memory_mib: float | None = None
    heartbeat_ms: float = 10.0
    max_inflight: int = 256
    max_inflight_mib: float = 64.0
    resend_after_ms: float = 500.0
    realtime: bool = True

    def check(self) -> None:
        """Raise ConfigError for the first value that cannot work."""
        _check_name("node", self.node)
        _check_name("cluster", self.cluster)
        check_endpoint("coordinator", self.coordinator)
        _check_address("listen", self.listen)
        if self.advertise is None and ipaddress.ip_address(self.listen).is_unspecified:
            raise ConfigError(
                "advertise", None, f"set the address that peers dial, since listen is {self.listen}"
            )
        if self.advertise is not None:
            _check_host("advertise", self.advertise)
        ports = [self.ingress_port, self.data_port, self.answers_port]
        for key, port in zip(("ingress_port", "data_port", "answers_port"), ports, strict=True):
            _check_port(key, port)
        chosen = [port for port in ports if port]
        if len(set(chosen)) != len(chosen):
            raise ConfigError("data_port", self.data_port, "give three different ports")
        _check_range("heartbeat_ms", self.heartbeat_ms, 1, 60_000)
        _check_range("max_inflight", self.max_inflight, 1, 100_000)
        _check_range("max_inflight_mib", self.max_inflight_mib, 0.1, 1 << 16)
        _check_range("resend_after_ms", self.resend_after_ms, 1, 600_000)
        if self.memory_mib is not None:
            _check_range("memory_mib", self.memory_mib, 0.1, 1 << 20)


class CoordinatorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``coordinator.toml``. ``nodes`` in pipeline order: who may join, and who comes first.

    ``heartbeat_timeout_ms``: a node silent for this long is suspect (the timeout grows by
    itself where heartbeats are seen to jitter); silent for ``dead_after_ms`` it is dead. A
    node that returns is taken in after ``return_stable_ms`` without a fault. ``realtime`` as
    for agents.
    """

    bundle: str
    nodes: tuple[str, ...]
    cluster: str = "continuer"
    deployment: str = "default"
    listen: str = "127.0.0.1"
    agents_port: int = 7400
    control_port: int = 7401
    state_dir: str | None = None
    heartbeat_timeout_ms: float = 30.0
    dead_after_ms: float = 1000.0
    return_stable_ms: float = 1000.0
    form_timeout_ms: float = 5000.0
    technique: ForcedTechnique = "auto"
    expected_rate_per_s: float = 1.0
    hop_us: float = 300.0
    max_utilisation: float = 0.8
    realtime: bool = True
    objectives: Objectives = Objectives()

    def check(self) -> None:
        """Raise ConfigError for the first value that cannot work."""
        _check_name("cluster", self.cluster)
        _check_name("deployment", self.deployment)
        if not 1 <= len(self.nodes) <= MAX_NODES:
            raise ConfigError("nodes", list(self.nodes), f"name 1 to {MAX_NODES} nodes")
        for node in self.nodes:
            _check_name("nodes", node)
            if self.nodes.count(node) > 1:
                raise ConfigError("nodes", node, "name each node once")
        _check_address("listen", self.listen)
        _check_port("agents_port", self.agents_port)
        _check_port("control_port", self.control_port)
        if self.agents_port and self.agents_port == self.control_port:
            raise ConfigError("control_port", self.control_port, "differ from agents_port")
        _check_range("heartbeat_timeout_ms", self.heartbeat_timeout_ms, 2, 600_000)
        _check_range("dead_after_ms", self.dead_after_ms, 1, 3_600_000)
        if self.dead_after_ms < self.heartbeat_timeout_ms:
            raise ConfigError(
                "dead_after_ms",
                self.dead_after_ms,
                f"give at least heartbeat_timeout_ms ({self.heartbeat_timeout_ms})",
            )
        _check_range("return_stable_ms", self.return_stable_ms, 0, 3_600_000)
        _check_range("form_timeout_ms", self.form_timeout_ms, 0, 3_600_000)
        _check_range("expected_rate_per_s", self.expected_rate_per_s, 0, 1e6)
        _check_range("hop_us", self.hop_us, 0, 1e6)
        _check_range("max_utilisation", self.max_utilisation, 0.01, 1)
        self.objectives.check()


C = TypeVar("C", AgentConfig, CoordinatorConfig)


def load(path: Path | str, kind: type[C]) -> C:
    """Read and check a configuration file; raises ConfigError."""
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            "--config", str(path), f"{error.strerror}; give a readable file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError("--config", str(path), f"not valid TOML: {error}") from error
    return parse(raw, kind)


def parse(raw: dict[str, Any], kind: type[C]) -> C:
    """Turn a decoded TOML table into a checked configuration; raises ConfigError."""
    _check_keys(raw, kind, "")
    try:
        config = msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        key, value = _culprit(str(error), raw)
        raise ConfigError(key, value, str(error).split(" - at ")[0]) from error
    config.check()
    return config


def _check_keys(raw: dict[str, Any], kind: type[msgspec.Struct], prefix: str) -> None:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key, value in raw.items():
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            remedy = (
                f"unknown key; did you mean {close[0]!r}?" if close else "unknown key; remove it"
            )
            raise ConfigError(prefix + key, value, remedy)
        inner = fields[key].type
        if (
            isinstance(value, dict)
            and isinstance(inner, type)
            and issubclass(inner, msgspec.Struct)
        ):
            _check_keys(value, inner, f"{prefix}{key}.")
    for name, field in fields.items():
        if field.required and name not in raw:
            raise ConfigError(prefix + name, None, "missing; every configuration needs it")


def _culprit(message: str, raw: dict[str, Any]) -> tuple[str, object]:
    """Key and value that a msgspec message such as ``... - at `$.a.b[0]``` speaks of."""
    found = re.search(r"at `\$\.?([^`]*)`", message)
    key = found.group(1) if found else "(file)"
    value: Any = raw
    for step in re.findall(r"[\w-]+", key):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            break
    return key, value


def _check_name(key: str, value: str) -> None:
    if not NAME.fullmatch(value):
        raise ConfigError(key, value, "use 1 to 63 of a-z, 0-9, '-', '_', '.', as in 'n1'")


def _check_port(key: str, value: int) -> None:
    if not 0 <= value <= 65535:
        raise ConfigError(key, value, "give a port from 1 to 65535, or 0 to let the system choose")


def _check_address(key: str, value: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ConfigError(key, value, "give the IP address of an interface, or 0.0.0.0") from None


def _check_host(key: str, value: str) -> None:
    if not HOST.fullmatch(value) or value == "0.0.0.0":  # noqa: S104  # refused, not bound
        raise ConfigError(key, value, "give a host name or an address such as 10.0.0.2")


def check_endpoint(key: str, value: str) -> None:
    """Raise ConfigError unless the value is a ``tcp://HOST:PORT`` that can be dialled."""
    found = re.fullmatch(r"tcp://([^:/\s*]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", value)
    if found is None or not 1 <= int(found.group(2)) <= 65535:
        raise ConfigError(key, value, "give an endpoint such as tcp://10.0.0.1:7400")


def _check_range(key: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(key, value, f"give a number from {low:g} to {high:g}")
