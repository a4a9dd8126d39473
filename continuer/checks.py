"""What ``continuer doctor`` looks at on a box: each check says ok, warn or fail, and a remedy.

A check takes what it looks at as arguments and touches nothing that a running daemon needs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from continuer import bundle as bundles
from continuer import realtime
from continuer.bundle import Bundle
from continuer.config import AgentConfig, CoordinatorConfig
from continuer.control import Connection
from continuer.errors import ContinuerError, UnreachableError
from continuer.version_cli import package_version

Outcome = Literal["ok", "warn", "fail"]
# The signature that begins ZMTP 3, sent by both sides at once.
GREETING_BYTES, GREETING_S = 10, 0.5
ROUND_TRIPS = 20
SLOW_MS = 20.0
CONNECT_S = 1.0
WHEELS = {
    "agent": ("ai-edge-litert", "msgpack", "msgspec", "numpy", "pyzmq", "structlog"),
    "coordinator": ("msgpack", "msgspec", "numpy", "pyzmq", "structlog"),
    "": ("msgpack", "msgspec", "numpy", "pyzmq"),
}
STA_UNSYNC = 0x40
# Nobody runs this before it was written: such a clock has never been set.
EARLIEST_S = 1_735_689_600  # 2025-01-01


class Finding(msgspec.Struct, frozen=True):
    """The outcome of one check; ``remedy`` is empty where it is ok."""

    check: str
    outcome: Outcome
    found: str
    remedy: str = ""


# --- the box --------------------------------------------------------------------------------


def wheels(role: str, version_of: Callable[[str], str | None] = package_version) -> Finding:
    """Packages that the role needs are installed."""
    found = {name: version_of(name) for name in WHEELS[role]}
    missing = [name for name, number in found.items() if number is None]
    if missing:
        extra = f"[{role}]" if role else ""
        remedy = f"pip install 'continuer{extra}' in the environment of {sys.executable}"
        return Finding("wheels", "fail", f"missing: {', '.join(missing)}", remedy)
    return Finding("wheels", "ok", ", ".join(f"{name} {n}" for name, n in found.items()))


class _Timex(ctypes.Structure):
    """The beginning of the kernel's ``struct timex``, and room for the rest of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("max_error_us", ctypes.c_long),
        ("error_us", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def clock(now_s: float | None = None, *, synchronised: bool | None = None) -> Finding:
    """The clock is set and kept. Only the order of a node's lives and the journal need it."""
    remedy = "set the clock and run an NTP client such as systemd-timesyncd or chrony"
    if (time.time() if now_s is None else now_s) < EARLIEST_S:
        found = "has not been set: a restarted node may be taken for an older life of it"
        return Finding("clock", "fail", found, remedy)
    if synchronised is None:
        synchronised = _clock_is_synchronised()
    if not synchronised:
        return Finding("clock", "warn", "not synchronised; journals will not line up", remedy)
    return Finding("clock", "ok", "synchronised")


def _clock_is_synchronised() -> bool:
    state = _Timex()
    library = ctypes.CDLL(None, use_errno=True)
    return library.adjtimex(ctypes.byref(state)) >= 0 and not state.status & STA_UNSYNC


def governor(root: Path = Path("/sys/devices/system/cpu")) -> Finding:
    """The CPU does not slow down between requests."""
    files = sorted(root.glob("cpu[0-9]*/cpufreq/scaling_governor"))
    found = {file.read_text(encoding="ascii").strip() for file in files}
    if not found:
        return Finding("governor", "ok", "the frequency is not ours to set (a virtual machine?)")
    if found <= {"performance", "schedutil"}:
        return Finding("governor", "ok", ", ".join(sorted(found)))
    remedy = "cpupower frequency-set -g performance"
    text = f"{', '.join(sorted(found))}: latencies vary with the CPU's frequency"
    return Finding("governor", "warn", text, remedy)


def journald(path: Path = Path("/run/systemd/journal/socket")) -> Finding:
    """A journald takes events."""
    if path.exists():
        return Finding("journald", "ok", f"{path} is there")
    remedy = "none is needed where another program collects the daemons' standard error"
    return Finding("journald", "warn", "not there: events go to standard error", remedy)


def real_time(permitted: Callable[[], bool] = realtime.permitted) -> Finding:
    """Heartbeats may run with real-time priority. Asked of this user, not of the service."""
    if permitted():
        return Finding("realtime", "ok", "permitted to this user")
    remedy = "LimitRTPRIO=1 in the unit, or ulimit -r 1; else a longer heartbeat_timeout_ms"
    return Finding("realtime", "warn", "not permitted to this user", remedy)


# --- a daemon's configuration ---------------------------------------------------------------


def model(directory: str) -> tuple[Finding, Bundle | None]:
    """The bundle's files are those that its manifest speaks of."""
    try:
        bundle = bundles.load(directory)
        bundle.verify_files()
    except ContinuerError as error:
        remedy = "copy the bundle anew, then 'continuer model verify'"
        return Finding("model", "fail", str(error), remedy), None
    text = f"{bundle.name}, {len(bundle.part_names)} files, {bundle.hash.hex()[:16]}"
    return Finding("model", "ok", text), bundle


def ports(config: AgentConfig | CoordinatorConfig) -> Iterator[Finding]:
    """Each configured port can be listened at, or a daemon listens there already."""
    keys = [key for key in config.__struct_fields__ if key.endswith("_port")]
    for key in keys:
        yield port(key, config.listen, getattr(config, key))


def port(key: str, host: str, number: int) -> Finding:
    """Whether a port of an address of this box is free."""
    if number == 0:
        return Finding("port", "ok", f"{key}: the system chooses")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, number))
        except OSError as error:
            text = f"{key}: {host}:{number}: {error.strerror}"
            if error.errno == errno.EADDRINUSE:
                if speaks_zeromq(family, host, number):
                    return Finding("port", "ok", f"{key}: {host}:{number} is used, as by a daemon")
                remedy = f"fine if the daemon runs; else see who: ss -ltnp 'sport = :{number}'"
                return Finding("port", "warn", text, remedy)
            return Finding("port", "fail", text, "give an address of this box as 'listen'")
    return Finding("port", "ok", f"{key}: {host}:{number} is free")


