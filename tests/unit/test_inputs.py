"""Inputs for any model: random ones of every type, and images prepared as it takes them."""

from __future__ import annotations

import numpy as np
import pytest

from continuer.bundle import InputSpec, Preprocessing, TensorSpec
from continuer.client import prepare, preprocess, takes_images
from continuer.load import inputs_for
from continuer.runtime import random_tensors

RULES = Preprocessing("NHWC", "RGB", 255.0, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"],
)
def test_every_type_can_be_drawn(dtype: str) -> None:
    spec = TensorSpec("x", (1, 50, 50), dtype)
    (tensor,) = random_tensors(np.random.default_rng(0), [spec])
    assert (tensor.shape, tensor.dtype.name) == (spec.shape, dtype)
    values = len(np.unique(tensor))
    assert values == 2 if dtype in ("int32", "int64", "bool") else values > 200


def test_random_inputs_suit_the_client() -> None:
    one, two = TensorSpec("a", (1, 3), "uint8"), TensorSpec("b", (2,), "int32")
    inputs, labels = inputs_for(InputSpec((one,)), "random", 0)
    assert [(i.shape, i.dtype.name) for i in inputs] == [((1, 3), "uint8")] * 64
    assert labels == [None] * 64
    inputs, _ = inputs_for(InputSpec((one, two)), "random", 0)
    assert [[t.dtype.name for t in pair] for pair in inputs] == [["uint8", "int32"]] * 64


def test_the_seed_decides_what_is_drawn() -> None:
    spec = InputSpec((TensorSpec("a", (1, 8), "int8"),))
    first, again, other = (inputs_for(spec, "random", seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_floats_are_prepared_by_the_rules() -> None:
    spec = TensorSpec("x", (1, 4, 4, 3))
    assert np.array_equal(prepare(PIXELS, spec, RULES), preprocess(PIXELS, RULES))


@pytest.mark.parametrize(("dtype", "zero"), [("uint8", 128), ("int8", 0)])
def test_quantised_inputs_stand_for_the_same_numbers(dtype: str, zero: int) -> None:
    spec = TensorSpec("x", (1, 4, 4, 3), dtype, 1 / 64, zero)
    prepared = prepare(PIXELS, spec, RULES)
    assert prepared.dtype.name == dtype
    real = (prepared.astype(float) - zero) / 64
    wanted = np.clip(preprocess(PIXELS, RULES), -2, 127 / 64)
    assert np.abs(real - wanted).max() <= 0.5 / 64 + 1e-6


def test_without_rules_pixels_go_in_as_they_are() -> None:
    plain = prepare(PIXELS, TensorSpec("x", (1, 4, 4, 3), "uint8"), None)
    assert np.array_equal(plain, PIXELS)
    shifted = prepare(PIXELS, TensorSpec("x", (1, 4, 4, 3), "int8"), None)
    assert np.array_equal(shifted, PIXELS.astype(int) - 128)


def test_images_suit_a_model_of_their_shape_that_says_how_to_prepare_them() -> None:
    fitting, other = TensorSpec("x", (1, 4, 4, 3)), TensorSpec("x", (1, 8, 8, 3))
    assert takes_images(InputSpec((fitting,), RULES), PIXELS)
    assert not takes_images(InputSpec((fitting,)), PIXELS)
    assert not takes_images(InputSpec((other,), RULES), PIXELS)
    assert not takes_images(InputSpec((fitting, fitting), RULES), PIXELS)
