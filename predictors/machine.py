"""What kind of box this is, and the state it is in: what a timing depends on besides the work."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import msgspec

CPUINFO = Path("/proc/cpuinfo")
DEVICE_TREE = Path("/proc/device-tree/model")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
THERMAL = Path("/sys/class/thermal")
#: Instruction sets that the runtime's kernels are chosen by; clouds give one name to many CPUs.
INSTRUCTION_SETS = frozenset(
    {
        *("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
        *("asimd", "asimdhp", "asimddp", "i8mm", "sve", "neon"),
    }
)


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of box: profiles and models hold for boxes that have the same."""

    cpu: str
    instruction_sets: tuple[str, ...]
    architecture: str
    cores: int


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a box; None where the system does not say."""

    governor: str | None
    temperature_c: float | None
    load: float | None


def this_machine() -> Machine:
    """The box that this runs on."""
    fields = _cpuinfo(_text(CPUINFO) or "")
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return Machine(
        _cpu_name(fields),
        tuple(sorted(INSTRUCTION_SETS.intersection(flags))),
        platform.machine(),
        os.cpu_count() or 1,
    )


def conditions() -> Conditions:
    """The state of this box now."""
    celsius = [
        int(value) / 1000
        for zone in THERMAL.glob("thermal_zone*/temp")
        if (value := _text(zone) or "").lstrip("-").isdigit()
    ]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Conditions(_text(GOVERNOR), max(celsius, default=None), load)


def _cpu_name(fields: dict[str, str]) -> str:
    """Name, family, model and stepping on x86; on ARM the board, or the core's part number."""
    if "model name" in fields and "cpu family" in fields:
        numbers = "/".join(fields.get(k, "?") for k in ("cpu family", "model", "stepping"))
        return f"{fields['model name']} ({numbers})"
    board = (_text(DEVICE_TREE) or "").strip("\0 ")
    parts = f"{fields.get('CPU implementer', '?')}/{fields.get('CPU part', '?')}"
    return f"{board or fields.get('Hardware') or platform.processor() or 'unknown'} ({parts})"


def _cpuinfo(text: str) -> dict[str, str]:
    """The first processor's fields, and those that hold for all."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
