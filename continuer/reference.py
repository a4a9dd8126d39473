"""The documents that are printed from the code: events, configuration, command line.

``python -m continuer.reference DIRECTORY`` writes them; ``make docs`` does so in ``docs/``. Tests
compare what is there with what would be written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from continuer import cli, config_docs
from continuer.cli_tree import Option, Verb, tree
from continuer.event_fields import FIELDS
from continuer.events import EVENTS, Kind, journal_name

BEGIN = "<!-- printed by make docs -->"
END = "<!-- end -->"
SEVERITY = {"info": "info (6)", "warning": "warning (4)", "error": "error (3)"}
SEVERITY["critical"] = "critical (2)"


def events() -> str:
    """``docs/events.md``."""
    lines = [
        "# Events",
        "",
        "Printed from `continuer/events.py` by `make docs`; change it there.",
        "",
        "One event per transition. In systemd's journal each has a MESSAGE_ID that never changes,",
        "its severity as PRIORITY, its name as CONTINUER_EVENT and its fields in capitals;",
        "elsewhere it is a line of JSON with the fields as they are named here.",
        "",
        "    journalctl -u continuer-coordinator MESSAGE_ID=" + EVENTS["failover"].message_id,
        "    continuer logs --failures -f",
        "",
        "`continuer logs --failures` shows those that are marked as part of a failure's story.",
    ]
    for name, kind in sorted(EVENTS.items()):
        lines += ["", f"## `{name}`", "", *_event(kind)]
    return "\n".join(lines) + "\n"


def _event(kind: Kind) -> Iterator[str]:
    story = "; part of a failure's story" if kind.failure else ""
    yield f"{kind.meaning} What to do: {kind.remedy}"
    yield ""
    yield f"Severity {SEVERITY[kind.level]}{story}. MESSAGE_ID `{kind.message_id}`."
    if not kind.fields:
        return
    yield ""
    yield "| field | in the journal | unit | meaning |"
    yield "|---|---|---|---|"
    for field in sorted(kind.fields):
        about = FIELDS[field]
        yield f"| `{field}` | `{journal_name(field)}` | {about.unit} | {about.meaning} |"


def operations(found: str) -> str:
    """``docs/operations.md``: written by hand, but for the table of events, which is put in."""
    before, _, rest = found.partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = ["| you see | it means | do |", "|---|---|---|"]
    for name, kind in sorted(EVENTS.items()):
        lines.append(f"| `{name}` ({kind.level}) | {kind.meaning} | {kind.remedy} |")
    return "\n".join([before + BEGIN, *lines, END]) + after


def command_line() -> str:
    """``docs/cli.md``."""
    root = tree(cli.make_parser())
    lines = [
        "# The command line",
        "",
        "Printed from the program itself by `make docs`; `continuer VERB --help` says the same.",
        "",
        "Data goes to standard output, everything else to standard error. `--json` is on every",
        "verb that reads. Exit codes: 0 well, 1 unhealthy or refused, 2 called wrongly, 69 no",
        "daemon answers, 77 not permitted, 78 a configuration or bundle is wrong. NO_COLOR is",
        "obeyed. CONTINUER_CONTROL names the coordinator for verbs that ask it.",
        "",
        "Completion of verbs and options: `source <(continuer completion bash)`, also for zsh and",
        "fish.",
    ]
    # Sorted: the order of verbs of other packages is that of their installation.
    for verb in sorted(root.walk(), key=lambda verb: verb.path):
        if not verb.verbs:
            lines += ["", f"## `{' '.join(verb.path)}`", "", *_verb(verb)]
    return "\n".join(lines) + "\n"


def _verb(verb: Verb) -> Iterator[str]:
    summary = f"{verb.summary[0].upper()}{verb.summary[1:]}."
    yield summary
    if verb.description.strip() not in ("", summary):
        yield ""
        yield verb.description.strip()
    shown = [option for option in verb.options if "--help" not in option.names]
    if shown or verb.arguments:
        yield ""
        yield from (_option(option) for option in (*verb.arguments, *shown))
    if verb.examples:
        yield ""
        yield from (f"    {line}".rstrip() for line in verb.examples.strip().splitlines())


def _option(option: Option) -> str:
    called = ", ".join(option.names) if option.names else option.value
    called += f" {option.value}" if option.names and option.value else ""
    return f"- `{called}`" + (f": {option.summary}" if option.summary else "")


# Each is given what is there, and returns what should be.
DOCUMENTS: dict[str, Callable[[str], str]] = {
    "cli.md": lambda _: command_line(),
    "configuration.md": lambda _: config_docs.reference(),
    "events.md": lambda _: events(),
    "operations.md": operations,
}


def main() -> int:
    """Write all documents to the directory that is named."""
    directory = Path(sys.argv[1])
    for name, text in DOCUMENTS.items():
        path = directory / name
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(text(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
