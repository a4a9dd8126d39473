"""Configuration of both daemons: TOML files, checked key by key.

A wrong file is refused as a whole with a ConfigError that names the key, the value and the
remedy, and the daemon ends with exit code 78 before it opens a socket.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from continuer.config_sources import gather
from continuer.errors import ConfigError
from continuer.objectives import DeploymentObjectives
from continuer.placement import Link
from continuer.security.identity import check_key, split

Standby = Literal["all", "neighbours", "none"]
SecurityMode = Literal["auto", "on", "off"]
EngineMode = Literal["auto", "in_process", "own_process"]
LogLevel = Literal["info", "warning", "error", "critical"]
ForcedTechnique = Literal["auto", "repartition", "early_exit", "skip"]
NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
MAX_NODES = 200


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``agent.toml``. Ports of 0 let the system choose; ``advertise`` is what peers dial.

    ``standby``: ``all`` keeps every part of the model in memory, as far as ``memory_mib``
    allows; ``neighbours`` what the boxes before and behind this one run, so that either's work
    can be taken over at once; ``none`` only what the plan and its bridges need. Without a
    ``bundle`` the coordinator's is fetched into ``state_dir``. ``realtime``: heartbeats run with
    real-time priority where the system permits it (see ``continuer/realtime.py``).
    ``drain_timeout_s``: an agent that is told to stop waits for as long at most until others do
    its work. ``log_level``: what is less severe is not written to the journal. ``metrics``: where
    Prometheus and health checks may ask. ``state_dir`` keeps the highest plan version accepted,
    so that a restarted agent obeys no older one. ``continuer/config_docs.py`` says it all of
    every key.
    """

    node: str
    coordinator: str
    bundle: str | None = None
    cluster: str = "continuer"
    listen: str = "127.0.0.1"
    advertise: str | None = None
    ingress_port: int = 7410
    data_port: int = 7411
    answers_port: int = 7412
    store_port: int = 7413
    transfer_mib_per_s: float | None = None
    standby: Standby = "all"
    memory_mib: float | None = None
    heartbeat_ms: float = 10.0
    max_inflight: int = 256
    max_inflight_mib: float = 64.0
    resend_after_ms: float = 500.0
    drain_timeout_s: float = 10.0
    realtime: bool = True
    log_level: LogLevel = "info"
    metrics: str | None = None
    state_dir: str | None = None
    security: SecurityMode = "auto"
    trusted_keys: tuple[str, ...] = ()
    development: bool = False
    slowdown: float = 1.0
    engine: EngineMode = "auto"
    engine_memory_mib: float | None = None
    engine_deadline_ms: float = 300.0

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
        if self.bundle is None and self.state_dir is None:
            remedy = "give a bundle's directory, or a 'state_dir' to fetch the coordinator's into"
            raise ConfigError("bundle", None, remedy)
        keys = ("ingress_port", "data_port", "answers_port", "store_port")
        ports = [getattr(self, key) for key in keys]
        for key, port in zip(keys, ports, strict=True):
            _check_port(key, port)
        chosen = [port for port in ports if port]
        if len(set(chosen)) != len(chosen):
            raise ConfigError("data_port", self.data_port, "give four different ports")
        if self.transfer_mib_per_s is not None:
            _check_range("transfer_mib_per_s", self.transfer_mib_per_s, 0.01, 1e5)
        _check_range("heartbeat_ms", self.heartbeat_ms, 1, 60_000)
        _check_range("slowdown", self.slowdown, 1, 1000)
        _check_range("engine_deadline_ms", self.engine_deadline_ms, 10, 600_000)
        if self.engine_memory_mib is not None:
            _check_range("engine_memory_mib", self.engine_memory_mib, 1, 1 << 20)
        _check_range("max_inflight", self.max_inflight, 1, 100_000)
        _check_range("max_inflight_mib", self.max_inflight_mib, 0.1, 1 << 16)
        _check_range("resend_after_ms", self.resend_after_ms, 1, 600_000)
        _check_range("drain_timeout_s", self.drain_timeout_s, 0, 3600)
        if self.memory_mib is not None:
            _check_range("memory_mib", self.memory_mib, 0.1, 1 << 20)
        _check_metrics(self.metrics, chosen)


class LinkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[links]]``: what a hop between two nodes costs, in either direction, where it differs.

    ``hop_us`` in place of the coordinator's, and the time that the tensors take at
    ``mbit_per_s``, where that is given.
    """

    between: tuple[str, str]
    hop_us: float | None = None
    mbit_per_s: float | None = None

    def check(self, nodes: tuple[str, ...]) -> None:
        """Raise ConfigError for nodes that there are not, or figures that cannot be."""
        if self.between[0] == self.between[1] or not set(self.between) <= set(nodes):
            remedy = f"name two of the nodes {', '.join(nodes)}"
            raise ConfigError("links.between", list(self.between), remedy)
        if self.hop_us is not None:
            _check_range("links.hop_us", self.hop_us, 0, 1e7)
        if self.mbit_per_s is not None:
            _check_range("links.mbit_per_s", self.mbit_per_s, 1e-3, 1e6)

    def link(self, usual_us: float) -> Link:
        """The link as placement sees it. A megabit a second is an eighth of a byte a us."""
        us_per_byte = 8 / self.mbit_per_s if self.mbit_per_s is not None else 0.0
        return Link(usual_us if self.hop_us is None else self.hop_us, us_per_byte)


class CoordinatorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``coordinator.toml``. ``nodes`` in pipeline order: who may join, and who comes first.

    ``heartbeat_timeout_ms``: a node silent for this long is suspect (the timeout grows by
    itself where heartbeats are seen to jitter); silent for ``dead_after_ms`` it is dead. A
    node that returns is taken in after ``return_stable_ms`` without a fault. ``realtime`` as
    for agents. ``tables``: what ``continuer predictors build`` wrote; one that cannot be used is
    refused with a journal entry, and plans are made without.
    """

    bundle: str
    nodes: tuple[str, ...]
    cluster: str = "continuer"
    deployment: str = "default"
    listen: str = "127.0.0.1"
    agents_port: int = 7400
    control_port: int = 7401
    store_port: int = 7402
    transfer_mib_per_s: float | None = None
    join_port: int = 7403
    state_dir: str | None = None
    security: SecurityMode = "auto"
    heartbeat_timeout_ms: float = 30.0
    dead_after_ms: float = 1000.0
    return_stable_ms: float = 1000.0
    form_timeout_ms: float = 5000.0
    technique: ForcedTechnique = "auto"
    expected_rate_per_s: float = 1.0
    hop_us: float = 300.0
    max_utilisation: float = 0.8
    realtime: bool = True
    log_level: LogLevel = "info"
    metrics: str | None = None
    tables: str | None = None
    objectives: DeploymentObjectives = DeploymentObjectives()
    links: tuple[LinkConfig, ...] = ()

    @property
    def slow_links(self) -> dict[tuple[str, str], Link]:
        """What ``links`` says of each direction of a link."""
        found = {}
        for entry in self.links:
            for pair in (entry.between, entry.between[::-1]):
                found[pair] = entry.link(self.hop_us)
        return found

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
        _check_port("store_port", self.store_port)
        if self.agents_port and self.agents_port == self.control_port:
            raise ConfigError("control_port", self.control_port, "differ from agents_port")
        if self.store_port and self.store_port in (self.agents_port, self.control_port):
            raise ConfigError("store_port", self.store_port, "differ from the other two ports")
        if self.transfer_mib_per_s is not None:
            _check_range("transfer_mib_per_s", self.transfer_mib_per_s, 0.01, 1e5)
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
        _check_metrics(self.metrics, [self.agents_port, self.control_port])
        self.objectives.check()
        for link in self.links:
            link.check(self.nodes)


C = TypeVar("C", AgentConfig, CoordinatorConfig)


def load(
    path: Path | str,
    kind: type[C],
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> C:
    """Read and check a configuration file with its drop-ins, the environment and flags.

    Raises ConfigError, which names the source of a bad value where that is not the file.
    """
    found = gather(Path(path), kind, os.environ if environ is None else environ, flags or {})
    try:
        return parse(found.values, kind)
    except ConfigError as error:
        origin = found.origins.get(re.split(r"\[", error.key)[0])
        if origin:
            raise ConfigError(error.key, error.value, f"{error.remedy} (from {origin})") from error
        raise


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
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key, value in raw.items():
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            remedy = (
                f"unknown key; did you mean {close[0]!r}?" if close else "unknown key; remove it"
            )
            # TOML allows a key without a single letter; it has to be seen in the message too.
            raise ConfigError(prefix + (key or '""'), value, remedy)
        inner = fields[key].type
        if (
            isinstance(value, dict)
            and isinstance(inner, type)
            and issubclass(inner, msgspec.Struct)
        ):
            _check_keys(value, inner, f"{prefix}{key}.")
        elif isinstance(value, dict) and get_origin(inner) is dict:
            for name, table in value.items():
                _check_table(table, get_args(inner)[1], f"{prefix}{key}.{name}")
    for name, field in fields.items():
        if field.required and name not in raw:
            raise ConfigError(prefix + name, None, "missing; every configuration needs it")


def _check_table(table: object, kind: type[msgspec.Struct], key: str) -> None:
    """Check a table whose name is the user's choice: msgspec's errors would not say which."""
    if not isinstance(table, dict):
        raise ConfigError(key, table, "give a table")
    _check_keys(table, kind, f"{key}.")
    try:
        msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        inner, value = _culprit(str(error), table)
        raise ConfigError(f"{key}.{inner}", value, str(error).split(" - at ")[0]) from error


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
    """Raise ConfigError unless the value is a ``tcp://HOST:PORT`` that can be dialled.

    It may name the key that has to answer there, as ``tcp://HOST:PORT#KEY``.
    """
    where, public = split(value)
    found = re.fullmatch(r"tcp://([^:/\s*]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", where)
    if public is not None:
        check_key(key, public)
    if found is None or not 1 <= int(found.group(2)) <= 65535:
        raise ConfigError(key, value, "give an endpoint such as tcp://10.0.0.1:7400")


def _check_metrics(value: str | None, others: Sequence[int]) -> None:
    """``HOST:PORT`` with an address of this box, where ports are not those of others."""
    if value is None:
        return
    host, _, port = value.rpartition(":")
    remedy = "give HOST:PORT such as 127.0.0.1:9464, or leave it out"
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise ConfigError("metrics", value, remedy) from None
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ConfigError("metrics", value, remedy)
    if int(port) and int(port) in others:
        raise ConfigError("metrics", value, "give a port that no other key names")


def _check_range(key: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(key, value, f"give a number from {low:g} to {high:g}")
