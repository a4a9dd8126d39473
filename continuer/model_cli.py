"""``continuer model``: look at a bundle, and check that this machine can run it."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from continuer import caged, signing_cli
from continuer.bundle import Bundle, Part, TensorSpec, Variant, load
from continuer.catalog import find_bundle, find_images
from continuer.cli_help import add_verb
from continuer.client import prepare, takes_images
from continuer.errors import EXIT_OK, BundleError, UsageError
from continuer.runtime import PathRunner, random_tensors

if TYPE_CHECKING:
    import numpy.typing as npt

    # What argparse's add_subparsers returns; it has no public name.
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

BUNDLE_HELP = "name of an installed bundle, or its directory"
#: How far an accuracy may be from the manifest's; chance goes further once in 16,000.
STANDARD_ERRORS = 4
#: Right-aligned columns: the ones that hold numbers.
NUMERIC = ("operators", "bytes", "memory_bytes", "latency_us", "load_us", "correct", "percent")


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb ``model``; ``args.handler`` is then a function (args) -> exit code."""
    parser = subparsers.add_parser("model", help="inspect and verify bundles")
    verbs = parser.add_subparsers(dest="verb", required=True)
    inspect = add_verb(
        verbs,
        "inspect",
        "show what a bundle holds",
        "continuer model inspect resnet32-cifar10\ncontinuer model inspect ./mine --json",
    )
    inspect.add_argument("bundle", metavar="BUNDLE", help=BUNDLE_HELP)
    inspect.add_argument("--json", action="store_true", help="print one JSON object")
    inspect.set_defaults(handler=run_inspect)
    verify = add_verb(
        verbs,
        "verify",
        "check a bundle's files and run every path once",
        "continuer model verify resnet32-cifar10 --images cifar10-test-1000",
        "Check every file's SHA-256, load every part into the runtime, and run "
        "the full path, each exit and each measured skip on random input, in a child process. "
        "Exit code 78 and a message that names the file when something is wrong; 1 where the "
        "runtime refuses a file whose SHA-256 is right, crashes or hangs.",
    )
    verify.add_argument("bundle", metavar="BUNDLE", help=BUNDLE_HELP)
    verify.add_argument(
        "--images",
        metavar="NAME",
        help="also run a shipped set of labelled images through the full path and every exit, "
        "and compare the accuracies with the manifest's",
    )
    caged.add_arguments(verify)
    verify.set_defaults(handler=run_verify)
    signing_cli.add_parsers(verbs)
    # Verbs of other packages: functions (verbs) -> None, in modules that are quick to import.
    for entry in entry_points(group="continuer.model_commands"):
        entry.load()(verbs)


def run_inspect(args: argparse.Namespace) -> int:
    """Print a bundle's manifest as tables, or as one JSON object with ``--json``.

    Raises BundleError for a bad manifest; files are not read (``verify`` does that).
    """
    bundle = load(find_bundle(args.bundle))
    text = json.dumps(_as_json(bundle)) if args.json else "\n".join(_as_text(bundle))
    sys.stdout.write(f"{text}\n")
    return EXIT_OK


def run_verify(args: argparse.Namespace) -> int:
    """Check a bundle, one line per check, then ``ok``. Raises BundleError on a defect.

    The parts run in a child process: one that crashes or hangs is a ModelError here.
    """
    directory = str(find_bundle(args.bundle))
    arguments = {"directory": directory, "images": args.images}
    limits = caged.limits_from(args)
    for line in caged.run("continuer.model_cli:checks", arguments, directory, limits):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    sys.stdout.write("ok\n")
    return EXIT_OK


def checks(directory: str, images: str | None) -> Iterator[str]:
    """All checks that were asked for; yields a line per check passed."""
    bundle = load(directory)
    yield from verify(bundle)
    if images is not None:
        yield from verify_accuracy(bundle, images)


