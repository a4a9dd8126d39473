"""Cutting and converting with Keras. Skipped where Keras is not installed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from continuer.bundle import load
from continuer.errors import EXIT_USAGE, UsageError
from continuer.runtime import LoadedPart
from models import build, catalog, networks, weights
from models.recipe import Recipe
from tests.models.material import NO_KERAS, Arrays, random_weights

keras = pytest.importorskip("keras", reason=NO_KERAS)
pytest.importorskip("tensorflow", reason=NO_KERAS)

if TYPE_CHECKING:
    from models.network import Network


@pytest.fixture(scope="module", params=networks.NAMES)
def network(request: pytest.FixtureRequest) -> Network:
    return networks.define(request.param)


@pytest.fixture(scope="module")
def parts(network: Network) -> dict[str, Any]:
    from models import ops_keras

    return ops_keras.parts(network)


@pytest.fixture(scope="module")
def arrays(network: Network) -> Arrays:
    return random_weights(network, 1)


@pytest.fixture(scope="module")
def runners(
    parts: dict[str, Any], arrays: Arrays, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, LoadedPart]:
    """Every part converted with the random weights and loaded in the runtime."""
    from models.convert import Converted, convert

    weights.assign(parts.values(), arrays)
    directory = tmp_path_factory.mktemp("parts")
    loaded = {}
    for name, part in parts.items():
        content = convert(part)
        (directory / name).write_bytes(content)
        converted = Converted(content)
        loaded[name] = LoadedPart(
            directory / name, converted.inputs("features"), converted.outputs()
        )
    return loaded


def test_chained_parts_equal_the_whole_network(
    network: Network, runners: dict[str, LoadedPart], arrays: Arrays
) -> None:
    """Every exit and the head, on random images."""
    from models import ops_keras

    model = ops_keras.whole(network)
    chain = {name: array for name, array in arrays.items() if not name.startswith("bypass")}
    weights.assign([model], chain)
    images = np.random.default_rng(2).standard_normal((4, 32, 32, 3)).astype(np.float32)
    whole = [np.asarray(logits) for logits in model(images, training=False)]
    for index, image in enumerate(images):
        flow, chained = [image[None]], []
        for block in network.blocks:
            flow = runners[block.part].run(flow)
            if block.exit is not None:
                chained.append(runners[block.exit].run(flow)[0])
        chained.append(flow[0])
        difference = max(np.abs(a[0] - b[index]).max() for a, b in zip(chained, whole, strict=True))
        assert difference < 1e-4
    # Logits that hardly vary would agree for any conversion.
    assert min(logits.std() for logits in whole) > 0.05


@pytest.mark.parametrize("n", [6, 11])
def test_bypass_of_resnet32_is_the_blocks_own_shortcut(n: int) -> None:
    """Against a block whose second convolution is silenced: what is left is the bypass."""
    from models import ops_keras

    network = networks.define("resnet32")
    silent = random_weights(network, 1)
    for variable in ("gamma", "beta"):
        name = f"block{n:02}/conv2/bn/{variable}"
        silent[name] = np.zeros_like(silent[name])
    parts = ops_keras.parts(network)
    weights.assign(parts.values(), silent)
    block, bypass = parts[f"block{n:02}"], parts[f"bypass{n:02}"]
    shape = tuple(block.inputs[0].shape)
    features = np.random.default_rng(3).random(shape).astype(np.float32)
    expected, bypassed = (np.asarray(part(features, training=False)) for part in (block, bypass))
    assert np.abs(bypassed - expected).max() < 1e-5
    assert (bypassed > 0).mean() > 0.1


#: What is left of a part once normalisation and activations are folded in.
FUSED: dict[str, dict[str, tuple[str, ...]]] = {
    "resnet32": {
        "stem": ("CONV_2D",),
        "block06": ("CONV_2D",) * 3 + ("ADD",),
        "bypass06": ("CONV_2D",),
    },
    "mobilenetv2": {
        "stem": ("CONV_2D",),
        "block03": ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "ADD"),
        "block04": ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"),
        "bypass04": ("CONV_2D",),
    },
    "allconv": {"block01": ("CONV_2D",), "block09": ("CONV_2D",)},
}


def test_conversion_is_frozen_and_fused(
    network: Network, parts: dict[str, Any], arrays: Arrays
) -> None:
    """No variable is left in the file; batch normalisation and ReLU are folded."""
    from models.convert import Converted, convert

    weights.assign(parts.values(), arrays)
    for name, operators in FUSED[network.name].items():
        assert Converted(convert(parts[name])).operators() == operators
    assert "FULLY_CONNECTED" in Converted(convert(parts[network.exits[-1]])).operators()
    (spec,) = Converted(convert(parts[network.blocks[0].part])).inputs("image")
    assert (spec.name, spec.shape, spec.dtype) == ("image", (1, 32, 32, 3), "float32")


@pytest.mark.parametrize("fault", ["missing", "shape", "unused"])
def test_foreign_weights_are_refused(parts: dict[str, Any], arrays: Arrays, fault: str) -> None:
    name = next(name for name in arrays if name.endswith("/gamma"))
    foreign = dict(arrays)
    if fault == "missing":
        del foreign[name]
    elif fault == "shape":
        foreign[name] = foreign[name][:-1]
    else:
        name = "block16/conv1/conv/kernel"
        foreign[name] = np.zeros(1, np.float32)
    with pytest.raises(UsageError, match=name):
        weights.assign(parts.values(), foreign)


def build_arguments(name: str, directory: Path, *more: str) -> list[str]:
    return [
        name,
        *("--weights", str(directory / "w.npz")),
        *("--test-images", str(catalog.images_directory() / "cifar10-test-1000.zip")),
        *("--out", str(directory / "out")),
        *more,
    ]


QUICK = (
    *("--limit", "10", "--longest-skip", "1"),
    *("--processes", "1", "--passes", "1", "--version", "7"),
)


INT8 = ("--int8", "--calibration", str(catalog.images_directory() / "cifar10-test-1000.zip"))


def test_build_writes_a_bundle(tmp_path: Path, network: Network, arrays: Arrays) -> None:
    np.savez(tmp_path / "w.npz", **arrays)
    assert build.main(build_arguments(f"{network.name}-cifar10", tmp_path, *QUICK)) == 0
    bundle = load(tmp_path / "out")
    bundle.verify_files()
    assert bundle.manifest.version == "7"
    assert bundle.manifest.recipe is None
    assert bundle.manifest.accuracy.images == 10
    variants = 1 + len(network.exits) + len(network.skippable)
    assert len(bundle.manifest.accuracy.variants) == variants
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "w.npz"]


def test_build_follows_the_recipe_beside_the_weights(tmp_path: Path) -> None:
    """Of a narrower network, without exits and skips; here in 8-bit integers."""
    recipe = Recipe("resnet32", "made up", 2, 3, 0.1, 64, 1.0, 0.5, True, "float32")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.fields()))
    np.savez(tmp_path / "w.npz", **random_weights(networks.define("resnet32", 0.5).plain(), 1))
    assert build.main(build_arguments("resnet32-cifar10", tmp_path, *INT8, *QUICK)) == 0
    bundle = load(tmp_path / "out")
    bundle.verify_files()
    manifest = bundle.manifest
    assert manifest.recipe == recipe.fields()
    assert manifest.name == "resnet32-cifar10-int8"
    assert [part.kind for part in manifest.parts] == ["block"] * 17
    assert manifest.parts[0].outputs[0].shape == (1, 32, 32, 8)
    assert manifest.input.tensors[0].dtype == "int8"
    assert manifest.accuracy.form == "JPEG quality 75, 4:2:0"


def test_build_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = build_arguments("resnet32-cifar10", tmp_path)
    assert build.main(arguments) == EXIT_USAGE
    assert "w.npz" in capsys.readouterr().err
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("kernel.npy", b"nothing")
    assert build.main(arguments) == EXIT_USAGE
    assert "not an .npz of plain arrays" in capsys.readouterr().err
    np.savez(tmp_path / "w.npz", kernel=np.zeros(1, np.float32))
    foreign = Recipe("mobilenetv2", "made up", 2, 3, 0.1, 64, 1.0, 1.0, False, "float32")
    for content, said in (
        ('{"network": "resnet32"}', "recipe.json: not a recipe (Object missing required field"),
        (json.dumps(foreign.fields()), "weights of 'mobilenetv2'; give weights of 'resnet32'"),
    ):
        (tmp_path / "recipe.json").write_text(content)
        assert build.main(arguments) == EXIT_USAGE
        assert said in capsys.readouterr().err
    for one in (INT8[:1], INT8[1:]):
        assert build.main([*arguments, *one]) == EXIT_USAGE
        assert "--int8, --calibration TRAINING: give both" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    assert build.main(arguments) == EXIT_USAGE
    assert "exists; remove it" in capsys.readouterr().err
