"""``continuer model add-exits``: its options and its output.

Quick to import: what works on the model is imported when it is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continuer import caged
from continuer.bundle import Bundle, load
from continuer.catalog import find_bundle
from continuer.errors import EXIT_OK, UsageError
from models.imported.import_command import beside

if TYPE_CHECKING:
    # What argparse's add_subparsers returns; it has no public name.
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

EXITS_TEXT = """\
Gives an imported model what it needs to answer when a box is gone and there is no time, or no
room, to move its blocks: exits (a small classifier on a block's activations) and skips (a
residual block is left out; its shortcut runs, corrected where that is more accurate).

DIR holds <class>/<image>, or train/ and test/ of these; images are resized to what the model
takes. Every variant's accuracy is measured on images that had no part in fitting or choosing,
and goes into the manifest with their number. Without train/ and test/, 30 % are for testing.
"""


def add_exits(verbs: Subparsers) -> None:
    """Add the verb ``add-exits`` to ``continuer model``."""
    parser = verbs.add_parser(
        "add-exits",
        help="give an imported bundle exits and skips, from labelled images",
        description=EXITS_TEXT,
        epilog="examples:\n  continuer model add-exits ./mobilenet --data ./images --exits 5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="directory of an imported bundle; it is replaced")
    add("--data", type=Path, required=True, metavar="DIR", help="images in a folder per class")
    add("--exits", type=int, metavar="N", help="how many at most (default: wherever one fits)")
    add("--out", type=Path, metavar="DIR", help="leave BUNDLE as it is and create this one")
    add("--train-images", type=int, default=5000, metavar="N", help="default %(default)s at most")
    add("--test-images", type=int, default=2000, metavar="N", help="default %(default)s at most")
    add("--longest-skip", type=int, default=4, metavar="N", help="default %(default)s blocks")
    add("--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="for measuring")
    add("--seed", type=int, default=0, metavar="N", help="which images are taken for what")
    add("--json", action="store_true", help="one JSON object on standard output")
    caged.add_arguments(parser)
    parser.set_defaults(handler=run_add_exits)


def run_add_exits(options: argparse.Namespace) -> int:
    """Add exits and skips, and print how accurate each variant is."""
    for key in ("exits", "train_images", "test_images", "longest_skip", "processes"):
        value = getattr(options, key)
        if value is not None and value < 1:
            raise UsageError(f"--{key.replace('_', '-')} {value}: give a number above 0")
    if options.out is not None and options.out.exists():
        raise UsageError(f"{options.out}: exists; remove it or give another --out")
    bundle = load(find_bundle(options.bundle))
    out: Path = options.out or bundle.directory
    # Whatever is wrong with its files shows in a child, before they are run in this process.
    arguments = {"directory": str(bundle.directory), "images": None}
    checks = "continuer.model_cli:checks"
    deque(caged.run(checks, arguments, str(bundle.directory), caged.limits_from(options)), maxlen=0)
    from models.imported import adding, labelled

    wanted = labelled.Wanted(
        adding.image_shape(bundle), options.train_images, options.test_images, options.seed
    )
    data = labelled.read(options.data, bundle.manifest.classes, wanted)
    wishes = adding.Wishes(options.exits, options.longest_skip, options.processes)
    with beside(out) as directory:
        adding.Adder(bundle, data, directory, wishes).add()
        if out.exists():
            out.rename(directory.parent / "before")
        directory.rename(out)
    made = load(out)
    sys.stdout.write(json.dumps(exits_report(made)) if options.json else exits_text(made))
    sys.stdout.write("\n")
    return EXIT_OK


def exits_report(bundle: Bundle) -> dict[str, Any]:
    """Every variant with its accuracy and the interval of 95 %, as plain data."""
    measured = bundle.manifest.accuracy
    return {
        "schema": 1,
        "name": bundle.name,
        "directory": str(bundle.directory),
        "hash": bundle.hash.hex(),
        "images": measured.images,
        "form": measured.form,
        "bypasses": {b.part: b.bypass for b in bundle.manifest.blocks if b.skippable},
        "variants": [
            {
                "exit": variant.exit,
                "skipped": variant.skipped,
                "accuracy": round(variant.accuracy, 4),
                "interval_95": [round(bound, 4) for bound in variant.interval_95],
            }
            for variant in measured.variants
        ],
    }


def exits_text(bundle: Bundle) -> str:
    """The same for people."""
    measured = bundle.manifest.accuracy
    lines = [f"{bundle.name}: accuracy on {measured.images} images, {measured.form}", ""]
    for variant in measured.variants:
        skip = " ".join(["skip", *variant.skipped]) if variant.skipped else ""
        low, high = (100 * bound for bound in variant.interval_95)
        lines.append(
            f"{100 * variant.accuracy:6.2f} %  ({low:.2f} to {high:.2f})  "
            f"{variant.exit or skip or 'full'}"
        )
    return "\n".join([*lines, "", f"wrote {bundle.directory}"])