def verify(bundle: Bundle) -> Iterator[str]:
    """Check files, parts and paths of the bundle; yields a line per check passed.

    Raises BundleError naming the file or path at the first defect.
    """
    for part in bundle.manifest.parts:
        bundle.verify_file(part.name)
        yield f"file {part.file}: {part.bytes} bytes, SHA-256 {part.sha256[:16]}..."
    runner = PathRunner(bundle)
    for part in bundle.manifest.parts:
        caged.doing(f"loading {part.file}")
        loaded = runner.part(part.name)
        yield f"part {part.name}: loads, {loaded.latency_us:.1f} us"
    generator = np.random.default_rng(0)
    inputs = random_tensors(generator, bundle.manifest.input.tensors)
    for exit_name, skipped in _variants(bundle):
        _check_path(bundle, runner, bundle.path(skipped, exit_name), inputs)
        yield f"path {_variant_name(exit_name, skipped)}: runs, outputs finite"


def verify_accuracy(bundle: Bundle, images: str) -> Iterator[str]:
    """Run the shipped set of labelled images; yields a line per exit, then the full path.

    Raises UsageError when there is no such set or it does not suit the model, BundleError
    when an accuracy is further from the manifest's than sampling explains.
    """
    pixels, labels = find_images(images)
    taken = bundle.manifest.input
    if not takes_images(taken, pixels):
        raise UsageError(
            f"images = {images!r}: the model takes {taken.tensors[0].shape}; leave it out"
        )
    inputs = prepare(pixels, taken.tensors[0], taken.preprocessing)
    right = _right_answers(bundle, inputs, labels)
    for exit_name, correct in right.items():
        name, share = _variant_name(exit_name, ()), correct / len(labels)
        expected = bundle.measured_accuracy(bundle.path((), exit_name))
        if expected is None:
            yield f"accuracy {name}: {100 * share:.2f} %, none in the manifest"
            continue
        allowed = STANDARD_ERRORS * math.sqrt(expected * (1 - expected) / len(labels))
        figures = (
            f"accuracy {name}: {100 * share:.2f} % of {len(labels)} images, "
            f"manifest {100 * expected:.2f} %"
        )
        if abs(share - expected) > allowed:
            raise BundleError(
                f"{bundle.directory}: {figures}; this machine's runtime or the manifest is "
                "wrong: update the runtime, or build the bundle again"
            )
        yield figures


def _right_answers(
    bundle: Bundle, inputs: npt.NDArray[Any], labels: npt.NDArray[Any]
) -> dict[str | None, int]:
    """Right answers per exit, None for the full path; each block runs once per image."""
    runner = PathRunner(bundle)
    right: Counter[str | None] = Counter()
    for number, (image, label) in enumerate(zip(inputs, labels, strict=True)):
        caged.doing(f"running image {number}")
        flow = [image[np.newaxis]]
        for block in bundle.manifest.blocks:
            flow = runner.part(block.part).run(flow)
            if block.exit is not None:
                (logits, *_) = runner.part(block.exit).run(flow)
                right[block.exit] += int(logits.argmax() == label)
        right[None] += int(flow[0].argmax() == label)
    return dict(right)


def _variants(bundle: Bundle) -> list[tuple[str | None, tuple[str, ...]]]:
    """The full path, every exit, every single skip, and all that the manifest measured."""
    blocks = bundle.manifest.blocks
    wanted: list[tuple[str | None, tuple[str, ...]]] = [(None, ())]
    wanted += [(block.exit, ()) for block in blocks if block.exit is not None]
    wanted += [(None, (block.part,)) for block in blocks if block.skippable]
    wanted += [(v.exit, v.skipped) for v in bundle.manifest.accuracy.variants]
    return list(dict.fromkeys(wanted))


def _check_path(
    bundle: Bundle,
    runner: PathRunner,
    path: Sequence[str],
    inputs: Sequence[npt.NDArray[Any]],
) -> None:
    """Run the path part by part; every output must have its shape and be finite."""
    flow = list(inputs)
    for name in path:
        caged.doing(f"running {bundle.parts[name].file} on path {' '.join(path)}")
        flow = runner.part(name).run(flow)
        specs = bundle.parts[name].outputs
        if [tensor.shape for tensor in flow] != [spec.shape for spec in specs]:
            raise BundleError(
                f"{bundle.file_of(name)}: gives shapes {[tensor.shape for tensor in flow]}, the "
                f"manifest says {[spec.shape for spec in specs]}; build the bundle again"
            )
        if not all(np.isfinite(tensor).all() for tensor in flow):
            raise BundleError(
                f"{bundle.file_of(name)}: an output is not finite on path {' '.join(path)}; "
                "build the bundle again"
            )


