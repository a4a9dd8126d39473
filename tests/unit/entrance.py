"""An ingress core in virtual time, with its clients, as the tests of it use it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from agent.ingress_core import (
    Command,
    Forward,
    IngressCore,
    Limits,
    ToClient,
)
from agent.plan_holder import InForce
from continuer import wire
from continuer.plan import ClassStep, Hop, Step, Technique, Version
from continuer.wire import (
    Message,
    Problem,
    Rejected,
    Reply,
    Result,
    Submit,
    Work,
)
from tests.unit.harness import BUNDLE, MS

CLIENT = b"client-0123456789"
LINK = b"link"
INPUT = BUNDLE.manifest.input.tensors
IMAGE = bytes(INPUT[0].nbytes)
LOGITS = np.arange(10, dtype=np.float32)
FULL = BUNDLE.path()
EXIT = BUNDLE.path(exit_name="exit03")
SKIP = BUNDLE.path(skipped=["block07", "block08"])


def step_over(
    nodes: Sequence[str], path: Sequence[str] = FULL, technique: Technique = "none"
) -> Step:
    """A step that runs the path in equal runs over the nodes."""
    ids = [BUNDLE.part_ids[name] for name in path]
    bounds = [round(i * len(ids) / len(nodes)) for i in range(len(nodes) + 1)]
    runs = [tuple(ids[a:b]) for a, b in itertools.pairwise(bounds)]
    route = tuple(Hop(node, 1, run) for node, run in zip(nodes, runs, strict=True))
    accuracy = BUNDLE.measured_accuracy(path)
    assert accuracy is not None
    exit_name, _ = BUNDLE.variant_of(path)
    return Step(technique, exit_name, route, accuracy, 3.0, 5.0, 500.0)


class Entrance:
    """An ingress core in virtual time, with its clients and the plans it is given."""

    def __init__(self, *, planned: bool = True, **limits: Any) -> None:
        self.core = IngressCore("continuer", "n1", 11, BUNDLE, Limits(**limits))
        self.now = 5_000 * MS
        self.number = 0
        self.said: list[Command] = []
        if planned:
            self.plan("n1", "n2", "n3")

    def plan(
        self,
        *nodes: str,
        failed: Sequence[str] = (),
        path: Sequence[str] = FULL,
        technique: Technique = "none",
        draining: Sequence[str] = (),
        classes: Sequence[ClassStep] = (),
    ) -> list[Command]:
        """A step over these nodes is put in force."""
        self.number += 1
        step = step_over(nodes, path, technique)
        version = Version(1, self.number)
        order = InForce(
            version,
            "default",
            step,
            frozenset(failed),
            frozenset(draining),
            classes=tuple(classes),
        )
        return self.hear(self.core.on_step(order, self.now))

    def submit(
        self, seq: int = 1, *, link: bytes = LINK, frames: Sequence[Any] = (IMAGE,), **changes: Any
    ) -> list[Command]:
        """A client sends a request, well-formed but for the changes."""
        request = Submit("continuer", CLIENT, seq, "default", "", 1_000_000, 1, wire.metas(INPUT))
        request = msgspec.structs.replace(request, **changes)
        return self.hear(self.core.on_submit(link, request, frames, self.now))

    def answer(
        self, work: Work, frames: Sequence[Any] | None = None, **changes: Any
    ) -> list[Command]:
        """The last stage of the work's route answers, well-formed but for the changes."""
        result = msgspec.structs.replace(result_of(work), **changes)
        return self.hear(
            self.core.on_result(result, [LOGITS.tobytes()] if frames is None else frames)
        )

    def complain(self, work: Work, **changes: Any) -> list[Command]:
        """A stage could not run its part of the work."""
        problem = Problem(
            work.cluster, work.client, work.seq, work.origin_incarnation, work.attempt,
            "n2", "failed", "block05 is damaged",
        )  # fmt: skip
        problem = msgspec.structs.replace(problem, **changes)
        return self.hear(self.core.on_problem(problem, self.now))

    def wait(self, ms: float) -> list[Command]:
        """Time passes, with a tick every 10 ms as in the thread around the core."""
        commands: list[Command] = []
        end = self.now + int(ms * MS)
        while self.now < end:
            self.now = min(end, self.now + 10 * MS)
            commands += self.core.on_tick(self.now)
        return self.hear(commands)

    def hear(self, commands: list[Command]) -> list[Command]:
        self.said += commands
        return commands

    @property
    def inflight_bytes(self) -> int:
        return self.core._bytes


def result_of(work: Work) -> Result:
    """What the last stage of the work's route sends."""
    metas = wire.metas(BUNDLE.parts["head"].outputs)
    return Result(
        work.cluster, work.client, work.seq, work.origin_incarnation, work.attempt,
        work.version, work.route, 900, metas,
    )  # fmt: skip


def forwards(commands: Sequence[Command]) -> list[Forward]:
    return [command for command in commands if isinstance(command, Forward)]


def work_of(commands: Sequence[Command]) -> Work:
    """The only piece of work among the commands."""
    (forward,) = forwards(commands)
    return forward.work


def told(commands: Sequence[Command]) -> list[Message]:
    """What clients are told."""
    return [command.message for command in commands if isinstance(command, ToClient)]


def reply_of(commands: Sequence[Command]) -> Reply:
    """The only message to a client, which is an answer."""
    (message,) = told(commands)
    assert isinstance(message, Reply)
    return message


def rejection_of(commands: Sequence[Command]) -> Rejected:
    """The only message to a client, which is an error."""
    (message,) = told(commands)
    assert isinstance(message, Rejected)
    return message
