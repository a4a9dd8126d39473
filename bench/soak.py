"""A soak: requests at a fixed rate through hours of faults, every answer checked. Needs root.

    python -m bench soak --minutes 30 [--seed WORD] [--rate 100]

A cluster on hosts of its own goes through slice after slice of a minute. In each a seed, printed
and recorded, chooses faults (``bench/soak_faults.py``); ``continuer load`` sends, open loop; then
everything is mended, and the full plan has to be back. Every answer is compared with what one
process computes over the answer's tagged path. Memory and descriptors of every process are
watched. A line a slice is appended to a file, so that a million requests can be reached in several
runs. Raw log and journals of a slice that went wrong are kept beside it.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.client import IMAGES, begin
from bench.hosts import MODEL, HostedCluster, hosted
from bench.outage import NODES, read
from bench.soak_faults import Doer, Planned, schedule
from bench.soak_watch import Watch
from continuer import bundle as bundles
from continuer import load, outage
from continuer.catalog import find_bundle
from continuer.demo.report import Oracle, count, good_seqs
from continuer.errors import ContinuerError
from continuer.outage import RequestRecord

MINUTES = 30.0
SLICE_S = 60.0
LEAD_S = 1.0
BACK_S = 60.0
CONFIDENCE = 0.95
#: What may not be, in a slice and in all of them.
FAULTLESS = ("lost", "duplicate", "wrong", "needless", "crashed", "not_back", "leaking")
# After a death of the whole cluster requests cannot be answered until it is back.
AWAKE_S = 5.0


def run(
    directory: Path, *, seconds: float, seed: str, rate_per_s: float, slice_s: float = SLICE_S
) -> None:
    """Slices until so many seconds of requests have been, appended to the directory's file."""
    directory.mkdir(parents=True, exist_ok=True)
    results = directory / "slices.jsonl"
    bundle = bundles.load(find_bundle(MODEL))
    inputs, _ = load.inputs_for(bundle.manifest.input, IMAGES, 0)
    oracle = Oracle(bundle, inputs)
    slice_s = min(slice_s, seconds)
    slices = round(seconds / slice_s)
    with (
        tempfile.TemporaryDirectory() as scratch,
        hosted(Path(scratch), list(NODES)) as cluster,
        Watch(cluster) as watch,
    ):
        for index in range(slices):
            own_seed = f"{seed}-{index}"
            raw_log = Path(scratch) / "raw.jsonl"
            record = one(cluster, watch, oracle, raw_log, own_seed, slice_s, rate_per_s)
            with results.open("a") as log:
                log.write(json.dumps(record) + "\n")
            spoilt = {key: record[key] for key in FAULTLESS if record[key]}
            print(own_seed, record["requests"], record["faults"], spoilt or "well", file=sys.stderr)
            if spoilt:
                keep(directory / own_seed, Path(scratch))
            if record["not_back"]:
                return  # what comes after it would be of no use


def one(
    cluster: HostedCluster,
    watch: Watch,
    oracle: Oracle,
    raw_log: Path,
    seed: str,
    seconds: float,
    rate_per_s: float,
) -> dict[str, Any]:
    """One slice: requests and faults, the return to the full plan, the account."""
    faults = schedule(seed, seconds, cluster.nodes)
    client = begin(
        cluster.endpoints, raw_log, seconds=seconds + LEAD_S, rate_per_s=rate_per_s,
        prefix=cluster.network.prefix("client"),
    )  # fmt: skip
    begun_ns = time.monotonic_ns() + int(LEAD_S * 1e9)
    doer = Doer(cluster)
    try:
        play(faults, doer, begun_ns)
    finally:
        doer.end_all()
    client.wait()
    not_back = ""
    try:
        cluster.wait_until(lambda s: s["health"] == "full", "all to be back", timeout_s=BACK_S)
    except ContinuerError as error:
        not_back = str(error)
    requests = outage.read(raw_log).requests
    found = account(requests, good_seqs(oracle, requests), faults, begun_ns)
    return {
        "seed": seed,
        "seconds": seconds,
        "rate_per_s": rate_per_s,
        **found,
        "faults": len(faults),
        "kinds": dict(Counter(fault.kind for fault in faults)),
        "not_back": not_back,
        **watch.report(),
    }


