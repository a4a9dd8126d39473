"""The floor: a chain of processes with blocking PUSH/PULL sockets and nothing else.

Same blocks on the same cuts, one process a stage, one id frame and one tensor frame. No
heartbeats, no acceptance, no header, no replay: whatever we are slower than this is the price
of surviving.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from continuer import bundle as bundles
from continuer.demo.cluster import HOST, free_ports
from continuer.runtime import load_part

READY = b"ready"


def stage(bundle: Path, parts: Sequence[str], pull: int, push: int) -> None:
    """Serve one stage until an empty message, which is passed on."""
    found = bundles.load(bundle)
    loaded = [load_part(found, name) for name in parts]
    context: zmq.Context[Any] = zmq.Context()
    source, sink = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    source.bind(f"tcp://{HOST}:{pull}")
    sink.connect(f"tcp://{HOST}:{push}")
    spec = found.parts[parts[0]].inputs[0]
    while True:
        identity, frame = source.recv_multipart()
        if identity and frame:
            flow = [np.frombuffer(frame, spec.dtype).reshape(spec.shape)]
            for part in loaded:
                flow = part.run(flow)
            sink.send_multipart([identity, flow[0].data])
            continue
        sink.send_multipart([identity, frame])
        if not identity:
            time.sleep(0.2)  # let the farewell out
            return


class BareChain:
    """Starts the stages; ``latencies_ms`` and ``throughput_per_s`` measure them."""

    def __init__(self, bundle: Path, cuts: Sequence[Sequence[str]]) -> None:
        ports = free_ports(len(cuts) + 1)
        self._context: zmq.Context[Any] = zmq.Context()
        self._sink = self._context.socket(zmq.PUSH)
        self._source = self._context.socket(zmq.PULL)
        self._source.bind(f"tcp://{HOST}:{ports[-1]}")
        self.processes = [
            subprocess.Popen(  # ourselves
                [
                    *(sys.executable, "-m", "bench.bare", str(bundle)),
                    *(json.dumps(list(parts)), str(ports[i]), str(ports[i + 1])),
                ]
            )
            for i, parts in enumerate(cuts)
        ]
        self._sink.connect(f"tcp://{HOST}:{ports[0]}")
        self._sink.send_multipart([READY, b""])
        self._source.recv_multipart()

    def latencies_ms(self, array: np.ndarray[Any, Any], count: int) -> list[float]:
        """One request at a time."""
        found = []
        for k in range(count):
            begun = time.perf_counter_ns()
            self._sink.send_multipart([k.to_bytes(4, "big"), array.data])
            self._source.recv_multipart()
            found.append((time.perf_counter_ns() - begun) / 1e6)
        return found

    def throughput_per_s(self, array: np.ndarray[Any, Any], count: int, inflight: int) -> float:
        """``inflight`` requests at all times."""
        begun = time.perf_counter_ns()
        for k in range(count + inflight):
            if k >= inflight:
                self._source.recv_multipart()
            if k < count:
                self._sink.send_multipart([k.to_bytes(4, "big"), array.data])
        return count / ((time.perf_counter_ns() - begun) / 1e9)

    def close(self) -> None:
        """End the stages."""
        self._sink.send_multipart([b"", b""])
        for process in self.processes:
            process.wait(10)
        self._context.destroy(linger=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("parts", type=json.loads)
    parser.add_argument("pull", type=int)
    parser.add_argument("push", type=int)
    options = parser.parse_args()
    stage(options.bundle, options.parts, options.pull, options.push)
