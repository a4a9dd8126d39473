"""What one sees while the demo runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

SHOWN = {
    "plan_formed": "plan {version}: {technique} over {nodes}",
    "node_suspect": "{node} is suspect ({reason})",
    "node_dead": "{node} is dead ({reason})",
    "node_trusted": "{node} is heard again",
    "node_joined": "{node} asks for work",
    "node_returned": "{node} is taken back in",
    "failover": "FAILOVER of {nodes}: {technique}, predicted accuracy {accuracy}",
    "healed": "healed: {technique}, predicted accuracy {accuracy}",
    "failover_told": "all survivors told: decide {decide_ms} ms, tell {tell_ms} ms",
    "no_plan": "NO PLAN: {problem}",
    "suspicion_held": "{nodes} silent at once: waiting a moment",
    "technique_fell_back": "forced technique {forced} impossible: {technique}",
}


class EventTail:
    """Reads new events from a daemon's log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[str]:
        """Events since the last call, as lines for people."""
        with self._path.open("rb") as log:
            log.seek(self._offset)
            raw = log.read()
        complete = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [text for line in complete.splitlines() if (text := describe(line))]


def describe(line: bytes) -> str:
    """A log line for people; empty for events that are not shown."""
    try:
        event = json.loads(line)
        template = SHOWN.get(event["event"])
    except (ValueError, KeyError, TypeError):
        return ""
    if template is None:
        return ""
    for key, value in event.items():
        if isinstance(value, list):
            event[key] = " ".join(map(str, value))
        elif value is None:
            event[key] = "unknown"
    return f"{event['timestamp'][11:23]} {template.format(**event)}"


class PlainView:
    """Lines on a stream, as things happen."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._beats = 0

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.flush()

    def say(self, text: str) -> None:
        """One line."""
        print(text, file=self._stream, flush=True)

    def show(self, state: dict[str, Any] | None, progress: dict[str, Any]) -> None:
        """The state, now and then."""
        self._beats += 1
        if progress and self._beats % 8 == 0:
            self.say("             " + summary(state, progress))


class LiveView:
    """A live picture with rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._events: deque[str] = deque(maxlen=12)
        self._live = Live(console=Console(), auto_refresh=False, transient=False)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """One line among the events."""
        self._events.append(text)

    def show(self, state: dict[str, Any] | None, progress: dict[str, Any]) -> None:
        """Draw nodes, stages, rates and the latest events."""
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        table = Table(title=summary(state, progress) if progress else "starting", expand=True)
        for column in ("node", "state", "stage", "done", "RSS MiB"):
            table.add_column(column, justify="right" if column in ("done", "RSS MiB") else "left")
        plan = state["plan"] if state else None
        hops = {hop["node"]: hop["parts"] for hop in plan["route"]} if plan else {}
        for node in state["nodes"] if state else []:
            style = {"active": "green", "joined": "yellow", "absent": "dim"}.get(
                node["state"], "bold red"
            )
            table.add_row(
                node["node"],
                f"[{style}]{node['state']}[/]",
                escape(" ".join(hops.get(node["node"], ()))),
                str(node["done"]),
                f"{node['rss_mib']:.0f}",
            )
        text = Text("\n".join(self._events))
        text.highlight_regex(r"FAILOVER.*|NO PLAN.*|.*SIG(KILL|STOP).*", "bold red")
        text.highlight_regex(r"healed.*|.*taken back in.*", "bold green")
        self._live.update(Group(table, text), refresh=True)


def summary(state: dict[str, Any] | None, progress: dict[str, Any]) -> str:
    """Plan, counts and accuracy so far in one line."""
    plan = state["plan"]["technique"] if state and state["plan"] else "no plan"
    answered, labelled = progress["answered"], progress["labelled"]
    accuracy = f"{100 * progress['right'] / labelled:.2f} %" if labelled else "-"
    rate = state["rate_per_s"] if state else 0
    return (
        f"plan {state['version'] if state else '-'} ({plan})  {rate:.0f}/s  "
        f"sent {progress['sent']}  answered {answered}  degraded {progress['degraded']}  "
        f"errors {progress['error']}  accuracy so far {accuracy}"
    )


def make_view(*, json_wanted: bool) -> PlainView | LiveView:
    """A live picture on a terminal; lines on standard error otherwise."""
    if json_wanted or not sys.stdout.isatty():
        return PlainView(sys.stderr)
    return LiveView()