def speaks_zeromq(family: int, host: str, number: int) -> bool:
    """Whether who listens there greets as ZeroMQ does, which a running daemon explains."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(GREETING_S)
            sock.connect((host, number))
            greeting = sock.recv(GREETING_BYTES, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(greeting) == GREETING_BYTES and greeting[0] == 0xFF and greeting[-1] == 0x7F


def permissions(file: Path, config: AgentConfig | CoordinatorConfig) -> Iterator[Finding]:
    """The configuration is nobody else's to change, the state directory can be written."""
    mode = file.stat().st_mode
    if mode & 0o002:
        yield Finding("permissions", "fail", f"{file}: all may write it", f"chmod o-w {file}")
    else:
        yield Finding("permissions", "ok", f"{file}: mode {mode & 0o777:o}")
    state = getattr(config, "state_dir", None)
    if state is None:
        return
    place = Path(state)
    near = next(p for p in (place, *place.parents) if p.exists())
    if os.access(near, os.W_OK | os.X_OK) and near.is_dir():
        yield Finding("permissions", "ok", f"state_dir {state}: can be written by this user")
    else:
        remedy = f"chown it to the daemon's user: install -d -o USER {state}"
        text = f"state_dir {state}: this user cannot write {near}"
        yield Finding("permissions", "warn", text, remedy)


# --- the cluster ----------------------------------------------------------------------------


def cluster(endpoint: str, mine: Bundle | None) -> Iterator[Finding]:
    """The coordinator answers, in good time, for the same model; its nodes can be reached."""
    try:
        with Connection(endpoint) as connection:
            took = []
            for _ in range(ROUND_TRIPS):
                started = time.monotonic()
                state = connection.ask("status", brief=True)
                took.append(1000 * (time.monotonic() - started))
    except ContinuerError as error:
        remedy = "systemctl status continuer-coordinator there; a firewall between?"
        text = str(error)
        kind: Outcome = "fail" if isinstance(error, UnreachableError) else "warn"
        yield Finding("coordinator", kind, text, remedy)
        return
    yield Finding("coordinator", "ok", f"{endpoint}: {state['model']}, {state['health']}")
    yield _round_trip("coordinator", took)
    if mine is not None and mine.hash.hex() != state["bundle"]:
        text = f"this box has {mine.hash.hex()[:16]}, the cluster {state['bundle'][:16]}"
        yield Finding("model", "fail", text, "copy the same bundle to all boxes")
    for node in state["nodes"]:
        yield from _node(node)


def _node(node: dict[str, Any]) -> Iterator[Finding]:
    name = node["node"]
    if node["state"] not in ("active", "joined", "draining", "drained"):
        text = f"{name}: {node['state']} {node['reason']}".rstrip()
        yield Finding("node", "fail", text, f"systemctl status continuer-agent on {name}")
    for what in ("ingress", "data", "answers"):
        if node[what] is None:
            continue
        where = urlsplit(node[what])
        started = time.monotonic()
        try:
            socket.create_connection((where.hostname, where.port), CONNECT_S).close()
        except OSError as error:
            text = f"{name}: {what} {node[what]}: {error.strerror or error}"
            yield Finding("node", "fail", text, "is the agent up? a firewall between?")
            continue
        yield _round_trip(f"{name} {what}", [1000 * (time.monotonic() - started)])


def _round_trip(what: str, took_ms: Sequence[float]) -> Finding:
    middle = statistics.median(took_ms)
    text = f"{what}: {middle:.2f} ms, largest {max(took_ms):.2f} ms"
    if middle > SLOW_MS:
        return Finding("round trip", "warn", text, "look at the network between the two")
    return Finding("round trip", "ok", text)
