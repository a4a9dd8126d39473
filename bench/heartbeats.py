"""Where heartbeats should live: in a thread beside the engine, or in a process of their own.

Five boxes' worth of processes on this machine, each running a stage of the model 100 times a
second; heartbeats every 10 ms either from a thread of that process or from a second process.
One observer notes the gaps. Both ways alternate, with and without four processes that burn
CPU. ``python -m bench.heartbeats`` prints gap percentiles in ms.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import threading
import time
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np
import zmq

from continuer import bundle as bundles
from continuer.catalog import find_bundle
from continuer.demo.cluster import HOST, free_ports
from continuer.runtime import load_part

BOXES = 5
INTERVAL_S = 0.01
HOGS = 4


def beat(port: int, box: int, stop: Event) -> None:
    """Heartbeats at a fixed pace."""
    context: zmq.Context[Any] = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.connect(f"tcp://{HOST}:{port}")
    due = time.monotonic()
    while not stop.is_set():
        sock.send(bytes([box]))
        due = max(due + INTERVAL_S, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    context.destroy(linger=0)


def box_process(port: int, box: int, separate: bool, stop: Event) -> None:
    """One box: an engine at work, and heartbeats in the given way."""
    sys.setswitchinterval(1e-4)
    bundle = bundles.load(find_bundle("resnet32-cifar10"))
    path = bundle.path()
    cut = len(path) // BOXES
    loaded = [load_part(bundle, name) for name in path[box * cut : (box + 1) * cut]]
    spec = bundle.parts[path[box * cut]].inputs[0]
    tensor = np.zeros(spec.shape, spec.dtype)
    target = multiprocessing.Process if separate else threading.Thread
    beater = target(target=beat, args=(port, box, stop), daemon=not separate)
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


def observe(separate: bool, hogs: int, seconds: float) -> dict[str, float]:
    """Gaps between heartbeats of the same box, in ms."""
    port = free_ports(1)[0]
    context: zmq.Context[Any] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(f"tcp://{HOST}:{port}")
    stop = multiprocessing.Event()
    boxes = [
        multiprocessing.Process(target=box_process, args=(port, box, separate, stop))
        for box in range(BOXES)
    ]
    burners = [multiprocessing.Process(target=burn, args=(stop,)) for _ in range(hogs)]
    for process in (*boxes, *burners):
        process.start()
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
            for separate in (False, True):
                found = observe(separate, hogs, options.seconds)
                where = "process" if separate else "thread"
                print(json.dumps({"heartbeats": where, "hogs": hogs, **found}), flush=True)
