"""The verbs and options of the command line as a tree, read from its argparse parser.

Shell completion and ``docs/cli.md`` are printed from it, so neither can name what is not there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import msgspec


class Option(msgspec.Struct, frozen=True):
    """An option: its names, what it takes (empty for a switch), its words where it has some."""

    names: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    summary: str


class Verb(msgspec.Struct, frozen=True):
    """A verb or a group of verbs; ``path`` leads to it from the program's name."""

    path: tuple[str, ...]
    summary: str
    description: str
    examples: str
    options: tuple[Option, ...]
    arguments: tuple[Option, ...]
    verbs: tuple[Verb, ...]

    def walk(self) -> Iterator[Verb]:
        """The verb itself and all below it."""
        yield self
        for verb in self.verbs:
            yield from verb.walk()


def tree(parser: argparse.ArgumentParser) -> Verb:
    """The whole command line."""
    return _verb(parser, (parser.prog,), "")


def _verb(parser: argparse.ArgumentParser, path: tuple[str, ...], summary: str) -> Verb:
    options: list[Option] = []
    arguments: list[Option] = []
    verbs: list[Verb] = []
    for action in parser._actions:  # noqa: SLF001  # argparse has no public way to read a parser
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            helps = {a.dest: a.help or "" for a in action._choices_actions}  # noqa: SLF001
            verbs = [_verb(p, (*path, n), helps.get(n, "")) for n, p in action.choices.items()]
        elif action.help != argparse.SUPPRESS:
            (options if action.option_strings else arguments).append(_option(parser, action))
    return Verb(
        path,
        summary,
        parser.description or "",
        parser.epilog or "",
        tuple(options),
        tuple(arguments),
        tuple(verbs),
    )


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> Option:
    words = tuple(str(choice) for choice in action.choices or ())
    about = (action.help or "") % {**vars(action), "prog": parser.prog}
    return Option(tuple(action.option_strings), _value(action, words), words, about)


def _value(action: argparse.Action, words: tuple[str, ...]) -> str:
    if action.nargs == 0:
        return ""
    name: Any = action.metavar or ("{" + ",".join(words) + "}" if words else action.dest)
    if isinstance(name, tuple):
        name = " ".join(name)
    return str(name if words or action.option_strings else name.upper())
