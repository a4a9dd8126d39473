"""``continuer bugreport``: one file, no secrets, and what cannot be had is replaced by why."""

from __future__ import annotations

import json
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from continuer import cli
from continuer.errors import EXIT_OK, EXIT_USAGE
from continuer.redaction import REMOVED, redacted, scrubbed, secrets

SECRET = "hunter2-0123456789"  # noqa: S105  # of nothing
CONFIG = f"""\
# the join token is {SECRET}
node = "n1"
bundle = "/bundles/m"
coordinator = "tcp://10.0.0.1:7400"
join_token = "{SECRET}"
"""


def collect(tmp_path: Path, config: str) -> tuple[Path, dict[str, Any]]:
    """A report made without a coordinator, and its members."""
    file = tmp_path / "agent.toml"
    file.write_text(config)
    output = tmp_path / "report.tar.gz"
    arguments = ["bugreport", "--config", str(file), "--output", str(output)]
    assert cli.main([*arguments, "--coordinator", "tcp://127.0.0.1:1"]) == EXIT_OK
    members = {}
    with tarfile.open(output) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            members[member.name.partition("/")[2]] = json.load(content)
    return output, members


def test_secrets_leave_the_box_in_no_form(tmp_path: Path) -> None:
    output, members = collect(tmp_path, CONFIG)
    assert SECRET not in json.dumps(members)
    (name,) = [name for name in members if name.startswith("configuration/")]
    assert members[name]["join_token"] == REMOVED
    assert members[name]["node"] == "n1"
    assert stat.S_IMODE(output.stat().st_mode) == 0o600


def test_a_file_that_is_no_toml_is_replaced_by_why(tmp_path: Path) -> None:
    _, members = collect(tmp_path, f'token = "{SECRET}\n')
    assert SECRET not in json.dumps(members)
    (name,) = [name for name in members if name.startswith("configuration/")]
    assert "not valid TOML" in members[name]["error"]


def test_without_a_coordinator_the_rest_is_collected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, members = collect(tmp_path, CONFIG)
    assert "no coordinator answers" in members["status.json"]["error"]
    assert "events.coordinator.json" not in members
    assert members["versions.json"]["packages"]["pyzmq"]
    assert any(finding["check"] == "clock" for finding in members["doctor.json"])
    out, err = capsys.readouterr()
    assert out == f"{output}\n"
    assert "status.json" in err


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    output = tmp_path / "report.tar.gz"
    output.write_text("precious")
    arguments = ["bugreport", "--output", str(output), "--coordinator", "tcp://127.0.0.1:1"]
    assert cli.main(arguments) == EXIT_USAGE
    assert output.read_text() == "precious"


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ({"password": "x", "node": "n1"}, {"password": REMOVED, "node": "n1"}),
        ({"security": {"private_key": "x"}}, {"security": {"private_key": REMOVED}}),
        ({"keys": [{"psk": "x"}, "plain"]}, {"keys": [{"psk": REMOVED}, "plain"]}),
        ({"url": "tcp://user:x@h:1/p"}, {"url": f"tcp://{REMOVED}@h:1/p"}),
        ({"keyboard": "x", "monkey": 1}, {"keyboard": "x", "monkey": 1}),
        ({"key": {"a": 1}}, {"key": REMOVED}),
    ],
)
def test_values_of_keys_that_name_secrets_are_removed(
    table: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert redacted(table) == wanted


def test_a_secret_is_found_where_a_message_quotes_it() -> None:
    table = {"key": ["abc'def", "x"], "a": {"token": "0123"}, "url": "http://me:pw@h", "n": "open"}
    known = set(secrets(table))
    assert known == {"abc'def", "0123", "me:pw"}
    texts = [f"token = {'0123'!r}: no", {"0123": 5}, f"{chr(34)}abc'def", "open", None, 7]
    told = scrubbed(texts, known)
    assert told == [f"token = '{REMOVED}': no", {REMOVED: 5}, f'"{REMOVED}', "open", None, 7]
