"""How the verbs of the command line describe themselves: a sentence, and examples."""

from __future__ import annotations

import argparse
from typing import Any

HEAD = "examples:"


class Formatter(argparse.HelpFormatter):
    """Wraps descriptions as usual and leaves examples as they stand."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.lstrip().startswith(HEAD):
            return "\n".join(indent + line for line in text.splitlines())
        return super()._fill_text(text, width, indent)


def add_verb(
    commands: Any, name: str, summary: str, examples: str, description: str = ""
) -> argparse.ArgumentParser:
    """A verb's parser. ``examples``: one call a line, as typed; ``summary`` is one clause.

    Without a description the summary stands for it.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description or f"{summary[0].upper()}{summary[1:]}.",
        **with_examples(examples),
    )
    return parser


def with_examples(examples: str) -> dict[str, Any]:
    """What ``add_parser`` takes for examples, one call a line, below a verb's options."""
    lines = [f"  {line.strip()}" for line in examples.strip().splitlines()]
    return {"epilog": "\n".join([HEAD, *lines]), "formatter_class": Formatter}
