"""Documents that are printed from the code, and verbs that say how they are used."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from continuer import cli, reference
from continuer.cli_tree import Verb, tree
from continuer.demo.cluster import program
from continuer.errors import (
    EXIT_CONFIG,
    EXIT_PERMISSION,
    EXIT_UNHEALTHY,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
)
from continuer.events import EVENTS

DOCS = Path(__file__).parents[2] / "docs"
LEAVES = [verb for verb in tree(cli.make_parser()).walk() if not verb.verbs]


def named(verb: Verb) -> str:
    return " ".join(verb.path)


@pytest.mark.parametrize("name", reference.DOCUMENTS)
def test_a_printed_document_is_current(name: str) -> None:
    found = (DOCS / name).read_text()
    assert found == reference.DOCUMENTS[name](found), f"docs/{name} is not current: run 'make docs'"


@pytest.mark.parametrize("verb", LEAVES, ids=named)
def test_a_verb_shows_examples_that_call_it(verb: Verb) -> None:
    lines = [line.strip() for line in verb.examples.splitlines()]
    assert "examples:" in lines, named(verb)
    shown = [line for line in lines if "continuer" in line]
    assert any(named(verb) in line for line in shown), shown
    assert verb.summary, named(verb)


@pytest.mark.parametrize("verb", LEAVES, ids=named)
def test_the_examples_of_a_verb_are_options_that_it_has(verb: Verb) -> None:
    known = {name for option in verb.options for name in option.names}
    for line in verb.examples.splitlines():
        call = line.partition(named(verb))[2].partition("&&")[0]
        used = {word for word in call.split() if word.startswith("--")}
        assert used <= known, line


def test_the_tree_holds_what_the_parser_does() -> None:
    paths = {verb.path for verb in tree(cli.make_parser()).walk()}
    assert {("continuer", "status"), ("continuer", "plan", "what-if")} <= paths
    status = next(v for v in LEAVES if v.path[-1] == "status")
    names = {name for option in status.options for name in option.names}
    assert {"--watch", "--json", "--coordinator", "--help"} <= names


def test_operations_says_what_to_do_about_every_event_and_exit_code() -> None:
    text = (DOCS / "operations.md").read_text()
    assert [name for name in EVENTS if f"`{name}`" not in text] == []
    codes = (EXIT_UNHEALTHY, EXIT_USAGE, EXIT_UNREACHABLE, EXIT_PERMISSION, EXIT_CONFIG)
    assert [code for code in codes if f"| {code} |" not in text] == []


@pytest.mark.parametrize("arguments", [["--help"], ["logs", "--help"], ["--version"]])
def test_a_reader_that_has_seen_enough_of_the_help_is_no_error(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    try:
        ended = subprocess.run(
            [*program("continuer"), *arguments],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=environment,
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")
