"""``continuer load``: labelled images at a fixed rate, open loop, with a raw log.

Open loop: request k is due at start + k / rate, whatever became of those before it, so that
an outage is seen in full and not hidden by a client that waits (coordinated omission).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from continuer.bundle import InputSpec
from continuer.catalog import find_images
from continuer.cli_help import add_verb
from continuer.client import Answer, Client, prepare, takes_images
from continuer.errors import EXIT_OK, EXIT_UNHEALTHY, RequestError, UsageError
from continuer.outage import RequestRecord, check_writable
from continuer.runtime import random_tensors

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

PROGRESS_NS = 200_000_000
LEAD_NS = 200_000_000
SPIN_NS = 300_000
RANDOM_INPUTS = 64
EXAMPLES = """\
continuer load --endpoint tcp://10.0.0.2:7410 --rate 100 --seconds 30
continuer load --endpoint tcp://10.0.0.2:7410 --images random --raw-log run.jsonl
"""


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        commands, "load", "send images at a fixed rate and log every outcome", EXAMPLES
    )
    parser.add_argument("--endpoint", action="append", required=True, metavar="tcp://HOST:PORT")
    parser.add_argument("--cluster", default="continuer")
    parser.add_argument("--images", default="cifar10-test-1000", help="or 'random'")
    parser.add_argument("--rate", type=float, default=100.0, metavar="PER_S")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--budget-ms", type=float, default=2000.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--raw-log", type=Path, metavar="FILE")
    parser.add_argument("--progress", action="store_true", help="JSON lines on standard output")
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Send, wait for every outcome, write the log; 0 if every request was answered."""
    for option in ("rate", "seconds", "budget_ms"):
        value = getattr(options, option)
        if not 0 < value < math.inf:
            raise UsageError(f"--{option.replace('_', '-')} {value:g}: give a number above 0")
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed}: give 0 or more")
    if options.raw_log is not None:
        check_writable(options.raw_log)
    sys.setswitchinterval(1e-4)
    with Client(options.endpoint, cluster=options.cluster) as client:
        inputs, labels = inputs_for(client.input, options.images, options.seed)
        generator = Generator(client, inputs, labels, options)
        generator.run()
        moved = client.moved
    if options.raw_log is not None:
        meta = {"rate_per_s": options.rate, "images": options.images, "seed": options.seed}
        write(options.raw_log, {**meta, "moved": moved}, generator.records)
    answered = sum(r.outcome == "ok" for r in generator.records)
    if not options.progress:
        delays = [r.done_ns - r.intended_ns for r in generator.records if r.done_ns is not None]
        median_ms = float(np.median(delays)) / 1e6 if delays else float("nan")
        print(f"{answered} of {len(generator.records)} answered, median {median_ms:.2f} ms")
    return EXIT_OK if answered == len(generator.records) else EXIT_UNHEALTHY


def inputs_for(model: InputSpec, images: str, seed: int) -> tuple[list[Any], Sequence[int | None]]:
    """Inputs as ``Client.submit`` takes them, and their labels.

    An input is an array, or a list of them for a model with several input tensors.
    ``images``: a shipped set, or ``random`` for any model, unlabelled.
    """
    random = np.random.default_rng(seed)
    specs = model.tensors
    if images == "random":
        drawn = [random_tensors(random, specs) for _ in range(RANDOM_INPUTS)]
        inputs = drawn if len(specs) > 1 else [tensors[0] for tensors in drawn]
        return inputs, [None] * len(drawn)
    pixels, labels = find_images(images)
    if not takes_images(model, pixels):
        raise UsageError(f"--images {images}: the model takes {specs[0].shape}; use 'random'")
    order = random.permutation(len(pixels))
    prepared = prepare(pixels[order], specs[0], model.preprocessing)
    return list(prepared[:, np.newaxis]), [int(n) for n in labels[order]]


class Generator:
    """Sends request k at its time and records every outcome."""

    def __init__(
        self,
        client: Client,
        inputs: list[Any],
        labels: Sequence[int | None],
        options: argparse.Namespace,
    ) -> None:
        self._client = client
        self._inputs = inputs
        self._labels = labels
        self._options = options
        self.records: list[RequestRecord] = []

    def run(self) -> None:
        """Send everything, then wait until the last budget has run out."""
        options = self._options
        count = max(1, int(options.rate * options.seconds))
        start = time.monotonic_ns() + LEAD_NS
        said = start
        for k in range(count):
            intended = start + int(k * 1e9 / options.rate)
            said = self._wait_until(intended, said)
            self._send(k, intended)
        deadline = time.monotonic_ns() + int(options.budget_ms * 1e6) + 1_000_000_000
        while time.monotonic_ns() < deadline and any(not r.outcomes for r in self.records):
            said = self._wait_until(time.monotonic_ns() + 20_000_000, said)
        self._say_progress()

    def _wait_until(self, moment: int, said: int) -> int:
        now = time.monotonic_ns()
        if now - said >= PROGRESS_NS:
            self._say_progress()
            said = now
        while (left := moment - time.monotonic_ns()) > 0:
            # Sleep overshoots; the last stretch is waited out in small naps.
            time.sleep(max(left - SPIN_NS, 50_000) / 1e9)
        return said

    def _send(self, k: int, intended: int) -> None:
        image = k % len(self._inputs)
        record = RequestRecord(k, image, intended, time.monotonic_ns(), label=self._labels[image])
        self.records.append(record)
        future = self._client.submit(self._inputs[image], self._options.budget_ms)
        future.add_done_callback(lambda done: note(record, done))

    def _say_progress(self) -> None:
        if not self._options.progress:
            return
        done = [r for r in self.records if r.outcomes]
        ok = [r for r in done if r.outcome == "ok"]
        print(
            json.dumps(
                {
                    "sent": len(self.records),
                    "answered": len(ok),
                    "error": len(done) - len(ok),
                    "degraded": sum(r.technique in ("early_exit", "skip", "mixed") for r in ok),
                    "labelled": sum(r.label is not None for r in ok),
                    "right": sum(r.answer == r.label for r in ok),
                }
            ),
            flush=True,
        )


def note(record: RequestRecord, done: Future[Answer]) -> None:
    """Record an outcome."""
    now = time.monotonic_ns()
    record.outcomes += 1
    if record.outcomes > 1:
        return
    record.done_ns = now
    error = done.exception()
    if error is not None:
        record.outcome = "error"
        record.error = str(error) if isinstance(error, RequestError) else repr(error)
        return
    answer = done.result()
    record.outcome = "ok"
    record.answer = answer.index
    record.technique, record.exit = answer.technique, answer.exit
    record.path, record.nodes = answer.path, answer.nodes
    record.version, record.attempts = answer.version, answer.attempts
    record.expected_accuracy = answer.expected_accuracy
    record.bundle = answer.bundle
    record.logits = np.asarray(answer.logits, np.float32).tobytes().hex()


def write(path: Path, meta: dict[str, Any], records: list[RequestRecord]) -> None:
    """Write a raw log; see ``continuer.outage`` for its form."""
    with path.open("w") as log:
        log.write(json.dumps({"meta": meta}) + "\n")
        for record in records:
            log.write(json.dumps(msgspec.to_builtins(record)) + "\n")
