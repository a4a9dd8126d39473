"""``python -m models.build``: cut a network, convert its parts, measure, write a bundle."""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from continuer import bundle
from continuer.client import prepare, preprocess
from continuer.errors import EXIT_OK, ContinuerError, UsageError
from models import accuracy, images, measure, networks, weights
from models.network import PREPROCESSING, Network
from models.recipe import Recipe, load_recipe

EPILOG = """\
WEIGHTS is an .npz file with one array per variable, named like
block06/shortcut/bn/gamma, as `continuer model train` writes it; the recipe.json that lies
beside it goes into the manifest. IMAGES is a directory or .zip of <class>/<name>.jpg, of
CIFAR-10's test set; their form (JPEG quality, chroma) is read from them and goes in too.

--int8 makes a bundle that computes in 8-bit integers: the first 500 images of the TRAINING
set that --calibration names give the range of every tensor. What is skipped is rescaled.

Accuracy is measured with the converted parts for the full network, for every exit with
nothing skipped, and for every run of up to --longest-skip consecutive blocks left out.
10,000 images take about twelve minutes of one core. The bundle appears under OUT only when
it is complete. Needs TensorFlow and Linux.
"""
CALIBRATION_IMAGES = 500
#: Bundles that can be built, and the networks that they hold.
BUNDLES = {f"{name}-cifar10": name for name in networks.NAMES}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        _build(options)
    except ContinuerError as error:
        sys.stderr.write(f"models.build: {error}\n")
        return error.exit_code
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.build",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("name", choices=list(BUNDLES), help="the bundle to build")
    add("--weights", type=Path, required=True, metavar="WEIGHTS", help="trained weights, .npz")
    add("--test-images", type=Path, required=True, metavar="IMAGES", help="labelled images")
    add("--out", type=Path, required=True, metavar="OUT", help="directory to create")
    add("--int8", action="store_true", help="compute in 8-bit integers; name ends in -int8")
    add("--calibration", type=Path, metavar="TRAINING", help="training images, for --int8")
    add("--version", default="1.0.0", help="version of the bundle (default %(default)s)")
    add("--limit", type=_positive, metavar="N", help="measure accuracy on N images only")
    add("--longest-skip", type=_positive, default=8, metavar="N", help="default %(default)s blocks")
    add("--passes", type=_positive, default=3, metavar="N", help="for cost; default %(default)s")
    add(
        "--processes", type=_positive, default=os.cpu_count() or 1, metavar="N", help="for accuracy"
    )
    return parser


def _positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: give a number above 0")
    return value


def _build(options: argparse.Namespace) -> None:
    out: Path = options.out
    if out.exists():
        raise UsageError(f"{out}: exists; remove it or give another --out")
    if options.int8 != (options.calibration is not None):
        raise UsageError("--int8, --calibration TRAINING: give both, or neither")
    pixels, labels, _ = images.read(options.test_images, options.limit)
    trained = weights.load(options.weights)
    recipe = load_recipe(options.weights.parent)
    if recipe is not None and recipe.network != BUNDLES[options.name]:
        raise UsageError(
            f"{options.weights}: weights of {recipe.network!r}; give weights of "
            f"{BUNDLES[options.name]!r}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside its destination, so that the finished directory can be renamed into place.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        directory = Path(scratch) / out.name
        directory.mkdir()
        built = bundle.dump(_manifest(options, directory, trained, recipe), directory)
        measured = accuracy.measure(
            built,
            prepare(pixels, built.manifest.input.tensors[0], PREPROCESSING),
            labels,
            options.longest_skip,
            options.processes,
        )
        figures = msgspec.structs.replace(
            built.manifest.accuracy, images=len(labels), variants=measured
        )
        bundle.dump(msgspec.structs.replace(built.manifest, accuracy=figures), directory)
        directory.rename(out)
    sys.stderr.write(f"{out}: {len(built.parts)} parts, {len(measured)} variants\n")


def _manifest(
    options: argparse.Namespace,
    directory: Path,
    trained: weights.Weights,
    recipe: Recipe | None,
) -> bundle.Manifest:
    """Convert and measure all parts; the manifest's accuracy is still empty."""
    # Imported here: TensorFlow takes seconds, and --help and bad arguments should not.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from models import ops_keras

    logging.getLogger("absl").setLevel(logging.ERROR)
    network = recipe.define() if recipe else networks.define(BUNDLES[options.name])
    models = ops_keras.parts(network)
    weights.assign(models.values(), trained)
    network, contents = _contents(network, models, options.calibration)
    unmeasured = [_part(name, content, directory) for name, content in contents.items()]
    files = [(directory / part.file, part.inputs, part.outputs) for part in unmeasured]
    costs = measure.measure(files, options.passes)
    parts = tuple(
        msgspec.structs.replace(part, **asdict(cost))
        for part, cost in zip(unmeasured, costs, strict=True)
    )
    return bundle.Manifest(
        schema=bundle.SCHEMA,
        name=f"{options.name}-int8" if options.int8 else options.name,
        version=options.version,
        description=network.description + ("; 8-bit integers" if options.int8 else ""),
        licence="Apache-2.0 (weights trained by the project)",
        input=bundle.InputSpec(parts[0].inputs, PREPROCESSING),
        classes=images.CLASSES,
        blocks=network.blocks,
        parts=parts,
        accuracy=bundle.Accuracy("CIFAR-10 test set", images.form(options.test_images), 0, ()),
        recipe=recipe.fields() if recipe else None,
    )


def _contents(
    network: Network, models: Mapping[str, Any], calibration: Path | None
) -> tuple[Network, dict[str, bytes]]:
    """The parts' files by name, and the network with the bypasses that these have."""
    from models import convert, quantised

    if calibration is None:
        return network, {name: convert.convert(model) for name, model in models.items()}
    pixels, _, _ = images.read(calibration, CALIBRATION_IMAGES)
    return quantised.convert(network, models, preprocess(pixels, PREPROCESSING))


def _part(name: str, content: bytes, directory: Path) -> bundle.Part:
    """Write a part's file; what it costs is still 0."""
    from models.convert import Converted

    converted = Converted(content)
    path = directory / f"{name}.tflite"
    path.write_bytes(content)
    sys.stderr.write(f"{name}: {len(content)} bytes\n")
    return bundle.Part(
        name=name,
        kind=_kind(name),
        file=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        memory_bytes=0,
        latency_us=0.0,
        load_us=0.0,
        operators=converted.operators(),
        inputs=converted.inputs("image" if name == "stem" else "features"),
        outputs=converted.outputs(),
    )


def _kind(name: str) -> bundle.PartKind:
    if name.startswith("exit"):
        return "exit"
    return "bypass" if name.startswith("bypass") else "block"


if __name__ == "__main__":
    sys.exit(main())
