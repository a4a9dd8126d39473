"""Timing operators on this box. Needs the runtime and numpy, no TensorFlow.

Several passes go over the whole list, each in an order of its own, so that a busy minute or a
warming CPU hits all operators alike; each pass makes every model anew, since where its memory
lies matters too. What has been timed is on disk at once: a killed run goes on from there.
"""

from __future__ import annotations

import math
import random
import time
import zlib
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from predictors import profile as profiles
from predictors.machine import Conditions, Machine, conditions, this_machine
from predictors.operators import Operator
from predictors.profile import Copy, Profile, ProfileError, Timing
from predictors.single_op import single_operator_model

PASSES = 5
#: How long one operator is timed in one pass, and how often at least.
BUDGET_NS = 8_000_000
MIN_SAMPLES = 5
#: Calls that are shorter than this are timed several at once: the clock takes time too.
SAMPLE_NS = 20_000
WARM_CALLS = 3
COPIED_ELEMENTS = (16, 1024, 4096, 16384, 65536, 262144)
RUNTIME = "ai-edge-litert"

Call = Callable[[], object]
Progress = Callable[[int, int], None]


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of a run's log: what a run that goes on must agree in."""

    schema: int
    machine: Machine
    runtime: str
    threads: int
    passes: int
    operators: int
    before: Conditions


class Line(msgspec.Struct, frozen=True, array_like=True):
    """A later line of the log: an operator in a pass. Index -1 is the floor, below are copies."""

    pass_: int
    index: int
    us: float


