"""A model file is a program: whatever is wrong with it, one clear line, exit code 1, and we live.

The files are made in ``tests/models/malformed.py``; ``docs/imports.md`` has what each gets.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from continuer.cli import main
from continuer.errors import EXIT_UNHEALTHY, ModelError
from models.imported import foreign
from tests.models import malformed
from tests.models.malformed import MALFORMED, RUN

#: Of those that the checks find, the ones that go through the command too.
ALSO = ("empty", "text", "cut in the middle", "huge shape", "cycle", "unknown operator", "If")


def imported(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and message of ``continuer model import``; nothing may be left behind."""
    code = main(malformed.command(path))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]
    return code, captured.err


@pytest.mark.parametrize("name", [name for name in MALFORMED if name not in RUN])
def test_bad_structure_is_named(name: str) -> None:
    make, wanted = MALFORMED[name]
    if name == "empty":
        wanted = "0 bytes are no model"
    with pytest.raises(ModelError) as caught:
        foreign.read(make(), "F")
    assert str(caught.value).startswith("F: ")
    assert wanted in str(caught.value)


@pytest.mark.parametrize("name", [*RUN, *ALSO])
def test_a_bad_file_gets_one_clear_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, wanted = MALFORMED[name]
    path = tmp_path / "bad.tflite"
    path.write_bytes(make())
    code, message = imported(path, capsys)
    assert code == EXIT_UNHEALTHY
    assert message.startswith(f"continuer: {path}: ")
    assert message.count("\n") == 1
    assert wanted in message


def test_the_documented_table_is_current() -> None:
    """Every file has its row; the message is compared where no part of it is the runtime's."""
    documented = malformed.DOCUMENT.read_text()
    rows = documented.partition(malformed.BEGIN)[2].partition(malformed.END)[0].split("\n")[3:-1]
    assert [line.split(" | ")[0].removeprefix("| ") for line in rows] == list(MALFORMED)
    assert len(rows) >= 20
    for name, line in zip(MALFORMED, rows, strict=True):
        if name in RUN or name == "empty":
            assert MALFORMED[name][1] in line
        else:
            assert line == malformed.row(name, malformed.message(name)), "run 'make docs'"


def test_a_directory_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.tflite"
    path.mkdir()
    assert imported(path, capsys) == (
        EXIT_UNHEALTHY,
        f"continuer: {path}: not a regular file; give a .tflite file\n",
    )


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.tflite"
    code = main(["model", "import", str(path), f"--out={tmp_path / 'out'}"])
    assert code == EXIT_UNHEALTHY
    assert capsys.readouterr().err == (f"continuer: {path}: does not exist; give a .tflite file\n")
