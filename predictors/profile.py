"""Profiles: how long operators take on a kind of box. One JSON file, checked when it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from continuer.errors import EXIT_CONFIG, ContinuerError
from predictors.machine import Conditions, Machine
from predictors.operators import PAPER_TYPES, TYPES, Operator

SCHEMA = 1
MAX_BYTES = 32 << 20
MAX_US = 60e6
MAX_SIZE = 1 << 28
#: Two, so that every operator is measured twice.
MIN_PASSES = 2
#: A regressor cannot be fitted on, and split over, fewer.
MIN_PER_TYPE = 4


class ProfileError(ContinuerError):
    """A profile cannot be used: damaged, incomplete, or made on another kind of box."""

    exit_code = EXIT_CONFIG


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """An operator, and the best time of each pass in microseconds, alone in a model."""

    operator: Operator
    passes_us: tuple[float, ...]

    @property
    def best_us(self) -> float:
        """The best of all passes: what the operator takes when nothing else disturbs it."""
        return min(self.passes_us)

    @property
    def halves_us(self) -> tuple[float, float]:
        """The best of every other pass, and of the rest: two measurements of the same."""
        return min(self.passes_us[::2]), min(self.passes_us[1::2])


class Copy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Copying so many bytes into a model's input, and out of its output, took so long."""

    nbytes: int
    in_us: float
    out_us: float


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``floor_us``: a call of the runtime that computes next to nothing.

    ``threads``: of the runtime. ``before`` and ``after``: the state of the box. ``taken``: UTC
    date. ``seconds``: how long it took.
    """

    schema: int
    machine: Machine
    runtime: str
    threads: int
    taken: str
    seconds: float
    before: Conditions
    after: Conditions
    floor_us: float
    copies: tuple[Copy, ...]
    timings: tuple[Timing, ...]

    def of_kind(self, kind: str) -> list[Timing]:
        """The timings of one kind of operator; see ``Operator.kind``."""
        return [t for t in self.timings if t.operator.kind == kind]

    def without(self, operators: Iterable[Operator]) -> Profile:
        """The profile without timings of these shapes, to test predictions of shapes unseen."""
        left_out = {_shapes(operator) for operator in operators}
        kept = tuple(t for t in self.timings if _shapes(t.operator) not in left_out)
        return msgspec.structs.replace(self, timings=kept)

    @property
    def kinds(self) -> list[str]:
        """All kinds of operators that were timed."""
        return sorted({t.operator.kind for t in self.timings})


def _shapes(operator: Operator) -> tuple[object, ...]:
    return operator.kind, operator.source, operator.result, operator.kernel, operator.stride


def noise_percent(timings: Sequence[Timing]) -> float:
    """The noise floor: by how many percent two measurements of an operator differ, the median.

    Each is the best of half of the passes; no prediction can be held to less.
    """
    apart = sorted(abs(a - b) / min(a, b) for a, b in (t.halves_us for t in timings))
    return 100 * apart[len(apart) // 2]


def load(path: Path, machine: Machine | None = None) -> Profile:
    """Read and check a profile. ``machine``: the kind of box that it has to be of, if given.

    Raises ProfileError, which names the file, what is wrong and the remedy.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ProfileError(
            f"{path}: {error.strerror}; take a profile with: continuer profile --out {path}"
        ) from error
    if len(raw) > MAX_BYTES:
        raise ProfileError(f"{path}: more than {MAX_BYTES} bytes are no profile")
    profile = decode(raw, str(path))
    if machine is not None:
        check_machine(profile, machine, str(path))
    return profile


def decode(raw: bytes, subject: str) -> Profile:
    """A profile from a file's contents, checked; raises ProfileError beginning with ``subject``."""
    try:
        version = msgspec.json.decode(raw, type=_Version).schema
        if version != SCHEMA:
            raise ProfileError(
                f"{subject}: schema = {version}, known is {SCHEMA}; profile the box again"
            )
        profile = msgspec.json.decode(raw, type=Profile)
    except msgspec.MsgspecError as error:
        raise ProfileError(
            f"{subject}: not a profile ({error}); NaN timings and damaged files are refused, "
            "profile the box again"
        ) from error
    problem = next(_problems(profile), None)
    if problem is not None:
        raise ProfileError(f"{subject}: {problem}; profile the box again")
    return profile


class _Version(msgspec.Struct):
    schema: int


def _problems(profile: Profile) -> Iterator[str]:
    passes = sorted({len(t.passes_us) for t in profile.timings})
    if len(passes) != 1 or passes[0] < MIN_PASSES:
        yield (
            f"timings of {passes} passes; {MIN_PASSES} or more, as many of every operator, "
            "are needed to know the noise"
        )
    for number, timing in enumerate(profile.timings):
        yield from _problems_of(timing, f"timings[{number}]")
    counts = {kind: len(profile.of_kind(kind)) for kind in (*PAPER_TYPES, *profile.kinds)}
    lacking = sorted(kind for kind, count in counts.items() if count < MIN_PER_TYPE)
    if lacking:
        yield f"fewer than {MIN_PER_TYPE} timings of {', '.join(lacking)}"
    if not 0 < profile.floor_us <= MAX_US:
        yield f"floor_us = {profile.floor_us}"
    sizes = [copy.nbytes for copy in profile.copies]
    if not sizes or sizes != sorted(set(sizes)):
        yield f"copies of {sizes} bytes; some are needed, each larger than the one before"
    for number, copy in enumerate(profile.copies):
        if not all(0 < value <= MAX_US for value in (copy.nbytes, copy.in_us, copy.out_us)):
            yield f"copies[{number}] = {copy}"


def _problems_of(timing: Timing, where: str) -> Iterator[str]:
    operator = timing.operator
    # Comparisons with NaN are false, so it is refused as well.
    if not all(0 < us <= MAX_US for us in timing.passes_us):
        yield f"{where} = {timing.passes_us} us for {operator}"
    if operator.type not in TYPES:
        yield f"{where}: operator {operator.type!r}, known are {', '.join(TYPES)}"
    sizes = (*operator.source, *operator.result, *operator.kernel, *operator.stride)
    if not all(0 < size <= MAX_SIZE for size in sizes):
        yield f"{where}: sizes below 1 or above {MAX_SIZE} in {operator}"


def check_machine(profile: Profile, machine: Machine, subject: str) -> None:
    """Raise ProfileError where the profile is of another kind of box."""
    for field in ("cpu", "instruction_sets", "architecture"):
        found, wanted = getattr(profile.machine, field), getattr(machine, field)
        if found != wanted:
            raise ProfileError(
                f"{subject}: {field} = {found!r}, here it is {wanted!r}; profile this kind of box"
            )


def save(profile: Profile, path: Path) -> None:
    """Write a profile in one step, so that no reader ever sees half of it."""
    whole = path.with_name(path.name + ".new")
    whole.write_bytes(encode(profile))
    whole.replace(path)


def encode(profile: Profile) -> bytes:
    """The contents of a profile's file: a line for each timing."""
    head = msgspec.json.encode(msgspec.structs.replace(profile, timings=()))
    lines = b",\n".join(msgspec.json.encode(timing) for timing in profile.timings)
    return head.removesuffix(b"[]}") + b"[\n" + lines + b"\n]}\n"
