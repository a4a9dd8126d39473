"""Import and add-exits on networks of three kinds: residual, a plain chain, a depthwise one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from continuer.bundle import Bundle, load
from continuer.cli import main
from continuer.errors import EXIT_OK
from continuer.runtime import PathRunner, random_tensors
from models.imported import foreign
from models.imported.cut import Cutter
from tests.models import tiny
from tests.models.tiny import Sketch

Classifier = Callable[[], bytes]


def plain() -> bytes:
    """Five convolutions; says which colour an image has."""
    sketch = Sketch()
    source = flow = sketch.input()
    for _ in range(5):
        flow = sketch.conv(flow, 0.9, relu=True)
    return sketch.finish([source], [sketch.classes(flow)])


def depthwise() -> bytes:
    """Three pairs of a depthwise and a 1x1 convolution, as in MobileNet; no shortcut."""
    sketch = Sketch()
    source = flow = sketch.input()
    for _ in range(3):
        flow = sketch.conv(sketch.depthwise(flow, 1.1), 0.9, relu=True)
    return sketch.finish([source], [sketch.classes(flow)])


#: Per kind: the network, what crosses its partition points, and how many blocks are residual.
KINDS: dict[str, tuple[Classifier, dict[str, int], int]] = {
    "residual": (lambda: tiny.colours(3), {"1": 4, "2": 6}, 3),
    "plain": (plain, {"1": 5}, 0),
    "depthwise": (depthwise, {"1": 6}, 0),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 noisy images of each colour."""
    directory = tmp_path_factory.mktemp("images")
    tiny.paint(directory, 40, tiny.SIDE, tiny.SIDE)
    return directory


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(
    kind: str, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Bundle, Bundle]:
    """What import reports, the imported bundle, and the one with exits."""
    directory = tmp_path_factory.mktemp(kind)
    path = directory / f"{kind}.tflite"
    path.write_bytes(KINDS[kind][0]())
    (directory / "classes").write_text("\n".join(tiny.COLOURS))
    out, added = directory / "imported", directory / "added"
    options = ["--every-cut", "--nodes=3", "--divisor=255", "--mean=0,0,0"]
    options += [f"--classes={directory / 'classes'}", f"--out={out}", "--json"]
    report = directory / "report"
    with report.open("w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", file)
        assert main(["model", "import", str(path), *options]) == EXIT_OK
    options = [f"--data={images}", f"--out={added}", "--processes=1"]
    assert main(["model", "add-exits", str(out), *options]) == EXIT_OK
    return json.loads(report.read_text()), load(out), load(added)


Made = tuple[dict[str, Any], Bundle, Bundle]


def test_every_partition_point_is_found_and_exact(kind: str, made: Made) -> None:
    report, _, _ = made
    make, cuts, residual = KINDS[kind]
    assert report["cuts"] == cuts
    assert report["compared_cuts"] == sum(cuts.values())
    assert len(report["residual"]) == residual
    assert len(Cutter(foreign.read(make(), kind)).cuts) == sum(cuts.values())


def test_chained_blocks_answer_like_the_whole_model_bit_for_bit(kind: str, made: Made) -> None:
    from ai_edge_litert.interpreter import Interpreter

    _, imported, _ = made
    whole = Interpreter(model_content=KINDS[kind][0]())
    whole.allocate_tensors()
    generator = np.random.default_rng(1)
    for _ in range(5):
        (image,) = random_tensors(generator, imported.manifest.input.tensors)
        whole.set_tensor(whole.get_input_details()[0]["index"], image)
        whole.invoke()
        (answer,) = PathRunner(imported).run(imported.path((), None), [image])
        wanted = whole.get_tensor(whole.get_output_details()[0]["index"])
        assert answer.tobytes() == wanted.tobytes()


def test_exits_are_accurate_and_only_residual_blocks_can_be_skipped(kind: str, made: Made) -> None:
    _, imported, added = made
    residual = KINDS[kind][2]
    assert sum(block.skippable for block in added.manifest.blocks) == residual
    exits = [block.exit for block in added.manifest.blocks if block.exit is not None]
    assert len(exits) == len(imported.block_names) - 1
    variants = added.manifest.accuracy.variants
    assert {v.exit for v in variants} == {None, *exits}
    assert sum(len(v.skipped) == 1 for v in variants) == residual
    # One in three by chance.
    assert min(v.accuracy for v in variants) > 0.9


def test_the_placement_gives_every_box_a_share(made: Made) -> None:
    report, imported, _ = made
    placed = [block for node in report["placement"] for block in node["blocks"]]
    assert tuple(placed) == imported.block_names
    assert all(node["blocks"] for node in report["placement"])
