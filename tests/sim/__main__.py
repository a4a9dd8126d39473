"""Seeds, scenarios and scale from the command line: ``python -m tests.sim --help``."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from tests.sim.run import Report, explain, run, shrink, tell
from tests.sim.scale import main as scale_main
from tests.sim.scenarios import STORIES


def main() -> int:
    """Exit code 0 where every invariant held."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run one seed, and say what broke")
    parser.add_argument("--steps", action="store_true", help="print the whole transcript")
    parser.add_argument("--seeds", type=int, help="run so many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--story", choices=sorted(STORIES), help="run a scenario")
    parser.add_argument("--scale", action="store_true", help="growth with the number of agents")
    options = parser.parse_args()
    if options.scale:
        return scale_main()
    if options.story:
        return _show(tell(options.story), steps=options.steps)
    if options.seed is not None:
        return _show(run(options.seed), steps=options.steps)
    return _many(range(options.first, options.first + (options.seeds or 100)))


def _show(report: Report, *, steps: bool) -> int:
    if report.rule:
        print(explain(report if steps else shrink(report), steps=steps))
        return 1
    if steps:
        print("\n".join(report.lines))
    print(f"{report.digest}: {report.requests} requests, {report.steps} steps, all well")
    return 0


def _many(seeds: range) -> int:
    failed = []
    steps = requests = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for report in pool.map(run, seeds, chunksize=4):
            steps, requests = steps + report.steps, requests + report.requests
            if report.rule:
                failed.append(report.seed)
                print(explain(shrink(report)), flush=True)
    print(f"{len(seeds)} seeds, {requests} requests, {steps} steps; failed: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
