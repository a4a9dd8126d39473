"""``continuer model import``: its options and its output.

Quick to import: the runtime is loaded only in the child that works on the model.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from continuer import caged
from continuer.bundle import Bundle, dump, load
from continuer.errors import EXIT_OK, ModelError, UsageError
from continuer.placement import place

if TYPE_CHECKING:
    # What argparse's add_subparsers returns; it has no public name.
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

DEFAULT_NODES = 3
LICENCE = "as the imported file; see where it came from"
IMPORT_TEXT = """\
Cuts FILE.tflite, float or quantised, into blocks, and writes them as a bundle that can be
deployed: agents run the blocks, and when a box dies the others take its blocks over. Exits and
skips need known accuracies, and so labelled images: see `continuer model add-exits`.

FILE is checked and run in a child process that may crash or hang without harm. The blocks are
compared with the whole model on random and extreme inputs; they must agree bit for bit.
Refused: models with several subgraphs, with If or While, or with variables (state).
"""


def add_import(verbs: Subparsers) -> None:
    """Add the verb ``import`` to ``continuer model``."""
    parser = verbs.add_parser(
        "import",
        help="cut a .tflite model into a bundle",
        description=IMPORT_TEXT,
        epilog="examples:\n  continuer model import mobilenet.tflite --nodes 4 --out ./mobilenet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE.tflite")
    add(
        "--nodes",
        type=int,
        default=DEFAULT_NODES,
        metavar="N",
        help="boxes to propose a placement for (default %(default)s)",
    )
    add("--blocks", type=int, default=1, metavar="N", help="cut into so many blocks or more")
    add("--out", type=Path, metavar="DIR", help="directory to create (default: the name)")
    add("--name", help="name of the model (default: the file's)")
    add("--version", default="1.0.0", help="version of the bundle (default %(default)s)")
    add("--licence", default=LICENCE, help="what the manifest says of the licence")
    add("--classes", type=Path, metavar="FILE", help="names of the classes, one a line")
    add("--divisor", type=float, metavar="X", help="images are prepared as (x/divisor - mean)/std")
    add("--mean", metavar="X,X,X", help="per channel, with --divisor (default 0)")
    add("--std", metavar="X,X,X", help="per channel, with --divisor (default 1)")
    add("--every-cut", action="store_true", help="compare at every partition point")
    add("--json", action="store_true", help="one JSON object on standard output")
    caged.add_arguments(parser)
    parser.set_defaults(handler=run_import)


def run_import(options: argparse.Namespace) -> int:
    """Import a model and print what came of it. Raises ModelError or UsageError."""
    name = options.name or _slug(options.file.stem)
    out: Path = options.out or Path(name)
    _check_import(options, out)
    arguments = {
        "file": str(options.file),
        "described": {
            "name": name,
            "version": options.version,
            "description": f"imported from {options.file.name}",
            "licence": options.licence,
            "classes": _classes(options.classes),
            "preprocessing": _preprocessing(options),
        },
        "more": {"blocks": max(options.blocks, options.nodes), "every_cut": options.every_cut},
    }
    with beside(out) as directory:
        arguments["directory"] = str(directory)
        function = "models.imported.importing:work"
        limits = caged.limits_from(options)
        (facts,) = caged.run(function, arguments, str(options.file), limits)
        _measure(directory, str(options.file), limits)
        directory.rename(out)
    bundle = load(out)
    report = _report(bundle, facts, options.nodes)
    sys.stdout.write(json.dumps(report) if options.json else "\n".join(_text(report)))
    sys.stdout.write("\n")
    return EXIT_OK


def _measure(directory: Path, subject: str, limits: caged.Limits) -> None:
    """Write into the bundle's manifest what each of its parts costs on this machine."""
    manifest = load(directory).manifest
    parts = []
    for part in manifest.parts:
        arguments = {"directory": str(directory), "part": part.name}
        (cost,) = caged.run("models.imported.importing:cost", arguments, subject, limits)
        parts.append(msgspec.structs.replace(part, **cost))
    dump(msgspec.structs.replace(manifest, parts=tuple(parts)), directory)


