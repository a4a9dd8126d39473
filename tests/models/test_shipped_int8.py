"""The committed bundles in 8-bit integers: faster than their float twins, and as accurate."""

from __future__ import annotations

import math

import numpy as np
import pytest

from continuer.bundle import Bundle, load
from continuer.client import prepare
from continuer.runtime import PathRunner
from models import catalog

SUFFIX = "-int8"
NAMES = [name for name in catalog.bundle_names() if name.endswith(SUFFIX)]
#: Of the thousand shipped images.
COUNT = 400


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest) -> tuple[Bundle, Bundle]:
    """A bundle of integers, and the one of floats that it stands beside."""
    name = str(request.param)
    names = (name, name.removesuffix(SUFFIX))
    integers, floats = (load(catalog.bundle_directory(each)) for each in names)
    return integers, floats


def test_it_is_whole_and_has_the_same_blocks_exits_and_skips(pair: tuple[Bundle, Bundle]) -> None:
    integers, floats = pair
    integers.verify_files()
    assert integers.block_names == floats.block_names
    blocks = list(zip(integers.manifest.blocks, floats.manifest.blocks, strict=True))
    assert all(a.exit == b.exit and a.skippable == b.skippable for a, b in blocks)
    measured = [{(v.exit, v.skipped) for v in b.manifest.accuracy.variants} for b in pair]
    assert measured[0] == measured[1]


def test_tensors_are_integers_and_every_skip_rescales(pair: tuple[Bundle, Bundle]) -> None:
    integers, _ = pair
    for part in integers.manifest.parts:
        for tensor in (*part.inputs, *part.outputs):
            assert (tensor.dtype, tensor.scale is not None) == ("int8", True)
    for block in integers.manifest.blocks:
        if block.skippable:
            own = integers.parts[block.part]
            left = integers.parts[block.bypass].outputs if block.bypass else own.inputs
            assert [(t.scale, t.zero_point) for t in left] == [
                (t.scale, t.zero_point) for t in own.outputs
            ]


def test_it_is_faster_and_within_a_point(pair: tuple[Bundle, Bundle]) -> None:
    """Why it is shipped. Of skips that many lose much by, only the cheap ones are compared."""
    integers, floats = pair
    times = [sum(b.parts[name].latency_us for name in b.block_names) for b in pair]
    assert times[0] < times[1]
    for variant in floats.manifest.accuracy.variants:
        own = integers.measured_accuracy(integers.path(variant.skipped, variant.exit))
        assert own is not None
        if len(variant.skipped) <= 1:
            assert own > variant.accuracy - 0.01


def test_shipped_images_are_answered_as_the_manifest_says(pair: tuple[Bundle, Bundle]) -> None:
    """Within four standard errors."""
    integers, _ = pair
    pixels, labels, _ = catalog.load_images("cifar10-test-1000")
    taken = integers.manifest.input
    images = prepare(pixels[:COUNT], taken.tensors[0], taken.preprocessing)
    runner, block = PathRunner(integers), integers.block_names[2]
    for path in (integers.path((), None), integers.path((block,), None)):
        answers = np.stack([runner.run(path, [image[None]])[0][0] for image in images])
        expected = integers.measured_accuracy(path)
        assert expected is not None
        right = float(np.mean(answers.argmax(1) == labels[:COUNT]))
        assert abs(right - expected) < 4 * math.sqrt(expected * (1 - expected) / COUNT)
