"""Metrics and health of a daemon over HTTP: ``/metrics``, ``/healthz`` and ``/readyz``.

Everything is read when somebody asks, in threads of low priority, from counters that the daemon
keeps anyway: nothing is counted for it on a request's path, and no lock is taken there.

``/healthz`` says whether the process works (its threads come around): restart it if not.
``/readyz`` says whether requests are answered: send it none if not. A daemon that answers with
less accuracy than it could, or that nobody watches over, is ready, and says ``degraded`` in both.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from continuer import __version__
from continuer.errors import ConfigError
from continuer.events import Kind
from continuer.notify import Pulse
from continuer.wire import PROTOCOL

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

MAX_CONNECTIONS = 4
# Longer than any honest scrape; a connection that goes on longer is closed.
CONNECTION_S = 5.0
NICE = 10
LIVE_NS = 5_000_000_000
DEGRADED = ("early_exit", "skip", "mixed")


class Family(msgspec.Struct, frozen=True):
    """One metric and its samples: label values, in the order of ``labels``, and a number."""

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    samples: Sequence[tuple[tuple[str, ...], float]]
    labels: tuple[str, ...] = ()


class Health(msgspec.Struct, frozen=True):
    """How a daemon is; ``state`` in a word, ``problem`` in a sentence, empty if all is well."""

    live: bool
    ready: bool
    degraded: bool
    state: str
    problem: str = ""


def gauge(name: str, meaning: str, value: float) -> Family:
    """A gauge without labels."""
    return Family(name, "gauge", meaning, [((), value)])


def counter(name: str, meaning: str, value: float) -> Family:
    """A counter without labels; its name ends in ``_total``."""
    return Family(name, "counter", meaning, [((), value)])


def hung(pulses: Sequence[Pulse], now: int) -> list[str]:
    """Threads that have not come around for so long that the daemon is not live."""
    return [pulse.name for pulse in pulses if now - pulse.beat_ns > LIVE_NS]


class EventCounts:
    """How often each event was emitted; a listener of ``Journal``."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, name: str, kind: Kind, fields: Mapping[str, Any]) -> None:
        """Count one."""
        del kind, fields
        with self._lock:
            self._counts[name] += 1

    def family(self) -> Family:
        """The counts; their label is bounded by the catalogue."""
        with self._lock:
            samples = [((name,), count) for name, count in sorted(self._counts.items())]
        meaning = "Events written, by name; docs/events.md says what each means."
        return Family("continuer_events_total", "counter", meaning, samples, ("event",))


def common(role: str, health: Health) -> list[Family]:
    """What both daemons say."""
    labels = ("role", "version", "protocol")
    values = (role, __version__, str(PROTOCOL))
    return [
        Family("continuer_build_info", "gauge", "Always 1.", [(values, 1)], labels),
        gauge("continuer_live", "1 while the daemon's threads come around.", health.live),
        gauge("continuer_ready", "1 while requests are answered.", health.ready),
        gauge("continuer_degraded", "1 while they are answered with a loss.", health.degraded),
    ]


class MetricsServer:
    """Serves until ``stop``: what ``collect`` says, and what ``registry`` holds besides.

    Raises ConfigError where it cannot listen.
    """

    def __init__(
        self,
        address: str,
        health: Callable[[], Health],
        collect: Callable[[], list[Family]],
        registry: CollectorRegistry,
    ) -> None:
        registry.register(_Collector(collect))
        self._registry = registry
        self._health = health
        host, _, port = address.rpartition(":")
        try:
            self._server = _Server(host.strip("[]"), int(port), self._answer)
        except OSError as error:
            remedy = f"{error.strerror}; give another HOST:PORT, or leave it out"
            raise ConfigError("metrics", address, remedy) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End, and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self) -> None:
        # On Linux a priority is a thread's own; connections' threads inherit it.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        self._server.serve_forever(poll_interval=0.5)

    def _answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, type and body for a path."""
        if path == "/metrics":
            from prometheus_client import generate_latest

            return 200, "text/plain; version=0.0.4; charset=utf-8", generate_latest(self._registry)
        if path in ("/healthz", "/readyz"):
            health = self._health()
            well = health.live if path == "/healthz" else health.ready
            body = json.dumps(msgspec.to_builtins(health)).encode() + b"\n"
            return 200 if well else 503, "application/json", body
        return 404, "text/plain; charset=utf-8", b"/metrics, /healthz, /readyz\n"


def new_registry(address: str) -> CollectorRegistry:
    """A registry with what the process says of itself.

    Raises ConfigError where prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector
    except ImportError as error:
        remedy = "needs the package prometheus-client; install it, or leave the key out"
        raise ConfigError("metrics", address, remedy) from error
    registry = CollectorRegistry()
    ProcessCollector(namespace="continuer", registry=registry)
    return registry


class _Collector:
    """What Prometheus's library asks when it is asked."""

    def __init__(self, collect: Callable[[], list[Family]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        """All families as they are now."""
        yield from map(_metric, self._collect())

    def describe(self) -> list[Metric]:
        """Nothing: asked at registration, when there may be nothing to tell yet."""
        return []


def _metric(family: Family) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.meaning, labels=family.labels)
    for labels, value in family.samples:
        metric.add_metric(labels, value)
    return metric


class _Server(ThreadingHTTPServer):
    """A few connections at a time, each for a few seconds; what comes beyond is closed."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(
        self, host: str, port: int, answer: Callable[[str], tuple[int, str, bytes]]
    ) -> None:
        if ipaddress.ip_address(host).version == 6:
            self.address_family = socket.AF_INET6
        self.answer = answer
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand a connection to a thread of its own, if one is free."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection, for a bounded time however slowly it talks."""
        limit = threading.Timer(CONNECTION_S, _hang_up, (request,))
        limit.daemon = True
        limit.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is nobody's concern."""
        del request, client_address


def _hang_up(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of three paths, one request a connection."""

    server: _Server
    server_version = "continuer"
    sys_version = ""

    def do_GET(self) -> None:  # http.server's name for it
        self._respond(with_body=True)

    def do_HEAD(self) -> None:  # http.server's name for it
        self._respond(with_body=False)

    def _respond(self, *, with_body: bool) -> None:
        status, kind, body = self.server.answer(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's
        """Say nothing: a scrape every few seconds would fill the journal."""
        del format, args