def _check_import(options: argparse.Namespace, out: Path) -> None:
    if out.exists():
        raise UsageError(f"{out}: exists; remove it or give another --out")
    for key in ("nodes", "blocks"):
        if getattr(options, key) < 1:
            raise UsageError(f"--{key} {getattr(options, key)}: give a number above 0")
    file: Path = options.file
    if not file.exists():
        raise ModelError(f"{file}: does not exist; give a .tflite file")
    if not file.is_file():
        raise ModelError(f"{file}: not a regular file; give a .tflite file")
    if not 0 < file.stat().st_size <= caged.MAX_FILE_BYTES:
        raise ModelError(
            f"{file}: {file.stat().st_size} bytes; give a .tflite file of up to "
            f"{caged.MAX_FILE_BYTES} bytes"
        )


def _slug(stem: str) -> str:
    """A name for files and directories out of another file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "model"


def _classes(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        names = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--classes {path}: {error}; give a text file") from error
    return [name for name in names if name]


def _preprocessing(options: argparse.Namespace) -> dict[str, Any] | None:
    if options.divisor is None:
        if options.mean or options.std:
            raise UsageError("--mean, --std: give --divisor with them, such as 255")
        return None
    mean, std = _numbers("--mean", options.mean), _numbers("--std", options.std)
    mean = mean or [0.0] * len(std or [0])
    std = std or [1.0] * len(mean)
    if len(mean) != len(std) or 0 in std or options.divisor == 0:
        raise UsageError("--divisor, --mean, --std: as many means as deviations, none of them 0")
    colour = "RGB" if len(mean) == 3 else "grey"
    return {
        "layout": "NHWC",
        "colour": colour,
        "divisor": options.divisor,
        "mean": mean,
        "std": std,
    }


def _numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return [float(word) for word in text.split(",")] if text is not None else None
    except ValueError as error:
        raise UsageError(f"{option} {text}: give numbers with commas between") from error


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A fresh directory next to ``out``, to be renamed into place when all is well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        directory = scratch / out.name
        directory.mkdir()
        yield directory
    finally:
        shutil.rmtree(scratch)


def _report(bundle: Bundle, facts: dict[str, Any], nodes: int) -> dict[str, Any]:
    """What was found and made, and a placement, as plain data."""
    ids = [bundle.part_ids[name] for name in bundle.block_names]
    parts = bundle.manifest.parts
    names = [f"n{number}" for number in range(1, nodes + 1)]
    costs = {i: parts[i].latency_us for i in ids}
    placement = place(
        ids,
        names,
        dict.fromkeys(names, costs),
        {i: parts[i].memory_bytes for i in ids},
        dict.fromkeys(names, float("inf")),
    )
    assert placement is not None  # memory is no limit here
    return {
        "schema": 1,
        "name": bundle.name,
        "directory": str(bundle.directory),
        "hash": bundle.hash.hex(),
        **facts,
        "blocks": [
            {
                "part": part.name,
                "operators": len(part.operators),
                "bytes": part.bytes,
                "latency_us": part.latency_us,
                "residual": part.name in facts["residual"],
                "outputs": [f"{_shape(t.shape)} {t.dtype}" for t in part.outputs],
                "output_bytes": sum(t.nbytes for t in part.outputs),
            }
            for part in parts
        ],
        "placement": [
            {
                "node": node,
                "blocks": [parts[i].name for i in placed],
                "latency_us": round(sum(costs[i] for i in placed), 1),
                "memory_bytes": sum(parts[i].memory_bytes for i in placed),
            }
            for node, placed in placement.items()
        ],
    }


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _text(report: dict[str, Any]) -> Iterator[str]:
    cuts = ", ".join(f"{n} of {width} tensor(s)" for width, n in sorted(report["cuts"].items()))
    yield f"{report['name']}: {report['operators']} operators; cuts: {cuts or 'none'}"
    yield f"blocks and halves at {report['compared_cuts']} cuts equal the whole model bit for bit"
    yield ""
    yield f"{'block':<10}{'operators':>10}{'bytes':>11}{'latency_us':>12}  output"
    for block in report["blocks"]:
        yield (
            f"{block['part']:<10}{block['operators']:>10}{block['bytes']:>11}"
            f"{block['latency_us']:>12.1f}  {', '.join(block['outputs'])}"
            f"{'  (residual)' if block['residual'] else ''}"
        )
    yield ""
    yield f"{'node':<10}{'latency_us':>12}{'memory_bytes':>14}  blocks"
    for node in report["placement"]:
        yield (
            f"{node['node']:<10}{node['latency_us']:>12.1f}{node['memory_bytes']:>14}"
            f"  {' '.join(node['blocks'])}"
        )
    yield ""
    yield f"wrote {report['directory']}; accuracy is unknown, so it runs whole or repartitioned;"
    yield "give it exits and skips with: continuer model add-exits"
