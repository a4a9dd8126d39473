"""``continuer infer``, ``doctor`` and ``bugreport`` on a real cluster."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from continuer.bundle import Bundle
from continuer.catalog import find_images
from continuer.demo.cluster import Cluster
from continuer.errors import EXIT_OK, EXIT_UNHEALTHY, EXIT_UNREACHABLE, EXIT_USAGE
from tests.integration.support import IMAGES, cli

if TYPE_CHECKING:
    from continuer.load import Array


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shipped image as a file that loses nothing."""
    path: Path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.fromarray(find_images(IMAGES)[0][0]).save(path)
    return path


def asked(cluster: Cluster, *arguments: str | Path, code: int = EXIT_OK) -> list[dict[str, Any]]:
    ended = cli("infer", *map(str, arguments), "--coordinator", cluster.control, "--json")
    assert ended.returncode == code, ended.stderr
    found: list[dict[str, Any]] = json.loads(ended.stdout)["answers"]
    return found


def test_an_image_is_answered_with_how_it_was_made(
    cluster: Cluster, picture: Path, bundle: Bundle
) -> None:
    (answer,) = asked(cluster, picture)
    assert answer["label"] in bundle.manifest.classes
    assert answer["technique"] == "none"
    assert answer["path"] == list(bundle.path())
    assert answer["expected_accuracy"] == pytest.approx(bundle.measured_accuracy(bundle.path()))
    assert answer["nodes"] == cluster.nodes
    assert answer["latency_ms"] > 0
    assert "resized_from" not in answer
    ended = cli("infer", str(picture), "--coordinator", cluster.control)
    assert ended.returncode == EXIT_OK
    for part in (f"{picture}: {answer['label']}", "none", "expected accuracy", "block07", "n3"):
        assert part in ended.stdout


def test_an_image_an_array_and_a_prepared_tensor_are_one(
    cluster: Cluster, picture: Path, inputs: list[Array], tmp_path: Path
) -> None:
    pixels, tensor = tmp_path / "pixels.npy", tmp_path / "tensor.npy"
    np.save(pixels, find_images(IMAGES)[0][0])
    order = np.random.default_rng(0).permutation(len(find_images(IMAGES)[0]))
    np.save(tensor, inputs[int(np.argmin(order))])  # the inputs are shuffled; this is image 0
    answers = asked(cluster, picture, pixels, tensor)
    assert len({answer["index"] for answer in answers}) == 1


def test_an_image_of_another_size_is_resized_and_that_is_said(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (64, 48), 128).save(path)
    (answer,) = asked(cluster, path)
    assert answer["resized_from"] == [64, 48]
    assert answer["error"] is None


def test_each_file_is_repeated_through_the_ingress_that_is_named(
    cluster: Cluster, picture: Path
) -> None:
    arguments = ("--repeat", "3", "--rate", "50", "--endpoint", cluster.endpoints[1])
    assert len(asked(cluster, picture, *arguments)) == 3


def test_a_request_without_an_answer_is_unhealthy_and_says_why(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "odd.npy"
    np.save(path, np.zeros((7, 7), np.float32))
    (answer,) = asked(cluster, path, code=EXIT_UNHEALTHY)
    assert answer["error"].startswith("bad_input")
    assert "label" not in answer


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x93NUMPY\x01\x00"])
@pytest.mark.parametrize("name", ["x.png", "x.npy"])
def test_a_file_that_holds_nothing_of_use_is_a_usage_error(
    name: str, content: bytes, cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    ended = cli("infer", str(path), "--coordinator", cluster.control)
    assert (ended.returncode, ended.stdout) == (EXIT_USAGE, "")
    assert str(path) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_array_of_python_objects_is_not_opened(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "objects.npy"
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    ended = cli("infer", str(path), "--coordinator", cluster.control)
    assert ended.returncode == EXIT_USAGE
    assert "allow_pickle" in ended.stderr or "pickle" in ended.stderr


def test_without_a_coordinator_the_ingress_can_be_named(cluster: Cluster, picture: Path) -> None:
    gone = ("--coordinator", "tcp://127.0.0.1:1")
    ended = cli("infer", str(picture), *gone)
    assert (ended.returncode, ended.stdout) == (EXIT_UNREACHABLE, "")
    ended = cli("infer", str(picture), *gone, "--endpoint", cluster.endpoints[0])
    assert ended.returncode == EXIT_OK, ended.stderr


def test_doctor_finds_nothing_that_fails_on_a_cluster_that_is_well(cluster: Cluster) -> None:
    files = [f"--config={cluster.directory / name}.toml" for name in ("coordinator", "n1")]
    ended = cli("doctor", *files, "--coordinator", cluster.control, "--json")
    found = json.loads(ended.stdout)["checks"]
    assert [f for f in found if f["outcome"] == "fail"] == []
    assert ended.returncode == EXIT_OK
    trips = [f["found"] for f in found if f["check"] == "round trip"]
    assert any(text.startswith("coordinator") for text in trips)
    assert {text.partition(":")[0] for text in trips} >= {f"{n} data" for n in cluster.nodes}


def test_a_bug_report_holds_the_status_and_the_events(cluster: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "report.tar.gz"
    ended = cli("bugreport", "--coordinator", cluster.control, "--output", str(output), "--json")
    assert ended.returncode == EXIT_OK, ended.stderr
    assert json.loads(ended.stdout)["file"] == str(output)
    with tarfile.open(output) as archive:
        texts = {}
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            texts[member.name] = json.load(file)
    assert texts["report/status.json"]["health"] == "full"
    names = {event["event"] for event in texts["report/events.coordinator.json"]}
    assert {"daemon_started", "plan_formed"} <= names
