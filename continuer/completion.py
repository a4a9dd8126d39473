"""``continuer completion``: words for the shell to offer, generated from the parser itself."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any

from continuer.cli_help import add_verb
from continuer.cli_tree import Option, Verb, tree
from continuer.errors import EXIT_OK

EXAMPLES = """\
source <(continuer completion bash)
continuer completion zsh > ~/.zfunc/_continuer
continuer completion fish > ~/.config/fish/completions/continuer.fish
"""


def add_parser(commands: Any, parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Add the verb to the command line, whose whole parser ``parser`` makes."""
    verb = add_verb(commands, "completion", "print what completes verbs and options", EXAMPLES)
    verb.add_argument("shell", choices=sorted(SHELLS))
    verb.set_defaults(handler=lambda options: run(options, parser()))


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Print the script for a shell."""
    sys.stdout.write(SHELLS[options.shell](tree(parser)))
    return EXIT_OK


def _offered(verb: Verb) -> list[str]:
    """What may follow a verb: verbs below it, words of its arguments, options."""
    names = [below.path[-1] for below in verb.verbs]
    words = [word for argument in verb.arguments for word in argument.choices]
    return [*names, *words, *(name for option in verb.options for name in option.names)]


def _values(option: Option) -> str:
    """What kind of value an option wants: words, a file, or something nobody can guess."""
    if option.choices:
        return " ".join(option.choices)
    return "FILE" if any(word in option.value for word in ("FILE", "DIR", "PATH")) else ""


def bash(root: Verb) -> str:
    """A completion function for bash 4 and later."""
    lines = [
        "# Completion of continuer for bash: source <(continuer completion bash)",
        "_continuer() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"',
        '    local path="" words="" i',
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        '        case "$path ${COMP_WORDS[i]}" in',
    ]
    below = [verb for verb in root.walk() if len(verb.path) > 1]
    lines += [f'            "{_path(v)}") path="{_path(v)}" ;;' for v in below]
    lines += ["        esac", "    done", '    case "$path $before" in']
    for verb in root.walk():
        for option in verb.options:
            values = _values(option) if option.value else None
            if values is not None:
                patterns = "|".join(f'"{_path(verb)} {name}"' for name in option.names)
                kind = "-f" if values == "FILE" else f"-W {shlex.quote(values)}"
                lines.append(
                    f'        {patterns}) mapfile -t COMPREPLY < <(compgen {kind} -- "$word"); '
                    "return ;;"
                )
    lines += ["    esac", '    case "$path" in']
    for verb in root.walk():
        lines.append(f'        "{_path(verb)}") words={shlex.quote(" ".join(_offered(verb)))} ;;')
    lines += [
        "    esac",
        '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")',
        "}",
        "complete -o bashdefault -o default -F _continuer continuer",
    ]
    return "\n".join(lines) + "\n"


def _path(verb: Verb) -> str:
    return "".join(f" {name}" for name in verb.path[1:])


def zsh(root: Verb) -> str:
    """A completion function for zsh, with what each word is for."""
    lines = [
        "#compdef continuer",
        "# Completion of continuer for zsh: a file named _continuer in a directory of $fpath.",
        "_continuer() {",
        '    local path_="" i; local -a verbs options',
        "    for ((i = 2; i < CURRENT; i++)); do",
        '        case "$path_ ${words[i]}" in',
    ]
    below = [verb for verb in root.walk() if len(verb.path) > 1]
    lines += [f'            "{_path(v)}") path_="{_path(v)}" ;;' for v in below]
    lines += ["        esac", "    done", '    case "$path_ ${words[CURRENT-1]}" in']
    for verb in root.walk():
        for option in verb.options:
            if option.value:
                patterns = "|".join(f'"{_path(verb)} {name}"' for name in option.names)
                values = _values(option)
                action = "_files" if values in ("FILE", "") else f"compadd -- {values}"
                lines.append(f"        {patterns}) {action}; return ;;")
    lines += ["    esac", '    case "$path_" in']
    for verb in root.walk():
        verbs = [_described(v.path[-1], v.summary) for v in verb.verbs]
        verbs += [_described(w, "") for a in verb.arguments for w in a.choices]
        options = [_described(name, o.summary) for o in verb.options for name in o.names]
        lines.append(
            f'        "{_path(verb)}") verbs=({" ".join(verbs)}); options=({" ".join(options)}) ;;'
        )
    lines += [
        "    esac",
        "    if [[ ${words[CURRENT]} == -* ]]; then",
        "        _describe -o option options",
        "    elif (( ${#verbs} )); then",
        "        _describe verb verbs",
        "    else",
        "        _files",
        "    fi",
        "}",
        "# Autoloaded, this file is the function's body; sourced, it only defines it.",
        'if [[ "${funcstack[1]}" == _continuer ]]; then _continuer "$@"',
        "else compdef _continuer continuer; fi",
    ]
    return "\n".join(lines) + "\n"


def _described(name: str, summary: str) -> str:
    plain = " ".join(summary.split())
    return shlex.quote(name.replace(":", "\\:") + (f":{plain}" if plain else ""))


def fish(root: Verb) -> str:
    """Completions for fish."""
    lines = [
        "# Completion of continuer for fish: ~/.config/fish/completions/continuer.fish",
        "complete -c continuer -f",
    ]
    for verb in root.walk():
        when = shlex.quote(_fish_condition(verb))
        lines += [
            f"complete -c continuer -n {when} -a {below.path[-1]} -d {_fish(below.summary)}"
            for below in verb.verbs
        ]
        for argument in verb.arguments:
            words = f"-a {_fish(' '.join(argument.choices))}" if argument.choices else "-F"
            lines.append(f"complete -c continuer -n {when} {words}")
        lines += [
            f"complete -c continuer -n {when} {text}"
            for option in verb.options
            for text in _fish_option(option)
        ]
    return "\n".join(lines) + "\n"


def _fish_condition(verb: Verb) -> str:
    """True while the command line has led to this verb and none below it."""
    seen = [f"__fish_seen_subcommand_from {name}" for name in verb.path[1:]]
    deeper = [below.path[-1] for below in verb.verbs]
    if not seen:
        return "__fish_use_subcommand"
    unseen = [f"not __fish_seen_subcommand_from {' '.join(deeper)}"] if deeper else []
    return "; and ".join([*seen, *unseen])


def _fish_option(option: Option) -> Iterator[str]:
    names = [f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names]
    takes = ""
    if option.value:
        values = _values(option)
        takes = " -r -F" if values == "FILE" else f" -x -a {_fish(values)}" if values else " -x"
    yield f"{' '.join(names)}{takes} -d {_fish(option.summary)}"


def _fish(text: str) -> str:
    plain = " ".join(text.split()).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{plain}'"


SHELLS: dict[str, Callable[[Verb], str]] = {"bash": bash, "fish": fish, "zsh": zsh}
