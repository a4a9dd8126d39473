"""``continuer profile``: how long this kind of box takes for each kind of operator."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from continuer.errors import EXIT_OK, ContinuerError, UsageError

BAR = 30
SAY_EVERY_S = 0.5
MAX_THREADS = 64
EPILOG = """\
examples:
  continuer profile --out profile.json

Take it while the box does nothing else, one for each kind of box. It needs the runtime, no
TensorFlow, and takes some minutes; a run that was ended goes on with --resume. How far two
measurements of the same differ is printed at the end: no prediction can be better than that.
"""


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "profile",
        help="time operators on this box, for predictions",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("profile.json"), metavar="FILE")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the runtime")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was ended")
    parser.add_argument(
        "--share", type=float, default=1.0, metavar="F", help="part of the grid, for a first look"
    )
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Take the profile and write it. Raises UsageError, ProfileError, ContinuerError."""
    if not 1 <= options.threads <= MAX_THREADS:
        raise UsageError(f"--threads {options.threads}: give a number from 1 to {MAX_THREADS}")
    if not 0 < options.share <= 1:
        raise UsageError(f"--share {options.share:g}: give a number above 0, up to 1")
    if not options.out.resolve().parent.is_dir():
        raise UsageError(f"--out {options.out}: there is no such directory; make it first")
    try:
        from predictors.profiling import Run
    except ImportError as error:
        raise ContinuerError(
            f"profile: {error}; install the runtime with: pip install 'continuer[agent]'"
        ) from error
    from predictors import profile as profiles
    from predictors.grid import designed

    log = options.out.with_name(options.out.name + ".partial")
    try:
        taking = Run(designed(options.share), log, threads=options.threads, go_on=options.resume)
        if options.resume:
            sys.stderr.write(f"{taking.taken_over} timings are there already\n")
        profile = taking.measure(ProgressBar())
        profiles.save(profile, options.out)
        taking.forget_log()
    except OSError as error:
        raise UsageError(f"--out {options.out}: {error.strerror}; give another") from error
    except KeyboardInterrupt:
        sys.stderr.write("\nended; go on with: continuer profile --resume\n")
        raise
    for line in describe(profile):
        print(line)
    print(f"wrote {options.out}")
    return EXIT_OK


def describe(profile: Any) -> list[str]:
    """A profile for people: the box, and of each kind the count and the noise floor."""
    from predictors.profile import noise_percent

    state = profile.after
    lines = [
        f"{profile.machine.cpu}, {profile.threads} thread(s), {profile.runtime}",
        f"governor {state.governor or 'unknown'}, temperature_c {state.temperature_c or 'unknown'}",
        f"load {profile.before.load} before, {state.load} after; {profile.seconds:.0f} s",
        f"{'operator':<22}{'timed':>6}{'fastest_us':>12}{'slowest_us':>12}{'noise_percent':>15}",
    ]
    for kind in profile.kinds:
        timings = profile.of_kind(kind)
        times = [t.best_us for t in timings]
        lines.append(
            f"{kind:<22}{len(timings):>6}{min(times):>12.1f}{max(times):>12.1f}"
            f"{noise_percent(timings):>15.2f}"
        )
    return lines


class ProgressBar:
    """Draws on standard error where that is a terminal; elsewhere a line for every tenth."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._said = 0.0
        self._tenth = 0
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        """So many of ``total`` are done."""
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if not sys.stderr.isatty():
            if 10 * done // total > self._tenth:
                self._tenth = 10 * done // total
                sys.stderr.write(f"profile: {100 * done // total} %\n")
            return
        if now - self._said < SAY_EVERY_S and done < total:
            return
        self._said = now
        filled = BAR * done // total
        new = done - self._first
        left_s = (now - self._begun) / new * (total - done) if new else 0.0
        bar = "#" * filled + "." * (BAR - filled)
        sys.stderr.write(f"\r[{bar}] {100 * done // total:3d} %, {left_s:4.0f} s left ")
        if done == total:
            sys.stderr.write("\n")
