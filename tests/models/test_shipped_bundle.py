"""The committed bundle: complete, unaltered, and as accurate as its manifest says."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from continuer.bundle import Bundle
from continuer.client import preprocess
from continuer.runtime import PathRunner
from models import images

BLOCKS = [f"block{n:02}" for n in range(1, 16)]
EXITS = [f"exit{n:02}" for n in range(1, 15)]


def test_files_are_those_of_the_manifest(shipped: Bundle) -> None:
    shipped.verify_files()
    on_disk = {path.name for path in shipped.directory.glob("*.tflite")}
    assert on_disk == {part.file for part in shipped.manifest.parts}


def test_blocks_exits_and_bypasses(shipped: Bundle) -> None:
    blocks = shipped.manifest.blocks
    assert shipped.block_names == ("stem", *BLOCKS, "head")
    assert [block.part for block in blocks if block.skippable] == BLOCKS
    assert {b.part: b.bypass for b in blocks if b.bypass} == {
        "block06": "bypass06",
        "block11": "bypass11",
    }
    assert [block.exit for block in blocks if block.exit] == EXITS
    assert set(shipped.part_names) == {*shipped.block_names, *EXITS, "bypass06", "bypass11"}


def test_input_is_described(shipped: Bundle) -> None:
    (tensor,) = shipped.manifest.input.tensors
    assert (tensor.name, tensor.shape, tensor.dtype) == ("image", (1, 32, 32, 3), "float32")
    preprocessing = shipped.manifest.input.preprocessing
    assert preprocessing is not None
    black = preprocess(np.zeros((1, 32, 32, 3), np.uint8), preprocessing)
    assert black.dtype == np.float32
    assert black[0, 0, 0] == pytest.approx([-0.4914 / 0.247, -0.4822 / 0.243, -0.4465 / 0.262])


def test_operators_are_the_networks_own(shipped: Bundle) -> None:
    for part in shipped.manifest.parts:
        assert part.operators, part.name
        assert not [name for name in part.operators if "DELEGATE" in name.upper()], part.name
    assert shipped.parts["block02"].operators == ("CONV_2D", "CONV_2D", "ADD")


def test_costs_were_measured(shipped: Bundle) -> None:
    for part in shipped.manifest.parts:
        assert part.latency_us > 0, part.name
        assert part.load_us > 0, part.name
        assert part.memory_bytes > 0, part.name


def test_accuracy_of_every_variant_is_measured(shipped: Bundle) -> None:
    """Full, fourteen exits, and all 92 runs of one to eight skipped blocks."""
    runs = [
        tuple(BLOCKS[start : start + length])
        for length in range(1, 9)
        for start in range(len(BLOCKS) - length + 1)
    ]
    measured = {(v.exit, v.skipped) for v in shipped.manifest.accuracy.variants}
    assert measured == {
        (None, ()),
        *((name, ()) for name in EXITS),
        *((None, run) for run in runs),
    }
    assert {v.total for v in shipped.manifest.accuracy.variants} == {10_000}
    assert shipped.manifest.accuracy.images == 10_000


@pytest.mark.parametrize(
    ("exit_name", "skipped"),
    [
        (None, ()),
        ("exit01", ()),
        ("exit07", ()),
        ("exit14", ()),
        (None, ("block01",)),
        (None, ("block06",)),
        (None, ("block07", "block08", "block09")),
        (None, ("block10", "block11", "block12")),
        (None, tuple(BLOCKS[4:12])),
    ],
)
def test_accuracy_on_the_shipped_images(
    shipped: Bundle,
    prepared: tuple[npt.NDArray[np.float32], images.Labels],
    exit_name: str | None,
    skipped: tuple[str, ...],
) -> None:
    """Within four standard errors of what the manifest says of all 10,000 images."""
    inputs, labels = prepared
    path = shipped.path(skipped, exit_name)
    runner = PathRunner(shipped)
    logits = np.stack([runner.run(path, [image[None]])[0][0] for image in inputs])
    measured = float(np.mean(logits.argmax(1) == labels))
    expected = shipped.measured_accuracy(path)
    assert expected is not None
    assert abs(measured - expected) < 4 * math.sqrt(expected * (1 - expected) / len(labels))
