"""The committed MobileNetV2: complete, with its recipe, and as accurate as its manifest says."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from continuer.bundle import Bundle, load
from continuer.runtime import PathRunner
from models import catalog, images

BLOCKS = [f"block{n:02}" for n in range(1, 18)]
EXITS = [f"exit{n:02}" for n in (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)]
#: Blocks whose input and output differ in shape: what stands in for them was trained.
PROJECTED = [f"block{n:02}" for n in (1, 2, 4, 7, 11, 14, 17)]
LONGEST_SKIP = 4
#: Of the thousand shipped images: a path of this network takes a millisecond or two.
COUNT = 400


@pytest.fixture(scope="module")
def mobilenet() -> Bundle:
    return load(catalog.bundle_directory("mobilenetv2-cifar10"))


def test_it_is_whole_and_says_how_it_was_trained(mobilenet: Bundle) -> None:
    mobilenet.verify_files()
    assert mobilenet.block_names == ("stem", *BLOCKS, "head")
    blocks = mobilenet.manifest.blocks
    assert [block.part for block in blocks if block.skippable] == BLOCKS
    assert [block.part for block in blocks if block.bypass] == PROJECTED
    assert [block.exit for block in blocks if block.exit] == EXITS
    assert mobilenet.manifest.recipe is not None
    assert mobilenet.manifest.recipe["network"] == "mobilenetv2"


def test_every_exit_and_run_of_skipped_blocks_is_measured(mobilenet: Bundle) -> None:
    runs = {
        tuple(BLOCKS[start : start + length])
        for length in range(1, LONGEST_SKIP + 1)
        for start in range(len(BLOCKS) - length + 1)
    }
    variants = mobilenet.manifest.accuracy.variants
    wanted = {(None, ()), *((name, ()) for name in EXITS), *((None, run) for run in runs)}
    assert {(v.exit, v.skipped) for v in variants} == wanted
    assert {v.total for v in variants} == {10_000}


@pytest.mark.parametrize(
    ("exit_name", "skipped"),
    [
        (None, ()),
        ("exit02", ()),
        ("exit15", ()),
        (None, ("block03",)),
        (None, ("block04",)),
        (None, ("block08", "block09", "block10")),
    ],
)
def test_accuracy_on_the_shipped_images(
    mobilenet: Bundle,
    prepared: tuple[npt.NDArray[np.float32], images.Labels],
    exit_name: str | None,
    skipped: tuple[str, ...],
) -> None:
    """Within four standard errors of what the manifest says of all 10,000 images."""
    inputs, labels = prepared[0][:COUNT], prepared[1][:COUNT]
    path = mobilenet.path(skipped, exit_name)
    runner = PathRunner(mobilenet)
    logits = np.stack([runner.run(path, [image[None]])[0][0] for image in inputs])
    measured = float(np.mean(logits.argmax(1) == labels))
    expected = mobilenet.measured_accuracy(path)
    assert expected is not None
    assert abs(measured - expected) < 4 * math.sqrt(expected * (1 - expected) / len(labels))
