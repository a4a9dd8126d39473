"""The networks, in numbers of shape and, where both are installed, in Torch and Keras."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from models.mobilenetv2 import EXITS
from models.networks import NAMES, define
from models.ops_shape import initial_weights, input_shapes
from tests.models.material import NO_KERAS, NO_TORCH, random_weights


def test_resnet32_is_fifteen_blocks_with_fourteen_exits() -> None:
    network = define("resnet32")
    weights, shapes = initial_weights(network, 0), input_shapes(network)
    assert network.skippable == tuple(f"block{n:02}" for n in range(1, 16))
    assert network.exits == tuple(f"exit{n:02}" for n in range(1, 15))
    assert sum(name.endswith("/kernel") for name in weights) == 1 + 30 + 2 + 3 * 14 + 1
    assert weights["block06/shortcut/conv/kernel"].shape == (1, 1, 16, 32)
    assert (shapes["block06"], shapes["block11"]) == ((32, 32, 16), (16, 16, 32))
    assert shapes["head"] == (8, 8, 64)
    # 0.46 million: He et al., table 6.
    plain = initial_weights(network.plain(), 0)
    assert 460_000 < sum(array.size for array in plain.values()) < 480_000


def test_mobilenetv2_is_seventeen_blocks_with_the_papers_exits() -> None:
    network = define("mobilenetv2")
    weights, shapes = initial_weights(network, 0), input_shapes(network)
    assert network.skippable == tuple(f"block{n:02}" for n in range(1, 18))
    assert network.exits == tuple(f"exit{n:02}" for n in (2, 4, 5, 7, 8, 9, 11, 12, 14, 15))
    assert tuple(EXITS) == (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)
    assert [b.part for b in network.blocks if b.bypass] == [
        f"block{n:02}" for n in (1, 2, 4, 7, 11, 14, 17)
    ]
    assert weights["block02/expand/conv/kernel"].shape == (1, 1, 16, 96)
    assert weights["block17/project/conv/kernel"].shape == (1, 1, 960, 320)
    assert weights["head/conv/kernel"].shape == (1, 1, 320, 1280)
    assert weights["exit04/conv1/kernel"].shape == (3, 3, 32, 160)
    assert weights["exit04/conv2/kernel"].shape == (3, 3, 160, 80)
    assert weights["exit07/conv1/kernel"].shape == (3, 3, 64, 320)
    assert shapes["head"] == (4, 4, 320)


def test_allconv_is_a_plain_chain_with_exits() -> None:
    network = define("allconv")
    shapes = input_shapes(network)
    assert not network.skippable
    assert network.exits == tuple(f"exit{n:02}" for n in (2, 4, 5, 7, 8))
    assert shapes["head"] == (4, 4, 128)


WIDENED = {
    "resnet32": ("stem/conv/kernel", "block09/conv2/conv/kernel"),
    "mobilenetv2": ("stem/conv/kernel", "block09/project/conv/kernel"),
    "allconv": ("block01/conv/kernel", "block09/conv/kernel"),
}


@pytest.mark.parametrize("name", NAMES)
def test_width_multiplies_channels(name: str) -> None:
    normal, half = (initial_weights(define(name, width), 0) for width in (1.0, 0.5))
    assert list(normal) == list(half)
    for kernel in WIDENED[name]:
        assert half[kernel].shape[3] * 2 == normal[kernel].shape[3]


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_depend_on_the_seed_alone(name: str) -> None:
    network = define(name)
    first, again, other = (initial_weights(network, seed) for seed in (1, 1, 2))
    kernels = [key for key in first if key.endswith("/kernel")]
    assert all((first[key] == again[key]).all() for key in first)
    assert all((first[key] != other[key]).any() for key in kernels)


SKIPS: tuple[tuple[str, ...], ...] = ((), ("block06",), ("block07", "block08", "block09"))


@pytest.mark.parametrize(
    ("name", "skipped"),
    [(name, run) for name in NAMES for run in SKIPS if set(run) <= set(define(name).skippable)],
)
def test_torch_and_keras_give_the_same_logits(name: str, skipped: Sequence[str]) -> None:
    """Full and every exit; and with a strided, widening or identical block left out."""
    keras = pytest.importorskip("keras", reason=NO_KERAS)
    pytest.importorskip("tensorflow", reason=NO_KERAS)
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    from models import weights as files
    from models.ops_keras import KerasOps
    from models.ops_torch import TorchOps, image_batch

    network = define(name)
    exits = [b.exit for b in network.blocks if b.exit is not None and b.part not in skipped]
    arrays = random_weights(network, 1)
    images = np.random.default_rng(2).standard_normal((4, 32, 32, 3)).astype(np.float32)

    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    with torch.no_grad():
        batch = image_batch(torch.from_numpy(images))
        final, found = network.run(TorchOps(tensors), batch, skipped, exits)
    ours = {**found, "head": final}

    image = keras.Input((32, 32, 3))
    final, found = network.run(KerasOps(), image, skipped, exits)
    model = keras.Model(image, {**found, "head": final})
    used = {f"{layer.name.replace('.', '/')}/" for layer in model.layers if layer.weights}
    kept = {k: v for k, v in arrays.items() if f"{k.rpartition('/')[0]}/" in used}
    files.assign([model], kept)
    theirs = model(images, training=False)

    assert set(ours) == {*exits, "head"}
    for key, logits in ours.items():
        assert np.abs(logits.numpy() - np.asarray(theirs[key])).max() < 1e-4, key
        # Logits that hardly vary would agree whatever the network.
        assert logits.std() > 0.05, key