def play(faults: Sequence[Planned], doer: Doer, begun_ns: int) -> None:
    """Begin and end the faults at their times."""
    steps = [(fault.at_s, 1, fault) for fault in faults]
    steps += [(fault.end_s, 0, fault) for fault in faults]
    for at_s, begins, fault in sorted(steps, key=lambda step: step[:2]):
        while (left_ns := begun_ns + int(at_s * 1e9) - time.monotonic_ns()) > 0:
            time.sleep(left_ns / 1e9)
        (doer.begin if begins else doer.end)(fault)


# --- the account ----------------------------------------------------------------------------


def account(
    requests: Sequence[RequestRecord], good: set[int], faults: Sequence[Planned], begun_ns: int
) -> dict[str, Any]:
    """Requests by outcome; ``needless``: errors that nothing in the schedule explains."""
    counts = count(requests, good)
    errors = [r for r in requests if r.outcome == "error"]
    needless = [r for r in errors if not excused(r, faults, begun_ns)]
    bad = [r for r in requests if r.outcome == "lost" or r.outcomes > 1]
    bad += [r for r in requests if r.outcome == "ok" and r.seq not in good]
    return {
        "requests": counts["sent"],
        **{key: counts[key] for key in ("full", "degraded", "error", "lost", "duplicate", "wrong")},
        "needless": len(needless),
        "problems": [
            {
                "seq": r.seq,
                "at_s": round((r.intended_ns - begun_ns) / 1e9, 3),
                "said": r.error or r.outcome,
            }
            for r in (*bad, *needless)[:20]
        ],
    }


def excused(request: RequestRecord, faults: Sequence[Planned], begun_ns: int) -> bool:
    """No way to answer it: nobody lived, or it met two deaths and is quarantined by design."""
    ended_ns = request.done_ns if request.done_ns is not None else request.intended_ns
    begun_s = (request.intended_ns - begun_ns) / 1e9
    ended_s = (ended_ns - begun_ns) / 1e9
    if any(
        f.kind == "everything" and f.at_s < ended_s and begun_s < f.end_s + AWAKE_S for f in faults
    ):
        return True
    deaths = sum(
        len(f.nodes)
        for f in faults
        if f.kind in ("kill", "all_but_one") and begun_s - 1 < f.at_s < ended_s
    )
    return "quarantined" in request.error and deaths >= 2


def keep(directory: Path, scratch: Path) -> None:
    """Keep raw log and journals of a slice."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in (*scratch.glob("*.log"), *scratch.glob("raw.jsonl")):
        shutil.copy(path, directory / path.name)


def summary(directory: Path) -> dict[str, Any]:
    """All slices so far, and what may be said of the requests with 95 % confidence."""
    records = read(directory / "slices.jsonl")
    requests = sum(r["requests"] for r in records)
    found: dict[str, Any] = {
        "slices": len(records),
        "requests": requests,
        "fault_count": sum(r["faults"] for r in records),
        "kinds": dict(sum((Counter(r["kinds"]) for r in records), Counter())),
        **{key: sum(r[key] for r in records) for key in ("full", "degraded", "error")},
        **{key: sum(bool(r[key]) for r in records) for key in ("not_back",)},
        **{
            key: sum(r[key] if isinstance(r[key], int) else len(r[key]) for r in records)
            for key in FAULTLESS
            if key != "not_back"
        },
        "largest_growth_mib": max((r["largest_growth_mib"] for r in records), default=0),
        "most_descriptors": max((r["most_descriptors"] for r in records), default=0),
        "spoilt_seeds": [r["seed"] for r in records if any(r[key] for key in FAULTLESS)],
    }
    spoilt = sum(found[key] for key in ("lost", "duplicate", "wrong", "needless"))
    found["spoilt"] = spoilt
    found["spoilt_bound_95"] = bound(spoilt, requests) if requests else None
    return found


def bound(count: int, trials: int) -> float:
    """The largest share that so many in so many trials leave possible, at 95 % confidence.

    One-sided, of a Poisson count: 3.0 / n where none was seen.
    """

    def at_most_count(mean: float) -> float:
        term = total = math.exp(-mean)
        for k in range(1, count + 1):
            term *= mean / k
            total += term
        return total

    low, high = 0.0, 10.0 * (count + 3)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most_count(middle) > 1 - CONFIDENCE else (low, middle)
    return min(high / trials, 1.0)
