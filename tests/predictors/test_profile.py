"""Profiles: what is kept, what is refused, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from predictors import profile as profiles
from predictors.machine import Machine, conditions, this_machine
from predictors.operators import Operator
from predictors.profile import ProfileError, Timing, noise_percent
from tests.predictors.made_up import BOX, made_up_profile

PROFILE = made_up_profile(0.02)


def test_a_saved_profile_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "box.json"
    profiles.save(PROFILE, path)
    assert profiles.load(path) == PROFILE
    assert profiles.load(path, BOX) == PROFILE
    assert [entry.name for entry in tmp_path.iterdir()] == ["box.json"]


def test_the_best_of_all_passes_counts_and_halves_tell_the_noise() -> None:
    operator = Operator("relu", (1, 1, 1), (1, 1, 1))
    timing = Timing(operator, (12.0, 11.0, 10.0, 14.0))
    assert timing.best_us == 10.0
    assert timing.halves_us == (10.0, 11.0)
    quiet = Timing(operator, (5.0, 5.0))
    assert noise_percent([timing]) == pytest.approx(10.0)
    assert noise_percent([quiet, quiet, timing]) == 0.0


def edited(change: Callable[[dict[str, Any]], None]) -> bytes:
    content = json.loads(profiles.encode(PROFILE))
    change(content)
    return json.dumps(content).encode()


def set_timing(content: dict[str, Any], passes: list[Any]) -> None:
    content["timings"][3][1] = passes


def without_type(content: dict[str, Any], kind: str) -> None:
    content["timings"] = [t for t in content["timings"] if t[0][0] != kind]


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "NaN": (lambda c: set_timing(c, [float("nan")] * 4), "NaN timings and damaged files"),
    "null": (lambda c: set_timing(c, [None] * 4), "NaN timings and damaged files"),
    "infinite": (lambda c: set_timing(c, [1e300] * 4), r"timings\[3\] = .1e\+300"),
    "zero": (lambda c: set_timing(c, [0.0] * 4), r"timings\[3\] = .0\.0"),
    "negative": (lambda c: set_timing(c, [-1.0] * 4), r"timings\[3\] = .-1\.0"),
    "fewer passes": (lambda c: set_timing(c, [1.0]), r"timings of \[1, 4\] passes"),
    "no conv": (lambda c: without_type(c, "conv"), "fewer than 4 timings of conv"),
    "no add": (lambda c: without_type(c, "add"), "fewer than 4 timings of add"),
    "nothing": (lambda c: c.update(timings=[]), r"timings of \[\] passes"),
    "newer": (lambda c: c.update(schema=2), "schema = 2, known is 1"),
    "unknown field": (lambda c: c.update(colour="red"), "not a profile.*colour"),
    "unknown type": (
        lambda c: c["timings"][3][0].__setitem__(0, "tanh"),
        "operator 'tanh', known are batch_norm, conv",
    ),
    "no side": (lambda c: c["timings"][3][0].__setitem__(1, [0, 1, 1]), "sizes below 1"),
    "no floor": (lambda c: c.update(floor_us=0.0), r"floor_us = 0\.0"),
    "no copies": (lambda c: c.update(copies=[]), r"copies of \[\] bytes"),
    "copies backwards": (lambda c: c["copies"].reverse(), "each larger than the one before"),
    "free copy": (lambda c: c["copies"][0].__setitem__(1, 0.0), r"copies\[0\] = Copy"),
}


@pytest.mark.parametrize(("change", "why"), BROKEN.values(), ids=list(BROKEN))
def test_a_profile_that_cannot_be_trusted_is_refused_with_the_reason(
    change: Callable[[dict[str, Any]], None], why: str
) -> None:
    with pytest.raises(ProfileError, match=f"box.json: .*{why}.*profile the box again"):
        profiles.decode(edited(change), "box.json")


def test_one_pass_is_too_few_to_know_the_noise() -> None:
    def keep_one(content: dict[str, Any]) -> None:
        for timing in content["timings"]:
            timing[1] = timing[1][:1]

    with pytest.raises(ProfileError, match=r"timings of \[1\] passes; 2 or more"):
        profiles.decode(edited(keep_one), "box.json")


def test_a_truncated_or_foreign_file_is_refused(tmp_path: Path) -> None:
    whole = profiles.encode(PROFILE)
    for content in (b"", whole[:-40], b"\x00\xff", b"[1, 2]", b"{}"):
        with pytest.raises(ProfileError, match="x: not a profile"):
            profiles.decode(content, "x")
    with pytest.raises(ProfileError, match=r"none.json: No such file.*continuer profile --out"):
        profiles.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [("cpu", "another"), ("architecture", "aarch64"), ("instruction_sets", ("avx",))],
)
def test_a_profile_of_another_cpu_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "box.json"
    profiles.save(PROFILE, path)
    other = msgspec.structs.replace(BOX, **{field: value})
    with pytest.raises(ProfileError, match=f"{field} = .*profile this kind of box"):
        profiles.load(path, other)


def test_the_number_of_cores_makes_no_other_kind_of_box() -> None:
    profiles.check_machine(PROFILE, msgspec.structs.replace(BOX, cores=64), "box.json")


def test_shapes_can_be_left_out_whatever_their_activation() -> None:
    kept = PROFILE.of_kind("conv")
    gone = msgspec.structs.replace(kept[0].operator, activation="relu6")
    left = PROFILE.without([gone])
    assert kept[0] not in left.timings
    assert set(left.timings) == set(PROFILE.timings) - {kept[0]}


def test_this_machine_says_what_it_is() -> None:
    machine = this_machine()
    assert machine == this_machine()
    assert machine.cpu
    assert machine.cores >= 1
    assert msgspec.convert(msgspec.to_builtins(machine), Machine) == machine
    state = conditions()
    assert state.temperature_c is None or -40 < state.temperature_c < 150


CPUINFO = {
    "x86": (
        (
            "cpu family\t: 6\nmodel\t: 158\nmodel name\t: Some Core i7\nstepping\t: 10\n"
            "flags\t: fpu avx avx2 fma\n\nprocessor\t: 1\nmodel name\t: Other\n"
        ),
        "Some Core i7 (6/158/10)",
        ("avx", "avx2", "fma"),
    ),
    "arm": (
        (
            "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\n"
            "CPU part\t: 0xd0b\nHardware\t: Some Board\n"
        ),
        "Some Board (0x41/0xd0b)",
        ("asimd", "asimddp"),
    ),
}


@pytest.mark.parametrize(("text", "name", "sets"), CPUINFO.values(), ids=list(CPUINFO))
def test_boxes_are_told_apart_by_what_their_cpu_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    name: str,
    sets: tuple[str, ...],
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr("predictors.machine.CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("predictors.machine.DEVICE_TREE", tmp_path / "none")
    machine = this_machine()
    assert machine.cpu == name
    assert machine.instruction_sets == sets
