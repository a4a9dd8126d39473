"""LightGBM where the system has no OpenMP library, in processes that cannot find it."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The loader finds nothing of the system's under the names that are looked up here.
HIDDEN = """
from predictors import openmp
import ctypes
load = ctypes.CDLL
def blind(name, *rest):
    if name == openmp.WANTED:
        raise OSError("hidden")
    return load(name, *rest)
ctypes.CDLL = blind
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_the_copy_that_came_with_xgboost_is_loaded_and_answers_to_the_wanted_name() -> None:
    code = f"""{HIDDEN}
openmp.arrange()
ctypes.CDLL = load
handle = ctypes.CDLL("libgomp.so.1")
print(handle.omp_get_max_threads() > 0)
where = {{line.split()[5] for line in open("/proc/self/maps") if "GOMP" in line or ".so" in line}}
print(sum("libgomp" in name for name in where))
"""
    ended = run(code)
    assert ended.returncode == 0, ended.stderr
    # The renamed copy answers; the system's own was never opened.
    assert ended.stdout.split() == ["True", "0"]


@pytest.mark.parametrize("broken", ["_brought = lambda: None", "_load_renamed = lambda _: False"])
def test_without_any_the_remedy_is_named(broken: str) -> None:
    ended = run(f"{HIDDEN}\nopenmp.{broken}\nopenmp.arrange()")
    assert ended.returncode == 1
    assert "apt install libgomp1" in ended.stderr
