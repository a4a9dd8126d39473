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
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import zmq

from continuer import sockets, wire
from continuer.bundle import InputSpec, Preprocessing, TensorSpec, tensor_problem
from continuer.client_core import ClientCore, Command, Complete, Connect, Pending, Send
from continuer.client_links import Links
from continuer.errors import ContinuerError, RequestError, UnreachableError, WireError
from continuer.mailbox import Mailbox
from continuer.security import credentials
from continuer.security.keys import MARK_BYTES, KeyPair, mark
from continuer.turns import TICK_MS, Turns
from continuer.wire import Accepted, Notice, Refuse, Rejected, Reply, Welcome

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

MS = 1_000_000


class Answer(msgspec.Struct, frozen=True):
    """One answer and how it was made.

    ``technique``: ``none`` (the full plan), ``repartition`` (every block ran, elsewhere),
    ``early_exit``, ``skip`` or ``mixed``; ``degraded`` is true for the last three. ``path``
    is the parts that ran, ``nodes`` where, hop by hop. ``expected_accuracy`` was measured for
    this path on the bundle's data, None where it was not. ``attempts`` above 1: it was sent
    anew after a failure. ``redundancy``: along how many routes that share no node it was sent;
    1 although its class asks for 2 means that a second one could not be had. ``bundle``: the
    first 32 digits of the hash of the bundle that made it.
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
    bundle: str = ""

    @property
    def degraded(self) -> bool:
        """A block was left out, or the network left at an exit."""
        return self.technique in ("early_exit", "skip", "mixed")


class Awaited(Future[Answer]):
    """An answer to come. Whoever waits for it drives the client's sockets meanwhile."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns

    def result(self, timeout: float | None = None) -> Answer:
        """The answer; raises RequestError, or TimeoutError after so many seconds."""
        self._turns.wait(self, timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Why there is no answer, None if there is one; raises TimeoutError as ``result`` does."""
        self._turns.wait(self, timeout)
        return super().exception(0)

    def add_done_callback(self, fn: Callable[[Future[Answer]], object]) -> None:
        """Have a function called with the outcome: then nobody need wait for it."""
        super().add_done_callback(fn)
        if not self.done():
            self._turns.call()


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
        self._links = Links(self._mailbox.fd)
        self._ticked_ns = time.monotonic_ns()
        self._closed = False
        try:
            self._enter(endpoints, connect_timeout_ms)
        except BaseException:
            self._links.close()
            raise
        self._turns = Turns(
            self._drive,
            lambda: self._core.inflight > 0,
            lambda: self._mailbox.post(None),
            self._shut,
        )
        self._turns.start()

    def _enter(self, endpoints: Sequence[str], timeout_ms: float) -> None:
        """Connect, and wait for the first welcome."""
        for endpoint in endpoints:
            self._links.connect(endpoint, self._pair_for(endpoint))
        until_ns = time.monotonic_ns() + int(timeout_ms * MS)
        while self._core.view is None:
            if time.monotonic_ns() >= until_ns:
                raise UnreachableError(
                    self._core.refusal
                    or f"no agent answers at {', '.join(endpoints)} within {timeout_ms:g} ms; "
                    "check the address and that continuer-agent runs there"
                )
            self._drive(TICK_MS)

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
        future = self._submit(inputs, budget_ms, request_class)
        self._turns.expect()
        return future

    def _submit(
        self, inputs: Array | Sequence[Array], budget_ms: float, request_class: str
    ) -> Future[Answer]:
        arrays = [np.asarray(a) for a in (inputs if isinstance(inputs, list | tuple) else [inputs])]
        mark = self._core.input_mark
        arrays = [self._prepare(index, array) for index, array in enumerate(arrays)]
        problem = tensor_problem(self.input.tensors, arrays)
        if problem is None and not 0 < budget_ms <= 3_600_000:
            problem = f"budget_ms = {budget_ms}: give a number above 0, at most an hour"
        future = Awaited(self._turns)
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
            mark,
        )
        if not self._turns.act(lambda: self._begin(pending)):
            self._mailbox.post(pending)
            self._turns.call()
        return future

    def infer(
        self, inputs: Array | Sequence[Array], budget_ms: float = 1000, request_class: str = ""
    ) -> Answer:
        """Ask and wait. Raises RequestError with a code and a reason."""
        return self._submit(inputs, budget_ms, request_class).result()

    def close(self) -> None:
        """End the client; requests without an outcome fail."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._turns.close()

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

    # --- at the sockets, by whoever has the turn --------------------------------------

    def _pair_for(self, endpoint: str) -> KeyPair | None:
        return None if self._credentials is None else self._credentials.pair_for(endpoint)

    def _begin(self, pending: Pending) -> None:
        """Send a request on its way, after what has come so far has been read."""
        self._drive(0)
        if not self._closed:
            self._perform(self._core.submit(pending, time.monotonic_ns()))

    def _drive(self, wait_ms: float) -> None:
        """Wait for so long, at most, and see to what has come."""
        rung, watched = self._links.wait(wait_ms)
        if rung:
            for pending in self._mailbox.take():
                if pending is not None:
                    self._perform(self._core.submit(pending, time.monotonic_ns()))
        for endpoint in watched:
            self._watch(endpoint)
        for endpoint, frames in self._links.received():
            self._receive(endpoint, frames)
        now = time.monotonic_ns()
        if now - self._ticked_ns >= TICK_MS * MS:
            self._ticked_ns = now
            self._perform(self._core.on_tick(now))

    def _watch(self, endpoint: str) -> None:
        for event in self._links.happened(endpoint):
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._perform(self._core.on_connected(endpoint))
            elif event & sockets.TURNED_AWAY:
                self._core.refusal = self._core.refusal or f"{endpoint}: {sockets.KEYS_DIFFER}"
            else:
                self._perform(self._core.on_disconnected(endpoint, time.monotonic_ns()))

    def _receive(self, endpoint: str, frames: list[bytes]) -> None:
        try:
            message = wire.decode(frames[0], Accepted, Reply, Rejected, Notice, Welcome, Refuse)
            now = time.monotonic_ns()
            self._perform(self._core.on_message(endpoint, message, frames[1:], now))
        except wire.ProtocolMismatchError as error:
            self._core.refusal = str(error)
        except (WireError, msgspec.DecodeError, ValueError):
            return  # not from a CONTINUER ingress; the request moves on when unaccepted

    def _perform(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Send):
                # Without a connection, its closing or the missing acceptance moves the request on.
                self._links.send(command.endpoint, [wire.encode(command.message), *command.frames])
            elif isinstance(command, Complete):
                self._complete(command)
            elif isinstance(command, Connect):
                try:
                    self._links.connect(command.endpoint, self._pair_for(command.endpoint))
                except ContinuerError:
                    continue  # announced by an agent, but of no use to us

    def _complete(self, done: Complete) -> None:
        with self._lock:
            future = self._futures.pop(done.seq)
        if not future.set_running_or_notify_cancel():
            return  # nobody wants to know any more
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
        view = self._core.view_of(reply.bundle)
        classes = view.classes if view is not None else ()
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
            reply.bundle.hex(),
        )

    def _shut(self) -> None:
        self._links.close()
        with self._lock:
            futures, self._futures = self._futures, {}
        for future in futures.values():
            if future.set_running_or_notify_cancel():
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
