"""``continuer infer``: ask the cluster about images or tensors, and see how it answered."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from continuer.bundle import InputSpec
from continuer.cli_help import add_verb
from continuer.client import Answer, Client
from continuer.control import add_options, ask
from continuer.errors import (
    EXIT_OK,
    EXIT_UNHEALTHY,
    AccessError,
    RequestError,
    UnreachableError,
    UsageError,
)
from continuer.progress import bar
from continuer.status import percent

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

EXAMPLES = """\
continuer infer cat.jpg dog.png
continuer infer input.npy --json
continuer infer cat.jpg --repeat 100 --rate 20 --endpoint tcp://10.0.0.2:7410
"""


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        commands,
        "infer",
        "ask about image files or .npy arrays",
        EXAMPLES,
        "Images are brought to the model's size and prepared as its bundle says; a .npy file "
        "holds an input tensor as it is, or a uint8 image. Agents are found through the "
        "coordinator, or named by --endpoint. Exit code 1 where a request got no answer.",
    )
    parser.add_argument("file", nargs="+", type=Path, metavar="FILE", help="image or .npy")
    parser.add_argument(
        "--endpoint", action="append", metavar="tcp://HOST:PORT", help="an agent's ingress"
    )
    parser.add_argument("--cluster", default="continuer", metavar="NAME", help="the cluster's name")
    parser.add_argument("--budget-ms", type=float, default=2000.0, metavar="MS")
    parser.add_argument(
        "--class", dest="request_class", default="", metavar="NAME", help="a class of requests"
    )
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="each file, N times")
    parser.add_argument(
        "--rate",
        type=float,
        metavar="PER_S",
        help="requests a second; as fast as they are answered",
    )
    add_options(parser)
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Ask about each file; 0 where every request was answered."""
    if options.repeat < 1:
        raise UsageError(f"--repeat {options.repeat}: give 1 or more")
    for option in ("rate", "budget_ms"):
        value = getattr(options, option)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{option.replace('_', '-')} {value:g}: give a number above 0")
    endpoints = options.endpoint or ingresses(options.coordinator)
    with Client(endpoints, cluster=options.cluster) as client:
        inputs = {file: read_input(file, client.input) for file in options.file}
        jobs = [(file, inputs[file]) for _ in range(options.repeat) for file in options.file]
        paced = _paced(jobs, options.rate)
        told = []
        watched = not options.json and sys.stdout.isatty()  # the answers themselves show it
        for file, (array, note) in paced if watched else bar(paced, len(jobs), "asking"):
            entry = _ask(client, file, array, options)
            entry.update(note)
            told.append(entry)
            if not options.json:
                print(describe(entry), flush=True)
    answered = sum(entry["error"] is None for entry in told)
    if options.json:
        print(json.dumps({"schema": 1, "answered": answered, "answers": told}))
    elif len(told) > 1:
        took = [entry["latency_ms"] for entry in told]
        sys.stderr.write(
            f"{answered} of {len(told)} answered, median {float(np.median(took)):.2f} ms\n"
        )
    return EXIT_OK if answered == len(told) else EXIT_UNHEALTHY


def ingresses(coordinator: str) -> list[str]:
    """Where clients may enter, as the coordinator says; the nodes at work come first."""
    nodes = ask(coordinator, "status", brief=True)["nodes"]
    live = [n for n in nodes if n["ingress"] is not None and n["state"] in ("active", "joined")]
    if not live:
        raise UnreachableError(f"the coordinator at {coordinator} knows of no node that is up")
    return [n["ingress"] for n in sorted(live, key=lambda n: n["state"] != "active")]


def read_input(file: Path, model: InputSpec) -> tuple[Array, dict[str, Any]]:
    """A file as ``Client.submit`` takes it, and what was done to it.

    Raises UsageError, or AccessError where the file may not be read.
    """
    try:
        if file.suffix == ".npy":
            loaded: Array = np.load(file, allow_pickle=False)
            return loaded, {}
        return _read_image(file, model)
    except PermissionError as error:
        raise AccessError(f"{file}: {error.strerror}") from error
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{file}: {error}; give an image or a .npy file") from error


def _read_image(file: Path, model: InputSpec) -> tuple[Array, dict[str, Any]]:
    try:
        from PIL import Image
    except ImportError as error:
        remedy = "pip install 'continuer[images]', or give a .npy file"
        raise UsageError(f"{file}: images need Pillow: {remedy}") from error
    shape = model.tensors[0].shape
    if model.preprocessing is None or len(shape) != 4 or shape[3] not in (1, 3):
        raise UsageError(f"{file}: the model takes no images but {shape}; give a .npy file")
    height, width, channels = shape[1:]
    with Image.open(file) as image:
        size = image.size
        pixels = image.convert("RGB" if channels == 3 else "L")
        if size != (width, height):
            pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
    array: Array = np.asarray(pixels, np.uint8).reshape(height, width, channels)
    if size == (width, height):
        return array, {}
    return array, {"resized_from": list(size)}


def _paced(jobs: list[Any], rate: float | None) -> Iterator[Any]:
    """The jobs, each not before its time: the k-th is due after k / rate seconds."""
    start = time.monotonic()
    for k, job in enumerate(jobs):
        if rate is not None:
            time.sleep(max(0.0, start + k / rate - time.monotonic()))
        yield job


def _ask(client: Client, file: Path, array: Array, options: argparse.Namespace) -> dict[str, Any]:
    started = time.monotonic_ns()
    answer: Answer | None = None
    problem = None
    try:
        answer = client.infer(array, options.budget_ms, options.request_class)
    except RequestError as error:
        problem = str(error)
    took_ms = (time.monotonic_ns() - started) / 1e6
    entry: dict[str, Any] = {"file": str(file), "error": problem, "latency_ms": round(took_ms, 3)}
    if answer is not None:
        entry.update(
            label=answer.label,
            index=answer.index,
            technique=answer.technique,
            exit=answer.exit,
            path=list(answer.path),
            nodes=list(answer.nodes),
            version=answer.version,
            bundle=answer.bundle,
            expected_accuracy=answer.expected_accuracy,
            attempts=answer.attempts,
        )
    return entry


def describe(entry: dict[str, Any]) -> str:
    """An answer for people."""
    if entry["error"] is not None:
        return f"{entry['file']}: {entry['error']}"
    at = f" at {entry['exit']}" if entry["exit"] else ""
    size = entry.get("resized_from")
    resized = f", resized from {size[0]}x{size[1]}" if size else ""
    return (
        f"{entry['file']}: {entry['label']}  ({entry['technique']}{at}, expected accuracy "
        f"{percent(entry['expected_accuracy'])}, {entry['latency_ms']:.2f} ms{resized})\n"
        f"  {' '.join(entry['path'])}  on {', '.join(entry['nodes'])}"
    )