def _as_json(bundle: Bundle) -> dict[str, Any]:
    """The manifest, with the bundle's hash, its directory and accuracies as fractions."""
    manifest = bundle.manifest
    described: dict[str, Any] = msgspec.to_builtins(manifest)
    described["hash"] = bundle.hash.hex()
    described["directory"] = str(bundle.directory)
    described["accuracy"]["variants"] = [
        {
            "exit": variant.exit,
            "skipped": variant.skipped,
            "correct": variant.correct,
            "total": variant.total,
            "accuracy": variant.accuracy,
            "interval_95": variant.interval_95,
        }
        for variant in manifest.accuracy.variants
    ]
    return described


def _as_text(bundle: Bundle) -> Iterator[str]:
    manifest = bundle.manifest
    yield f"{manifest.name} {manifest.version}"
    yield f"  {manifest.description}"
    yield f"  licence    {manifest.licence}"
    yield f"  hash       {bundle.hash.hex()}"
    yield f"  directory  {bundle.directory}"
    for spec in manifest.input.tensors:
        yield f"  input      {spec.name} {_shape(spec)}"
    if manifest.input.preprocessing is not None:
        how = manifest.input.preprocessing
        yield f"  prepared   {how.layout} {how.colour}, (x / {how.divisor:g} - mean) / std"
        yield f"             mean {_numbers(how.mean)}, std {_numbers(how.std)}"
    yield f"  classes    {', '.join(manifest.classes)}"
    size = sum(part.bytes for part in manifest.parts)
    yield f"  size       {len(manifest.parts)} parts, {size} bytes"
    yield ""
    yield from _table([_part_row(bundle, part) for part in manifest.parts])
    yield ""
    measured = manifest.accuracy
    if not measured.variants:
        yield "accuracy unknown: not measured"
        return
    yield f"accuracy on {measured.images} images of {measured.data}, {measured.form}"
    yield from _table([_variant_row(variant) for variant in measured.variants])


def _part_row(bundle: Bundle, part: Part) -> dict[str, str]:
    block = next((b for b in bundle.manifest.blocks if b.part == part.name), None)
    return {
        "part": part.name,
        "kind": part.kind,
        "if skipped": (block.bypass or "nothing") if block and block.skippable else "-",
        "exit": (block.exit if block else None) or "-",
        "output": ", ".join(_shape(spec) for spec in part.outputs),
        "operators": str(len(part.operators)),
        "bytes": str(part.bytes),
        "memory_bytes": str(part.memory_bytes),
        "latency_us": f"{part.latency_us:.1f}",
        "load_us": f"{part.load_us:.0f}",
    }


def _variant_row(variant: Variant) -> dict[str, str]:
    return {
        "variant": _variant_name(variant.exit, variant.skipped),
        "correct": f"{variant.correct} of {variant.total}",
        "percent": f"{100 * variant.accuracy:.2f}",
        "95 %": "{:.2f} to {:.2f}".format(*(100 * bound for bound in variant.interval_95)),
    }


def _variant_name(exit_name: str | None, skipped: Sequence[str]) -> str:
    """``full``, ``exit03``, ``skip block02 block03``, or an exit with skips."""
    words = [exit_name] if exit_name else []
    words += ["skip", *skipped] if skipped else []
    return " ".join(words) or "full"


def _shape(spec: TensorSpec) -> str:
    return f"{'x'.join(str(side) for side in spec.shape)} {spec.dtype}"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _table(rows: Sequence[dict[str, str]]) -> Iterator[str]:
    """The rows as aligned text under a line of headings; nothing for no rows."""
    if not rows:
        return
    headings = {column: column for column in rows[0]}
    widths = {c: max(len(row[c]) for row in (headings, *rows)) for c in headings}
    for row in (headings, *rows):
        cells = (
            row[c].rjust(widths[c]) if c in NUMERIC else row[c].ljust(widths[c]) for c in headings
        )
        yield "  ".join(cells).rstrip()
