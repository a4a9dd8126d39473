"""``continuer model train`` called wrongly: one clear line, with or without PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from continuer.cli import main
from continuer.errors import EXIT_USAGE
from tests.models.material import NO_TORCH


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a refused command says: one line, and the exit code for wrong usage."""
    assert main(["model", "train", *arguments]) == EXIT_USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def given(directory: Path, *more: str) -> list[str]:
    return ["resnet32", "--data", str(directory / "none"), "--out", str(directory / "out"), *more]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--epochs", "0", "--epochs = 0: give 1 to 10000"),
        ("--learning-rate", "-1", "--learning-rate = -1.0: give 1e-09 to 10"),
        ("--learning-rate", "nan", "--learning-rate = nan"),
        ("--batch", "1", "--batch = 1"),
        ("--fraction", "1.5", "--fraction = 1.5: give 1e-06 to 1"),
        ("--width", "0.1", "--width = 0.1: give 0.25 to 4"),
        ("--seed", "-1", "--seed = -1"),
    ],
)
def test_options_out_of_bounds_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, said: str
) -> None:
    assert said in refusal(capsys, *given(tmp_path, option, value))
    assert not (tmp_path / "out").exists()


def test_an_unknown_network_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["vgg16", *given(tmp_path)[1:]]
    message = refusal(capsys, *arguments)
    assert "unknown network 'vgg16'; there are resnet32, mobilenetv2" in message


def test_missing_pytorch_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert 'pip install "continuer[train]"' in refusal(capsys, *given(tmp_path))


def test_a_missing_data_directory_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason=NO_TORCH)
    message = refusal(capsys, *given(tmp_path))
    assert f"{tmp_path / 'none'}: holds neither test_batch.bin nor" in message
    assert not (tmp_path / "out").exists()


def test_a_missing_gpu_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    message = refusal(capsys, *given(tmp_path, "--device", "cuda"))
    assert "PyTorch finds no GPU; give cpu" in message
