"""The Python client: ask for an answer, learn how it was made.

    client = Client(["tcp://10.0.0.2:7410", "tcp://10.0.0.3:7410"])
    answer = client.infer(image, budget_ms=500)
    print(answer.label, answer.technique, answer.expected_accuracy)

Any agent is an ingress; name several, so that the first one may fail too. Others are learned
from those named.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from continuer import sockets, wire
from continuer.bundle import InputSpec, Preprocessing, TensorSpec, tensor_problem
from continuer.client_core import ClientCore, Command, Complete, Connect, Pending, Send
from continuer.errors import ContinuerError, RequestError, UnreachableError, WireError
from continuer.mailbox import Mailbox
from continuer.security import credentials
from continuer.security.keys import MARK_BYTES, KeyPair, mark
from continuer.wire import Accepted, Notice, Refuse, Rejected, Reply, Welcome

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

MS = 1_000_000
TICK_MS = 10
BATCH = 64


class Answer(msgspec.Struct, frozen=True):
    """One answer and how it was made.

    ``technique``: ``none`` (the full plan), ``repartition`` (every block ran, elsewhere),
    ``early_exit``, ``skip`` or ``mixed``; ``degraded`` is true for the last three. ``path``
    is the parts that ran, ``nodes`` where, hop by hop. ``expected_accuracy`` was measured for
    this path on the bundle's data, None where it was not. ``attempts`` above 1: it was sent
    anew after a failure. ``redundancy``: along how many routes that share no node it was sent;
    1 although its class asks for 2 means that a second one could not be had.
    """

    label: str
    index: int
    logits: Any
    tensors: list[Any]
    technique: str
    exit: str | None
    path: tuple[str, ...]
    nodes: tuple[str, ...]
    version: str
    expected_accuracy: float | None
    attempts: int
    request_class: str = ""
    redundancy: int = 1

    @property
    def degraded(self) -> bool:
        """A block was left out, or the network left at an exit."""
        return self.technique in ("early_exit", "skip", "mixed")


class Client:
    """Thread-safe. Raises UnreachableError where no ingress welcomes us in time.

    ``keys``: the directory that ``continuer join`` has filled, where agents demand a key; by
    default as ``continuer/security/credentials.py`` says. With it, ``endpoints`` may be empty.
    Raises ConfigError for keys that cannot be used.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        cluster: str = "continuer",
        model: str = "",
        connect_timeout_ms: float = 5000,
        keys: Path | str | None = None,
    ) -> None:
        self._credentials = credentials.find(Path(keys) if keys is not None else None)
        if self._credentials is not None:
            endpoints = self._credentials.ingresses(endpoints)
        if not endpoints:
            raise UnreachableError("endpoints = []: give at least one, as tcp://10.0.0.2:7410")
        pair = self._pair_for(endpoints[0])
        own_id = os.urandom(16) if pair is None else mark(pair.public) + os.urandom(MARK_BYTES)
        self._core = ClientCore(cluster, own_id, endpoints)
        self._model = model
        self._sequence = 0
        self._lock = threading.Lock()
        self._futures: dict[int, Future[Answer]] = {}
        self._mailbox: Mailbox[Pending | None] = Mailbox()
        self._context: zmq.Context[Any] = zmq.Context()
        self._links: dict[str, tuple[sockets.Socket, sockets.Socket]] = {}
        self._poller = zmq.Poller()
        self._welcomed = threading.Event()
        self._closed = False
        for endpoint in endpoints:
            self._connect(endpoint)
        self._thread = threading.Thread(target=self._run, name="continuer-client", daemon=True)
        self._thread.start()
        if not self._welcomed.wait(connect_timeout_ms / 1000):
            self.close()
            raise UnreachableError(
                self._core.refusal
                or f"no agent answers at {', '.join(endpoints)} within {connect_timeout_ms:g} ms; "
                "check the address and that continuer-agent runs there"
            )

    # --- the public face --------------------------------------------------------------

    @property
    def input(self) -> InputSpec:
        """What the model takes."""
        assert self._core.view is not None
        return self._core.view.input

    @property
    def classes(self) -> tuple[str, ...]:
        """The model's classes, in the order of its logits."""
        assert self._core.view is not None
        return self._core.view.classes

    @property
    def moved(self) -> int:
        """How often a request was sent again through another ingress."""
        return self._core.moved

    def submit(
        self, inputs: Array | Sequence[Array], budget_ms: float = 1000, request_class: str = ""
    ) -> Future[Answer]:
        """Send a request; the future holds the answer, or raises RequestError.

        ``inputs``: one array or one per input tensor, of the model's shape (a missing batch
        axis is added) and dtype. A uint8 image is preprocessed as the bundle says.
        ``request_class``: one of the deployment's, with objectives of its own; "" for none.
        """
        arrays = [np.asarray(a) for a in (inputs if isinstance(inputs, list | tuple) else [inputs])]
        arrays = [self._prepare(index, array) for index, array in enumerate(arrays)]
        problem = tensor_problem(self.input.tensors, arrays)
        if problem is None and not 0 < budget_ms <= 3_600_000:
            problem = f"budget_ms = {budget_ms}: give a number above 0, at most an hour"
        future: Future[Answer] = Future()
        if problem is not None:
            future.set_exception(RequestError("bad_input", problem))
            return future
        with self._lock:
            if self._closed:
                raise ContinuerError("the client is closed")
            self._sequence += 1
            sequence = self._sequence
            self._futures[sequence] = future
        budget_ns = int(budget_ms * MS)
        pending = Pending(
            sequence,
            self._model,
            request_class,
            wire.metas(self.input.tensors),
            wire.to_frames(arrays),
            time.monotonic_ns() + budget_ns,
            budget_ns,
        )
        self._mailbox.post(pending)
        return future

    def infer(
        self, inputs: Array | Sequence[Array], budget_ms: float = 1000, request_class: str = ""
    ) -> Answer:
        """Ask and wait. Raises RequestError with a code and a reason."""
        return self.submit(inputs, budget_ms, request_class).result()

    def close(self) -> None:
        """End the client; requests without an outcome fail."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._mailbox.post(None)
        self._thread.join()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _prepare(self, index: int, array: Array) -> Array:
        specs = self.input.tensors
        if index >= len(specs):
            return array
        spec = specs[index]
        if array.shape == spec.shape[1:]:
            array = array[np.newaxis]
        rules = self.input.preprocessing
        if array.dtype == np.uint8 and rules is not None:
            return prepare(array, spec, rules)
        return array

    # --- the thread -------------------------------------------------------------------

    def _pair_for(self, endpoint: str) -> KeyPair | None:
        return None if self._credentials is None else self._credentials.pair_for(endpoint)

    def _connect(self, endpoint: str) -> None:
        link = sockets.make(self._context, zmq.DEALER, wire.MAX_TENSOR_BYTES)
        monitor = link.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | sockets.TURNED_AWAY
        )
        try:
            sockets.dial(link, endpoint, self._pair_for(endpoint))
        except zmq.ZMQError as error:
            raise UnreachableError(
                f"endpoint {endpoint!r}: {error.strerror}; give one such as tcp://10.0.0.2:7410"
            ) from error
        self._links[endpoint] = (link, monitor)
        self._poller.register(link, zmq.POLLIN)
        self._poller.register(monitor, zmq.POLLIN)

    def _run(self) -> None:
        self._poller.register(self._mailbox.fd, zmq.POLLIN)
        ticked = time.monotonic_ns()
        while True:
            ready = dict(self._poller.poll(TICK_MS if self._core.inflight else 200))
            if self._mailbox.fd in ready:
                for pending in self._mailbox.take():
                    if pending is None:
                        self._shut()
                        return
                    self._perform(self._core.submit(pending, time.monotonic_ns()))
            for endpoint, (link, monitor) in list(self._links.items()):
                if monitor in ready:
                    self._watch(endpoint, monitor)
                if link in ready:
                    self._receive(endpoint, link)
            now = time.monotonic_ns()
            if now - ticked >= TICK_MS * MS:
                ticked = now
                self._perform(self._core.on_tick(now))

    def _watch(self, endpoint: str, monitor: sockets.Socket) -> None:
        while monitor.poll(0):
            event = recv_monitor_message(monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._perform(self._core.on_connected(endpoint))
            elif event & sockets.TURNED_AWAY:
                self._core.refusal = self._core.refusal or f"{endpoint}: {sockets.KEYS_DIFFER}"
            else:
                self._perform(self._core.on_disconnected(endpoint, time.monotonic_ns()))

    def _receive(self, endpoint: str, link: sockets.Socket) -> None:
        for _ in range(BATCH):
            try:
                frames = link.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = wire.decode(frames[0], Accepted, Reply, Rejected, Notice, Welcome, Refuse)
                now = time.monotonic_ns()
                self._perform(self._core.on_message(endpoint, message, frames[1:], now))
            except wire.ProtocolMismatchError as error:
                self._core.refusal = str(error)
            except (WireError, msgspec.DecodeError, ValueError):
                continue  # not from a CONTINUER ingress; the request moves on when unaccepted
            if isinstance(message, Welcome):
                self._welcomed.set()

    def _perform(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Send):
                link, _ = self._links[command.endpoint]
                try:
                    link.send_multipart(
                        [wire.encode(command.message), *command.frames], zmq.NOBLOCK
                    )
                except zmq.Again:
                    continue  # no connection: its closing, or the missing acceptance, moves it on
            elif isinstance(command, Complete):
                self._complete(command)
            elif isinstance(command, Connect):
                try:
                    self._connect(command.endpoint)
                except ContinuerError:
                    continue  # announced by an agent, but of no use to us

    def _complete(self, done: Complete) -> None:
        with self._lock:
            future = self._futures.pop(done.seq)
        if isinstance(done.outcome, RequestError):
            future.set_exception(done.outcome)
            return
        try:
            future.set_result(self._answer(done.outcome, done.frames, done.copies))
        except WireError as error:
            future.set_exception(RequestError("failed", f"the answer is damaged: {error}"))

    def _answer(self, reply: Reply, frames: Sequence[Any], copies: int) -> Answer:
        tensors = wire.from_frames(reply.tensors, frames)
        logits = tensors[0].reshape(-1)
        index = int(np.argmax(logits))
        classes = self.classes
        return Answer(
            classes[index] if index < len(classes) else str(index),
            index,
            logits,
            tensors,
            reply.technique,
            reply.exit,
            reply.path,
            reply.nodes,
            str(reply.version),
            reply.expected_accuracy,
            reply.attempt,
            reply.request_class,
            min(reply.redundancy, copies),
        )

    def _shut(self) -> None:
        for link, monitor in self._links.values():
            link.disable_monitor()
            monitor.close(linger=0)
            link.close(linger=0)
        self._context.term()
        with self._lock:
            futures, self._futures = self._futures, {}
        for future in futures.values():
            future.set_exception(RequestError("failed", "the client was closed"))


class AsyncClient:
    """The client for asyncio code: ``answer = await client.infer(image)``.

    Create it with ``await AsyncClient.connect([...])``; use it in ``async with``.
    """

    def __init__(self, client: Client) -> None:
        self.client = client

    @classmethod
    async def connect(cls, endpoints: Sequence[str], **options: Any) -> AsyncClient:
        """Connect without blocking the event loop; options as of Client."""
        return cls(await asyncio.to_thread(Client, endpoints, **options))

    async def infer(
        self, inputs: Array | Sequence[Array], budget_ms: float = 1000, request_class: str = ""
    ) -> Answer:
        """Ask and await. Raises RequestError with a code and a reason."""
        return await asyncio.wrap_future(self.client.submit(inputs, budget_ms, request_class))

    async def close(self) -> None:
        """End the client."""
        await asyncio.to_thread(self.client.close)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def preprocess(images: Array, rules: Preprocessing) -> Array:
    """uint8 images (..., channels) to float32: ``(x / divisor - mean) / std``."""
    scaled = images.astype(np.float32) / np.float32(rules.divisor)
    mean, std = np.asarray(rules.mean, np.float32), np.asarray(rules.std, np.float32)
    result: Array = ((scaled - mean) / std).astype(np.float32)
    return result


def prepare(images: Array, spec: TensorSpec, rules: Preprocessing | None) -> Array:
    """uint8 images (..., channels) as a model's input, quantised where it is.

    Without rules the pixels go in as they are; to int8 models shifted, which is the same.
    """
    if rules is None:
        shift = 128 if spec.dtype == "int8" else 0
        return (images.astype(np.int16) - shift).astype(spec.dtype)
    real = preprocess(images, rules)
    if spec.scale is None:
        return real.astype(spec.dtype)
    limits = np.iinfo(spec.dtype)
    steps = np.rint(real / np.float32(spec.scale)) + (spec.zero_point or 0)
    result: Array = np.clip(steps, limits.min, limits.max).astype(spec.dtype)
    return result


def takes_images(model: InputSpec, pixels: Array) -> bool:
    """True where a model is told how to prepare images, and these have the right shape."""
    shapes = [spec.shape for spec in model.tensors]
    return model.preprocessing is not None and shapes == [(1, *pixels.shape[1:])]
