"""``continuer model add-exits``: exits and skips with known accuracies, without TensorFlow."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from continuer.bundle import Bundle, TensorSpec, dump, load
from continuer.cli import main
from continuer.client import prepare
from continuer.errors import EXIT_OK, EXIT_USAGE, UsageError
from continuer.runtime import LoadedPart, PathRunner
from models.imported import heads, labelled, logistic
from models.imported.observing import better
from tests.models import tiny


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 noisy images of each colour, a little larger than the model takes."""
    directory = tmp_path_factory.mktemp("images")
    tiny.paint(directory, 60, 10, 12)
    return directory


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The colour network, imported."""
    directory = tmp_path_factory.mktemp("bundle")
    path = directory / "colours.tflite"
    path.write_bytes(tiny.colours(2))
    (directory / "classes").write_text("\n".join(tiny.COLOURS))
    command = ["model", "import", str(path), f"--out={directory / 'colours'}"]
    assert (
        main([*command, f"--classes={directory / 'classes'}", "--divisor=255", "--mean=0,0,0"]) == 0
    )
    return directory / "colours"


@pytest.fixture(scope="module")
def added(bundle: Path, images: Path) -> Bundle:
    """The same with exits and skips."""
    out = bundle.parent / "added"
    command = ["model", "add-exits", str(bundle), f"--data={images}", f"--out={out}"]
    assert main([*command, "--processes=1"]) == EXIT_OK
    return load(out)


def test_exits_and_skips_are_offered_with_their_accuracy(added: Bundle) -> None:
    blocks = added.manifest.blocks
    assert [block.exit for block in blocks] == ["exit01", "exit02", "exit03", None]
    assert [block.skippable for block in blocks] == [False, True, True, False]
    wanted: set[tuple[str | None, tuple[str, ...]]] = {(None, ())}
    wanted |= {(block.exit, ()) for block in blocks[:3]}
    wanted |= {(None, ("block02",)), (None, ("block03",)), (None, ("block02", "block03"))}
    variants = added.manifest.accuracy.variants
    assert {(v.exit, v.skipped) for v in variants} == wanted
    for variant in variants:
        assert variant.total == 54  # 30 % of 60, three times
        assert variant.accuracy > 0.9  # one in three by chance
        low, high = variant.interval_95
        assert 0 <= low < variant.accuracy <= high <= 1


def test_the_blocks_are_what_they_were(bundle: Path, added: Bundle) -> None:
    before = load(bundle)
    assert added.manifest.parts[:4] == before.manifest.parts
    added.verify_files()


def test_an_exit_answers_like_the_whole_model(added: Bundle) -> None:
    runner = PathRunner(added)
    pixels = np.full((1, *tiny.SHAPE[1:]), 40, np.uint8)
    pixels[..., 1] = 200
    taken = added.manifest.input
    tensor = prepare(pixels, taken.tensors[0], taken.preprocessing)
    for exit_name in (None, "exit01", "exit03"):
        (answer,) = runner.run(added.path((), exit_name), [tensor])
        assert answer.shape == (1, 3)
        assert tiny.COLOURS[int(answer.argmax())] == "green"


def test_verify_accepts_it(added: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "verify", str(added.directory)]) == EXIT_OK
    assert capsys.readouterr().out.splitlines()[-1] == "ok"


def test_fewer_exits_are_spread_and_the_bundle_is_replaced(
    bundle: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in bundle.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    command = ["model", "add-exits", str(copied), f"--data={images}", "--exits=1"]
    assert main([*command, "--test-images=30", "--processes=1", "--json"]) == EXIT_OK
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 30
    made = load(copied)
    assert report["hash"] == made.hash.hex()
    assert sum(block.exit is not None for block in made.manifest.blocks) == 1
    assert made.manifest.accuracy.images == 30
    assert [p.name for p in tmp_path.iterdir()] == ["copied"]


def test_a_bundle_with_exits_is_refused(
    added: Bundle, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = added.hash
    assert main(["model", "add-exits", str(added.directory), f"--data={images}"]) == EXIT_USAGE
    assert "has exits or skips already" in capsys.readouterr().err
    assert load(added.directory).hash == before


def test_folders_that_are_no_class_of_the_model_are_named(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("red", "purple"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    assert main(["model", "add-exits", str(bundle), f"--data={tmp_path}"]) == EXIT_USAGE
    assert "'purple' is no class of the model" in capsys.readouterr().err


def test_classes_in_another_order_than_the_outputs_are_noticed(
    bundle: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red, green, blue are outputs 0, 1, 2; the folders in alphabetical order would be 2, 1, 0."""
    manifest = load(bundle).manifest
    for path in bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    dump(msgspec.structs.replace(manifest, classes=("green", "blue", "red")), tmp_path)
    command = ["model", "add-exits", str(tmp_path), f"--data={images}", "--processes=1"]
    assert main(command) == EXIT_USAGE
    assert "is right on none of 54 images" in capsys.readouterr().err
    assert load(tmp_path).manifest.accuracy.variants == ()


