"""Events as structured entries of systemd's journal, each field of its own.

A daemon that systemd started has ``JOURNAL_STREAM`` in its environment: then entries go to
journald natively. systemd-python sends them where it is installed (the extra ``journald``).
Where it is not, this module speaks the protocol itself, which is what Debian's packages do:
https://systemd.io/JOURNAL_NATIVE_PROTOCOL. An entry that journald does not take is not lost:
it becomes the line of JSON on standard error that it would be without systemd.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO

import structlog

from continuer.events import journal_name

SOCKET = "/run/systemd/journal/socket"
# syslog's numbers, which journalctl -p filters by.
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

Fields = list[tuple[str, str]]
Send = Callable[[Fields], bool]


def reaches(environment: Mapping[str, str] = os.environ, stream: TextIO | None = None) -> bool:
    """True where standard error leads into the journal, as in a service of systemd's."""
    try:
        found = os.fstat((stream or sys.stderr).fileno())
    except (OSError, ValueError):  # closed, or no file
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def to_fields(event: Mapping[str, Any], message_id: str | None) -> Fields:
    """An event's fields under the names that the journal knows them by.

    A list becomes a field per element, and nodes are NODE as well: ``journalctl NODE=n3`` finds
    a failure of n2 and n3.
    """
    fields = [
        ("MESSAGE", message(event)),
        ("PRIORITY", str(PRIORITIES[event["level"]])),
        ("SYSLOG_IDENTIFIER", f"continuer-{event.get('role', 'daemon')}"),
    ]
    if message_id:
        fields.append(("MESSAGE_ID", message_id))
    for key, value in event.items():
        values = value if isinstance(value, list | tuple) else [value]
        names = [journal_name(key), *(["NODE"] if key == "nodes" else [])]
        fields += [(field, _text(one)) for field in names for one in values if one is not None]
    return fields


def message(event: Mapping[str, Any]) -> str:
    """The line that ``journalctl`` shows: the event's name, then its fields."""
    shown = {k: v for k, v in event.items() if k not in ("event", "level", "role")}
    parts = [f"{key}={_shown(value)}" for key, value in shown.items()]
    return " ".join([str(event["event"]), *parts])


def _shown(value: Any) -> str:
    values = value if isinstance(value, list | tuple) else [value]
    text = ",".join(_text(one) for one in values)
    return f'"{text}"' if " " in text else text


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value, separators=(",", ":"))
    return "" if value is None else str(value)


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """One datagram of the native protocol; values with line breaks carry their length."""
    lines = bytearray()
    for key, value in fields:
        raw = value.encode(errors="replace")
        if b"\n" in raw:
            lines += key.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n"
        else:
            lines += key.encode() + b"=" + raw + b"\n"
    return bytes(lines)


def send_datagram(fields: Fields, path: str = SOCKET) -> bool:
    """Give an entry to journald; False where it does not take it (not there, full, too long)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(encode(fields), socket.MSG_DONTWAIT, path)
        except OSError:
            return False
    return True


def make_send() -> Send:
    """systemd-python where it can be imported, else the protocol spoken here."""
    try:
        # Not an import statement: seen from our sources, the folder of units has that name.
        journal = importlib.import_module("systemd.journal")
    except ImportError:
        return send_datagram

    def send(fields: Fields) -> bool:
        # It says nothing when no journald runs, and then loses the entry.
        if not os.path.exists(SOCKET):  # noqa: PTH110  # a socket, on every event
            return False
        journal.sendv(*(f"{key}={value}" for key, value in fields))
        return True

    return send


class ToJournald:
    """A structlog processor: takes events out of the chain that journald has taken in."""

    def __init__(self, send: Send, message_id_of: Callable[[str], str | None]) -> None:
        self._send = send
        self._message_id_of = message_id_of

    def __call__(self, _: Any, __: str, event: structlog.typing.EventDict) -> Any:
        """Send the event; raises DropEvent once journald has it, else passes it on."""
        if self._send(to_fields(event, self._message_id_of(event["event"]))):
            raise structlog.DropEvent
        return event
