"""Completion in real shells: what is offered after what has been typed."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from continuer import cli

TIMEOUT_S = 60


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the three scripts, as the command prints them."""
    directory = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        with (
            pytest.MonkeyPatch.context() as patch,
            (directory / shell).open("w", encoding="utf-8") as file,
        ):
            patch.setattr("sys.stdout", file)
            assert cli.main(["completion", shell]) == 0
    return directory


def ask(shell: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed; apt install {shell}")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S)


def offered(shell: str, scripts: Path, *words: str) -> set[str]:
    """What a shell offers in place of the last of these words."""
    script = shlex.quote(str(scripts / shell))
    if shell == "bash":
        line = " ".join(shlex.quote(word) for word in words)
        code = (
            f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _continuer; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        ended = ask("bash", "--norc", "-c", code)
    elif shell == "fish":
        line = " ".join(words)
        code = f"source {script}; complete -C {shlex.quote(line)}"
        ended = ask("fish", "--no-config", "-c", code)
    else:
        # zsh's completion needs a terminal; its own widgets are replaced by ones that print.
        line = " ".join(shlex.quote(word) for word in words)
        code = (
            "compdef() { :; }; _files() { print FILES; }\n"
            "compadd() { shift; print -l -- ${=*}; }\n"
            '_describe() { local name="${@[-1]}"; print -l -- "${(@)${(P)name}%%:*}"; }\n'
            f"source {script}\nwords=({line}); CURRENT={len(words)}; _continuer"
        )
        ended = ask("zsh", "-f", "-c", code)
    assert ended.stderr == ""
    return {text.partition("\t")[0] for text in ended.stdout.splitlines() if text}


SHELLS = ("bash", "zsh", "fish")


@pytest.mark.parametrize("shell", SHELLS)
def test_verbs_are_offered_first(shell: str, scripts: Path) -> None:
    found = offered(shell, scripts, "continuer", "")
    assert {"status", "logs", "infer", "plan", "config", "doctor", "completion"} <= found


@pytest.mark.parametrize("shell", SHELLS)
def test_verbs_below_a_verb_are_offered_and_no_others(shell: str, scripts: Path) -> None:
    found = offered(shell, scripts, "continuer", "plan", "")
    assert {"show", "what-if"} <= found
    assert not {"status", "logs", "set"} & found


@pytest.mark.parametrize("shell", SHELLS)
def test_options_of_the_verb_are_offered_and_no_others(shell: str, scripts: Path) -> None:
    found = offered(shell, scripts, "continuer", "logs", "--failures", "--")
    assert {"--follow", "--node", "--json", "--coordinator"} <= found
    assert not {"--repeat", "--kill", "--watch"} & found
    deeper = offered(shell, scripts, "continuer", "plan", "what-if", "--")
    assert {"--kill", "--pairs"} <= deeper


@pytest.mark.parametrize("shell", SHELLS)
def test_words_that_an_option_or_argument_takes_are_offered(shell: str, scripts: Path) -> None:
    assert offered(shell, scripts, "continuer", "demo", "--fault", "") >= {"kill", "stop"}
    assert offered(shell, scripts, "continuer", "config", "sample", "") >= {"agent", "coordinator"}


def test_a_beginning_narrows_what_bash_offers(scripts: Path) -> None:
    assert offered("bash", scripts, "continuer", "sta") == {"status"}
    assert offered("bash", scripts, "continuer", "status", "--wa") == {"--watch"}
