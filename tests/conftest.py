"""What all tests share: where nothing may be skipped, a skip is a failure.

``CONTINUER_NO_SKIP=1`` is for machines that were set up to run everything, such as CI.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest

# A shell starts what it puts into the background with SIGINT ignored, and whatever that starts
# inherits it; an interrupt has to arrive at the programs that are interrupted here.
signal.signal(signal.SIGINT, signal.default_int_handler)

NO_SKIP = os.environ.get("CONTINUER_NO_SKIP", "") not in ("", "0")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips itself."""
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A file that skips itself while it is imported."""
    report = yield
    refuse_skip(report)
    return report


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure that gives the skip's reason."""
    if NO_SKIP and report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"CONTINUER_NO_SKIP is set, and this was skipped: {reason}"
