"""``continuer model train``: train a network with exits, robust to skipped blocks."""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continuer.bundle import Variant
from continuer.errors import EXIT_OK, EXIT_UNHEALTHY, UsageError
from models.networks import NAMES
from models.recipe import Recipe
from models.train_data import read

if TYPE_CHECKING:
    from models.train_loop import Report

    # What argparse's add_subparsers returns; it has no public name.
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

#: Processors that multiply bfloat16 themselves say so by one of these flags.
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
EPILOG = """\
examples:
  continuer model train resnet32 --data ./cifar10 --out ./run --epochs 28

DIR holds train/<class>/*.jpg and test/<class>/*.jpg, or the files of CIFAR-10's binary
format. A tenth of the training images validates, 2,000 of them after each epoch; the test
images are used once, at the end.

With --initial, give the --seed of the run that the weights come from: it decides which
images validate, and they stay unseen.

OUT gets weights.npz, metrics.jsonl (accuracy of every variant, an epoch a line),
statistics.npz (distribution of every array of weights after each epoch), recipe.json,
result.json (accuracy on the test images) and checkpoint.npz. After an interruption, which
may be any signal or a power cut, the same command with --resume goes on.
"""


def add_parser(verbs: Subparsers) -> None:
    """Add the verb ``train``; ``args.handler`` is then a function (args) -> exit code."""
    parser = verbs.add_parser(
        "train",
        help="train a network with exits, robust to skipped blocks",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("name", metavar="NAME", help=f"the network: {' or '.join(NAMES)}")
    add("--data", type=Path, required=True, metavar="DIR", help="labelled images")
    add("--out", type=Path, required=True, metavar="OUT", help="directory for what is written")
    add("--resume", action="store_true", help="go on from the checkpoint in OUT, if there is one")
    add("--epochs", type=int, default=28, metavar="N", help="default %(default)s")
    add(
        "--refine",
        type=int,
        default=0,
        metavar="N",
        help="more epochs for skipped blocks, after EPOCHS; also of a run that has ended",
    )
    add(
        "--initial",
        type=Path,
        metavar="FILE",
        help="weights.npz to begin with, of a run of the same network, width and parts",
    )
    add("--seed", type=int, default=1, metavar="N", help="default %(default)s")
    add("--learning-rate", type=float, default=0.15, metavar="R", help="default %(default)s")
    add("--batch", type=int, default=128, metavar="N", help="images a step; default %(default)s")
    add("--fraction", type=float, default=1.0, metavar="F", help="of the training images to use")
    add("--width", type=float, default=1.0, metavar="F", help="factor for channels, 0.25 to 4")
    add("--plain", action="store_true", help="no exits and no skips: to see what they cost")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default %(default)s")
    add("--cache", type=Path, default=_cache(), metavar="DIR", help="for decoded images")
    parser.set_defaults(handler=run)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "continuer"


def run(args: argparse.Namespace) -> int:
    """Train; 0 when finished, 1 when stopped by a signal. Raises UsageError."""
    _check(args)
    try:
        import torch
    except ImportError as error:
        raise UsageError(
            'training needs PyTorch, which is not installed: pip install "continuer[train]"'
        ) from error
    from models.train_loop import Run, check_out

    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device = cuda: PyTorch finds no GPU; give cpu")
    data = read(args.data, args.cache)
    recipe = Recipe(
        network=args.name,
        form=data.form,
        epochs=args.epochs,
        seed=args.seed,
        learning_rate=args.learning_rate,
        batch=args.batch,
        fraction=args.fraction,
        width=args.width,
        plain=args.plain,
        refine=args.refine,
        initial=_hash(args.initial) if args.initial else "",
        precision="bfloat16" if device == "cuda" or _bfloat16() else "float32",
    )
    check_out(args.out, recipe, resume=args.resume)
    report = _report(recipe.epochs + recipe.refine)
    found = Run(recipe, data, args.out, device, report, args.initial).go()
    if found is None:
        sys.stderr.write(f"stopped; the same command with --resume goes on in {args.out}\n")
        return EXIT_UNHEALTHY
    for line in table(found):
        sys.stdout.write(f"{line}\n")
    return EXIT_OK


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"--initial = {path}: {error.strerror or error}") from error


def _check(args: argparse.Namespace) -> None:
    if args.name not in NAMES:
        raise UsageError(f"unknown network {args.name!r}; there are {', '.join(NAMES)}")
    bounds = {
        "epochs": (1, 10_000),
        "refine": (0, 10_000),
        "seed": (0, 2**32),
        "learning_rate": (1e-9, 10.0),
        "batch": (2, 65_536),
        "fraction": (1e-6, 1.0),
        "width": (0.25, 4.0),
    }
    for name, (least, most) in bounds.items():
        value = getattr(args, name)
        if not least <= value <= most:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} = {value}: give {least:g} to {most:g}")


def _bfloat16() -> bool:
    """Whether the processor computes in bfloat16 itself; elsewhere that is slower."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return any(flag in flags for flag in BFLOAT16_FLAGS)


def table(variants: Sequence[Variant]) -> list[str]:
    """A line per variant: what it is, and the share of right answers."""
    return [
        f"{variant.exit or ' '.join(('skip', *variant.skipped) if variant.skipped else ('full',))}"
        f"  {100 * variant.accuracy:.2f} %"
        for variant in variants
    ]


def _report(epochs: int) -> Report:
    """Progress on standard error: a bar on a terminal, else lines. Stops on SIGTERM, SIGINT."""
    from models.train_loop import Report

    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: signals.append(received))

    def step(epoch: int, done: int, steps: int) -> None:
        if sys.stderr.isatty():
            bar = "#" * (30 * done // steps)
            sys.stderr.write(f"\repoch {epoch + 1} of {epochs} [{bar:30}] {done} of {steps}")
        elif done % max(1, steps // 4) == 0:
            sys.stderr.write(f"epoch {epoch + 1} of {epochs}: step {done} of {steps}\n")
            sys.stderr.flush()

    def epoch(row: dict[str, Any]) -> None:
        shares = {
            (each.get("exit"), tuple(each.get("skipped", ()))): each["correct"] / each["total"]
            for each in row["validation"]
        }
        singles = [share for (_, skipped), share in shares.items() if len(skipped) == 1]
        note(
            f"epoch {row['epoch']} of {epochs}: loss {row['train_loss']:.3f}, "
            f"full {100 * shares[None, ()]:.2f} %, "
            + (f"worst single skip {100 * min(singles):.2f} %, " if singles else "")
            + f"{row['train_seconds']:.0f} s and {row['measure_seconds']:.0f} s to measure"
        )

    def note(text: str) -> None:
        sys.stderr.write(("\r\x1b[K" if sys.stderr.isatty() else "") + text + "\n")
        sys.stderr.flush()

    return Report(step, epoch, lambda: bool(signals), note)
