"""Where heartbeats should live: in a thread beside the engine, or in a process of their own.

Five boxes' worth of processes on this machine, each running a stage of the model 100 times a
second; heartbeats every 10 ms from a thread of that process, from a second process, or from a
thread with real-time priority (then the observer has it too). One observer notes the gaps. The
ways alternate, with and without four processes that burn
CPU. ``python -m bench.heartbeats`` prints gap percentiles in ms.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import threading
import time
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np
import zmq

from continuer import bundle as bundles
from continuer import realtime
from continuer.catalog import find_bundle
from continuer.demo.cluster import HOST, free_ports
from continuer.runtime import load_part

BOXES = 5
INTERVAL_S = 0.01
HOGS = 4
REAL_TIME = "real-time thread"
WAYS = ("thread", "process", REAL_TIME)


def beat(port: int, box: int, way: str, stop: Event) -> None:
    """Heartbeats at a fixed pace."""
    context: zmq.Context[Any] = zmq.Context()
    if way == REAL_TIME:
        realtime.raise_context(context)
        realtime.raise_thread()
    sock = context.socket(zmq.DEALER)
    sock.connect(f"tcp://{HOST}:{port}")
    due = time.monotonic()
    while not stop.is_set():
        sock.send(bytes([box]))
        due = max(due + INTERVAL_S, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    context.destroy(linger=0)


def box_process(port: int, box: int, way: str, stop: Event) -> None:
    """One box: an engine at work, and heartbeats in the given way."""
    sys.setswitchinterval(1e-4)
    bundle = bundles.load(find_bundle("resnet32-cifar10"))
    path = bundle.path()
    cut = len(path) // BOXES
    loaded = [load_part(bundle, name) for name in path[box * cut : (box + 1) * cut]]
    spec = bundle.parts[path[box * cut]].inputs[0]
    tensor = np.zeros(spec.shape, spec.dtype)
    separate = way == "process"
    target = multiprocessing.Process if separate else threading.Thread
    beater = target(target=beat, args=(port, box, way, stop), daemon=not separate)
    beater.start()
    due = time.monotonic()
    while not stop.is_set():
        flow = [tensor]
        for part in loaded:
            flow = part.run(flow)
        due = max(due + INTERVAL_S, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    beater.join()


def burn(stop: Event) -> None:
    """Use a core."""
    while not stop.is_set():
        sum(range(10_000))


def observe(way: str, hogs: int, seconds: float) -> dict[str, float]:
    """Gaps between heartbeats of the same box, in ms."""
    port = free_ports(1)[0]
    context: zmq.Context[Any] = zmq.Context()
    ordinary = os.sched_getscheduler(0), os.sched_getparam(0)
    if way == REAL_TIME:
        realtime.raise_context(context)
    router = context.socket(zmq.ROUTER)
    router.bind(f"tcp://{HOST}:{port}")
    stop = multiprocessing.Event()
    boxes = [
        multiprocessing.Process(target=box_process, args=(port, box, way, stop))
        for box in range(BOXES)
    ]
    burners = [multiprocessing.Process(target=burn, args=(stop,)) for _ in range(hogs)]
    for process in (*boxes, *burners):
        process.start()
    if way == REAL_TIME:
        realtime.raise_thread()  # after the boxes have started, which would inherit it
    last: dict[bytes, int] = {}
    gaps = []
    begin = time.monotonic() + 2.0  # loading is not what is measured
    while time.monotonic() < begin + seconds:
        if not router.poll(100):
            continue
        box = router.recv_multipart()[1]
        now = time.monotonic_ns()
        if box in last and time.monotonic() > begin:
            gaps.append((now - last[box]) / 1e6)
        last[box] = now
    os.sched_setscheduler(0, *ordinary)
    stop.set()
    for process in (*boxes, *burners):
        process.join()
    context.destroy(linger=0)
    return {
        "n": len(gaps),
        **{f"p{p}": round(float(np.percentile(gaps, p)), 1) for p in (50, 99, 99.9)},
        "max": round(max(gaps), 1),
        "over_30_ms": sum(gap > 30 for gap in gaps),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    for _ in range(options.rounds):
        for hogs in (0, HOGS):
            for way in WAYS if realtime.permitted() else WAYS[:-1]:
                found = observe(way, hogs, options.seconds)
                print(json.dumps({"heartbeats": way, "hogs": hogs, **found}), flush=True)