def best_us(call: Call, budget_ns: int = BUDGET_NS) -> float:
    """The shortest time of a call in microseconds, of as many as fit into the budget."""
    clock = time.perf_counter_ns
    for _ in range(WARM_CALLS):
        begun = clock()
        call()
        once_ns = clock() - begun
    calls = range(max(1, SAMPLE_NS // max(once_ns, 1)))
    best_ns, samples, ends = math.inf, 0, clock() + budget_ns
    while samples < MIN_SAMPLES or clock() < ends:
        begun = clock()
        for _ in calls:
            call()
        best_ns = min(best_ns, (clock() - begun) / len(calls))
        samples += 1
    return best_ns / 1e3


def loaded(operator: Operator, threads: int) -> Any:
    """An interpreter that runs the operator, with random inputs in place."""
    interpreter = Interpreter(model_content=single_operator_model(operator), num_threads=threads)
    interpreter.allocate_tensors()
    generator = np.random.default_rng(2)
    for detail in interpreter.get_input_details():
        drawn = generator.standard_normal(detail["shape"])
        scaled = drawn * 40 if detail["dtype"] is np.int8 else drawn
        interpreter.set_tensor(detail["index"], np.clip(scaled, -127, 127).astype(detail["dtype"]))
    return interpreter


def copy_calls(elements: int) -> tuple[Call, Call]:
    """Calls that copy so many float32 into a model and out of it, as running a part does."""
    shape = (1, 1, elements)
    interpreter = loaded(Operator("relu", shape, shape), 1)
    sources = [detail["index"] for detail in interpreter.get_input_details()]
    results = [detail["index"] for detail in interpreter.get_output_details()]
    tensors = [np.zeros((1, *shape), np.float32)]
    interpreter.invoke()

    def copy_in() -> None:
        for index, tensor in zip(sources, tensors, strict=True):
            interpreter.set_tensor(index, tensor)

    def copy_out() -> object:
        return [interpreter.get_tensor(index) for index in results]

    return copy_in, copy_out


class Run:
    """One profiling run over ``operators``, with its log beside the profile to be.

    ``go_on`` takes over what an earlier run has logged; raises ProfileError where that was
    of another grid, kind of box, runtime or number of threads.
    """

    def __init__(
        self,
        operators: Sequence[Operator],
        log: Path,
        *,
        threads: int = 1,
        passes: int = PASSES,
        go_on: bool = False,
        budget_ns: int = BUDGET_NS,
    ) -> None:
        self._operators = tuple(operators)
        self._log_path = log
        self._budget_ns = budget_ns
        self._head = Head(
            profiles.SCHEMA,
            this_machine(),
            f"{RUNTIME} {version(RUNTIME)}",
            threads,
            passes,
            grid_number(self._operators),
            conditions(),
        )
        self._done: dict[tuple[int, int], float] = {}
        if go_on and log.exists():
            self._take_over()
        else:
            log.write_bytes(msgspec.json.encode(self._head) + b"\n")
        self.taken_over = len(self._done)

    def _take_over(self) -> None:
        whole = self._log_path.read_bytes().rpartition(b"\n")[0]  # the last line may be cut off
        first, *rest = whole.split(b"\n")
        try:
            head = msgspec.json.decode(first, type=Head)
            lines = [msgspec.json.decode(line, type=Line) for line in rest]
        except msgspec.MsgspecError as error:
            raise ProfileError(
                f"{self._log_path}: not the log of a run ({error}); start anew without --resume"
            ) from error
        mine = msgspec.structs.replace(self._head, before=head.before)
        for field in Head.__struct_fields__:
            if getattr(head, field) != getattr(mine, field):
                raise ProfileError(
                    f"{self._log_path}: {field} = {getattr(head, field)!r}, now it is "
                    f"{getattr(mine, field)!r}; start anew without --resume"
                )
        self._head = head
        self._done = {(line.pass_, line.index): line.us for line in lines}
        self._log_path.write_bytes(whole + b"\n")

    def measure(self, progress: Progress) -> Profile:
        """Time all that is not timed yet. ``progress`` is told (done, of how many)."""
        begun = time.monotonic()
        extras = range(-1 - 2 * len(COPIED_ELEMENTS), 0)
        total = self._head.passes * (len(self._operators) + len(extras))
        with self._log_path.open("ab", buffering=0) as log:
            for number in range(self._head.passes):
                order = [*extras, *range(len(self._operators))]
                # Not for secrets: any order will do that differs from pass to pass.
                random.Random(number).shuffle(order)  # noqa: S311
                for index in order:
                    if (number, index) not in self._done:
                        us = self._time(index)
                        self._done[number, index] = us
                        log.write(msgspec.json.encode(Line(number, index, round(us, 4))) + b"\n")
                    progress(len(self._done), total)
        return self._profile(time.monotonic() - begun)

    def _time(self, index: int) -> float:
        if index < -1:
            place, direction = divmod(-2 - index, 2)
            return best_us(copy_calls(COPIED_ELEMENTS[place])[direction], self._budget_ns)
        smallest = Operator("relu", (1, 1, 1), (1, 1, 1))
        operator = smallest if index == -1 else self._operators[index]
        return best_us(loaded(operator, self._head.threads).invoke, self._budget_ns)

    def _profile(self, seconds: float) -> Profile:
        def of(index: int) -> tuple[float, ...]:
            return tuple(round(self._done[n, index], 4) for n in range(self._head.passes))

        return Profile(
            schema=profiles.SCHEMA,
            machine=self._head.machine,
            runtime=self._head.runtime,
            threads=self._head.threads,
            taken=datetime.now(timezone.utc).date().isoformat(),
            seconds=round(seconds, 1),
            before=self._head.before,
            after=conditions(),
            floor_us=min(of(-1)),
            copies=tuple(
                Copy(4 * elements, min(of(-2 - 2 * place)), min(of(-3 - 2 * place)))
                for place, elements in enumerate(COPIED_ELEMENTS)
            ),
            timings=tuple(Timing(op, of(i)) for i, op in enumerate(self._operators)),
        )

    def forget_log(self) -> None:
        """The profile is safe: remove the log."""
        self._log_path.unlink(missing_ok=True)


def grid_number(operators: Sequence[Operator]) -> int:
    """A number that another grid, or another order, does not have."""
    return zlib.crc32(msgspec.json.encode(operators))