def test_sets_share_no_image_and_are_balanced(images: Path) -> None:
    wanted = labelled.Wanted((8, 8, 3), 1000, 1000, 0)
    data = labelled.read(images, (), wanted)
    assert data.classes == ("blue", "green", "red")
    everything = [
        split.pixels[i].tobytes()
        for split in (data.fit, data.choice, data.test)
        for i in range(len(split.labels))
    ]
    assert len(set(everything)) == len(everything) == 180
    for split in (data.fit, data.choice, data.test):
        assert len(set(np.bincount(split.labels))) == 1


def test_train_and_test_folders_are_respected(tmp_path: Path) -> None:
    for half, shade in (("train", 10), ("test", 200)):
        for name in tiny.COLOURS:
            (tmp_path / half / name).mkdir(parents=True)
            for number in range(10):
                Image.new("L", (8, 8), shade).save(tmp_path / half / name / f"{number}.png")
    data = labelled.read(tmp_path, (), labelled.Wanted((8, 8, 1), 100, 100, 0))
    assert set(data.test.pixels.ravel()) == {200}
    assert set(data.fit.pixels.ravel()) == set(data.choice.pixels.ravel()) == {10}
    assert data.fit.pixels.shape == (24, 8, 8, 1)


def test_a_directory_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two or more classes"):
        labelled.read(tmp_path, (), labelled.Wanted((8, 8, 3), 10, 10, 0))


def test_the_classifier_separates_what_can_be_separated() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(600) % 3
    centres = np.array([[0, 0], [4, 0], [0, 4]])
    features = (centres[labels] + generator.standard_normal((600, 2))).astype(np.float32)
    features *= [1000, 0.001]  # of very different sizes
    weights, biases = logistic.fit(features, labels, 3)
    share = ((features @ weights.T + biases).argmax(1) == labels).mean()
    assert share > 0.93


@pytest.mark.parametrize("softmax", [False, True])
def test_a_head_on_quantised_activations_answers_quantised(tmp_path: Path, softmax: bool) -> None:
    spec = TensorSpec("x", (1, 6, 6, 4), "uint8", 0.1, 7)
    output = TensorSpec("y", (1, 2), "int8", 1 / 256 if softmax else 0.05, -128 if softmax else 0)
    weights = np.zeros((2, heads.feature_count(spec)), np.float32)
    weights[1] = 1 / weights.shape[1]
    biases = np.array([0.5, 0], np.float32)
    path = tmp_path / "head.tflite"
    path.write_bytes(heads.head(spec, output, weights, biases, softmax=softmax))
    (answer,) = LoadedPart(path, [spec], [output]).run([np.full(spec.shape, 27, np.uint8)])
    logits = np.array([0.5, 2.0], np.float32)  # 0.1 * (27 - 7)
    real = logistic.softmax(logits) if softmax else logits
    assert output.scale is not None
    assert output.zero_point is not None
    found = (answer[0].astype(float) - output.zero_point) * output.scale
    np.testing.assert_allclose(found, real, atol=output.scale)


@pytest.mark.parametrize(
    ("shape", "features"),
    [((1, 32, 32, 16), 256), ((1, 7, 7, 320), 320), ((1, 25, 5, 64), 960), ((1, 12), 12)],
)
def test_pooling_makes_a_bounded_number_of_features(
    shape: tuple[int, ...], features: int, tmp_path: Path
) -> None:
    spec = TensorSpec("x", shape)
    path = tmp_path / "pool.tflite"
    path.write_bytes(heads.pooled(spec))
    assert heads.feature_count(spec) == features
    part = LoadedPart(path, [spec], [TensorSpec("f", (1, features))])
    (output,) = part.run([np.ones(shape, np.float32)])
    np.testing.assert_allclose(output, 1, rtol=1e-6)


def test_a_correction_has_to_be_clearly_better() -> None:
    plain = np.arange(100) < 50
    little = np.arange(100) < 51
    clearly = np.arange(100) < 60
    assert better(np.stack([plain, little], 1)) == 0
    assert better(np.stack([plain, little, clearly], 1)) == 2
    assert better(np.stack([plain, ~plain], 1)) == 0
