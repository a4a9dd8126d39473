"""Cutting and converting with Keras. Skipped where Keras is not installed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from continuer.bundle import load
from continuer.errors import EXIT_USAGE, UsageError
from continuer.runtime import LoadedPart
from models import build, catalog, weights

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")

if TYPE_CHECKING:
    # Any: savez takes arrays and one flag by keyword.
    Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    from models import resnet32

    return resnet32.parts()


@pytest.fixture(scope="module")
def arrays(parts: dict[str, Any]) -> Arrays:
    """Random weights in the layout of the .npz, of magnitudes that keep logits small."""
    generator = np.random.default_rng(1)
    found: Arrays = {}
    for part in parts.values():
        for layer in part.layers:
            for variable in layer.weights:
                name = f"{layer.name.replace('.', '/')}/{variable.name}"
                shape = tuple(variable.shape)
                if variable.name == "moving_variance":
                    value = generator.uniform(0.5, 1.5, shape)
                elif variable.name == "gamma":
                    value = generator.uniform(0.3, 0.7, shape)
                else:
                    fan_in = max(int(np.prod(shape[:-1])), 10)
                    value = generator.standard_normal(shape) / np.sqrt(fan_in)
                found[name] = value.astype(np.float32)
    return found


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
            directory / name, converted.inputs("features"), converted.outputs("features")
        )
    return loaded


def test_chained_parts_equal_the_whole_network(
    runners: dict[str, LoadedPart], arrays: Arrays
) -> None:
    """Every exit and the head, on random images."""
    from models import resnet32

    network = resnet32.network()
    weights.assign([network], arrays)
    images = np.random.default_rng(2).standard_normal((4, 32, 32, 3)).astype(np.float32)
    whole = [np.asarray(logits) for logits in network(images, training=False)]
    for index, image in enumerate(images):
        flow = runners["stem"].run([image[None]])
        chained = []
        for n in range(1, 16):
            flow = runners[f"block{n:02}"].run(flow)
            if n < 15:
                chained.append(runners[f"exit{n:02}"].run(flow)[0])
        chained.append(runners["head"].run(flow)[0])
        difference = max(np.abs(a[0] - b[index]).max() for a, b in zip(chained, whole, strict=True))
        assert difference < 1e-4
    # Logits that hardly vary would agree for any conversion.
    assert min(logits.std() for logits in whole) > 0.05


@pytest.mark.parametrize("n", [6, 11])
def test_bypass_is_the_blocks_own_shortcut(
    runners: dict[str, LoadedPart], arrays: Arrays, n: int
) -> None:
    """Against a block whose second convolution is silenced: what is left is the bypass."""
    from models import resnet32

    silent = dict(arrays)
    for variable in ("gamma", "beta"):
        name = f"block{n:02}/conv2/bn/{variable}"
        silent[name] = np.zeros_like(silent[name])
    block = resnet32.parts()[f"block{n:02}"]
    prefix = f"block{n:02}/"
    weights.assign([block], {k: v for k, v in silent.items() if k.startswith(prefix)})
    shape = tuple(block.inputs[0].shape)
    features = np.random.default_rng(3).random(shape).astype(np.float32)
    expected = np.asarray(block(features, training=False))
    (bypassed,) = runners[f"bypass{n:02}"].run([features])
    assert np.abs(bypassed - expected).max() < 1e-5
    assert (bypassed > 0).mean() > 0.1


def test_conversion_is_frozen_and_fused(parts: dict[str, Any], arrays: Arrays) -> None:
    """No variable is left in the file; batch normalisation and ReLU are folded."""
    from models.convert import Converted, convert

    weights.assign(parts.values(), arrays)
    assert Converted(convert(parts["block06"])).operators() == ("CONV_2D",) * 3 + ("ADD",)
    assert Converted(convert(parts["stem"])).operators() == ("CONV_2D",)
    assert "FULLY_CONNECTED" in Converted(convert(parts["exit09"])).operators()
    (spec,) = Converted(convert(parts["stem"])).inputs("image")
    assert (spec.name, spec.shape, spec.dtype) == ("image", (1, 32, 32, 3), "float32")


@pytest.mark.parametrize("fault", ["missing", "shape", "unused"])
def test_foreign_weights_are_refused(parts: dict[str, Any], arrays: Arrays, fault: str) -> None:
    name = "block06/shortcut/bn/gamma"
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


def build_arguments(directory: Path, *more: str) -> list[str]:
    return [
        "resnet32-cifar10",
        *("--weights", str(directory / "w.npz")),
        *("--test-images", str(catalog.images_directory() / "cifar10-test-1000.zip")),
        *("--out", str(directory / "out")),
        *more,
    ]


def test_build_writes_a_bundle(tmp_path: Path, arrays: Arrays) -> None:
    np.savez(tmp_path / "w.npz", **arrays)
    more = (
        "--limit",
        "10",
        "--longest-skip",
        "1",
        "--processes",
        "1",
        "--passes",
        "1",
        "--version",
        "7",
    )
    assert build.main(build_arguments(tmp_path, *more)) == 0
    bundle = load(tmp_path / "out")
    bundle.verify_files()
    assert bundle.manifest.version == "7"
    assert bundle.manifest.accuracy.images == 10
    assert len(bundle.manifest.accuracy.variants) == 1 + 14 + 15
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "w.npz"]


def test_build_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(build_arguments(tmp_path)) == EXIT_USAGE
    assert "w.npz" in capsys.readouterr().err
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("kernel.npy", b"nothing")
    assert build.main(build_arguments(tmp_path)) == EXIT_USAGE
    assert "not an .npz of plain arrays" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    assert build.main(build_arguments(tmp_path)) == EXIT_USAGE
    assert "exists; remove it" in capsys.readouterr().err
