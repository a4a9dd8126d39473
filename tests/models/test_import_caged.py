"""Work in a child process: its results come back, and so does the way it died."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from continuer import caged
from continuer.errors import BundleError, ModelError, UsageError

HERE = "tests.models.test_import_caged"
LIMITS = caged.Limits(memory_mib=512, deadline_s=30)


def run(function: str, limits: caged.Limits = LIMITS, **arguments: object) -> list[object]:
    return list(caged.run(f"{HERE}:{function}", arguments, "the file", limits))


# --- what the children do -------------------------------------------------------------------


def counts(to: int) -> Iterator[object]:
    for number in range(to):
        yield {"number": number, "pid": os.getpid()}


def fails(name: str) -> Iterator[object]:
    caged.doing("failing")
    raise {"bundle": BundleError, "usage": UsageError, "os": OSError}[name]("what is wrong")
    yield None


def hangs() -> Iterator[object]:
    yield "begun"
    caged.doing("hanging")
    time.sleep(3600)


def dawdles() -> Iterator[object]:
    """Longer in all than one step may take."""
    for number in range(10):
        caged.doing(f"step {number}")
        time.sleep(0.5)
    yield "done"


def crashes() -> Iterator[object]:
    caged.doing("reading address 0")
    ctypes.string_at(0)
    yield None


def aborts() -> Iterator[object]:
    caged.doing("aborting")
    os.write(2, b"INFO: all is well\nERROR: all is lost\nINFO: and now?\n")
    os.abort()
    yield None


def ends() -> Iterator[object]:
    os._exit(3)
    yield None


def spins() -> Iterator[object]:
    while True:
        caged.doing("spinning")
    yield None


def grows() -> Iterator[object]:
    caged.doing("growing")
    yield len(bytearray(1 << 30))


def writes(path: str) -> Iterator[object]:
    with Path(path).open("wb") as file:
        file.truncate(caged.MAX_FILE_BYTES + 1)
    yield None


# --- and what becomes of them ---------------------------------------------------------------


def test_items_come_back_from_another_process() -> None:
    items = run("counts", to=3)
    assert [item["number"] for item in items if isinstance(item, dict)] == [0, 1, 2]
    assert all(item["pid"] != os.getpid() for item in items if isinstance(item, dict))


@pytest.mark.parametrize(("name", "kind"), [("bundle", BundleError), ("usage", UsageError)])
def test_our_errors_are_raised_again(name: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^what is wrong$"):
        run("fails", name=name)


def test_an_unforeseen_error_is_told_with_its_last_line() -> None:
    with pytest.raises(ModelError, match=r"^the file: .* while failing .*OSError: what is wrong"):
        run("fails", name="os")


def test_a_hanging_step_is_ended() -> None:
    limits = caged.Limits(512, deadline_s=4)
    with pytest.raises(ModelError, match=r"^the file: not done after 4 s, while hanging"):
        run("hangs", limits)


def test_the_deadline_is_for_a_step_not_for_all() -> None:
    assert run("dawdles", caged.Limits(512, deadline_s=4)) == ["done"]


def test_a_crash_is_survived_and_named() -> None:
    with pytest.raises(ModelError, match="crashed with SIGSEGV while reading address 0"):
        run("crashes")


def test_an_abort_is_told_with_what_the_runtime_said() -> None:
    with pytest.raises(ModelError, match=r"SIGABRT while aborting \(ERROR: all is lost\)"):
        run("aborts")


def test_a_silent_end_is_no_success() -> None:
    with pytest.raises(ModelError, match="ended the process with code 3"):
        run("ends")


def test_cpu_time_is_limited() -> None:
    with pytest.raises(ModelError, match="1 s of CPU used up, while spinning"):
        run("spins", caged.Limits(512, 30, cpu_s=1))


def test_memory_is_limited() -> None:
    with pytest.raises(ModelError, match="needs more than 512 MiB, while growing"):
        run("grows")


def test_files_are_limited(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="File too large"):
        run("writes", path=str(tmp_path / "large"))


def test_a_child_ends_when_nobody_listens_any_more() -> None:
    items = caged.run(f"{HERE}:counts", {"to": 1_000_000}, "the file", LIMITS)
    first = next(items)
    items.close()  # type: ignore[attr-defined]  # a generator, which the interface hides
    with pytest.raises(ProcessLookupError):
        os.kill(first["pid"], 0)
