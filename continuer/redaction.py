"""Taking secrets out of what leaves a box: configurations, and texts that may quote them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

# A value whose key has one of these words in it leaves the box in no form.
SECRET = re.compile(r"secret|passw|token|private|credential|(^|_)key($|_)|psk", re.IGNORECASE)
USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")
REMOVED = "(removed)"
# Shorter ones would be found in innocent words.
SHORTEST = 4


def redacted(value: Any) -> Any:
    """A configuration without what a key's name calls secret, or a URL carries before its @."""
    if isinstance(value, Mapping):
        return {k: REMOVED if SECRET.search(k) else redacted(v) for k, v in value.items()}
    if isinstance(value, list):
        return [redacted(one) for one in value]
    return USER.sub(REMOVED, value) if isinstance(value, str) else value


def secrets(value: Any, *, inside: bool = False) -> Iterator[str]:
    """The secret texts of a configuration; ``inside``: all of it is below a key that names one."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from secrets(below, inside=inside or SECRET.search(key) is not None)
    elif isinstance(value, list):
        for below in value:
            yield from secrets(below, inside=inside)
    elif isinstance(value, str):
        found = [value] if inside else USER.findall(value)
        yield from (text for text in found if len(text) >= SHORTEST)


def scrubbed(found: Any, known: set[str]) -> Any:
    """Plain data without the secrets, also where a message quotes one."""
    if isinstance(found, Mapping):
        return {scrubbed(k, known): scrubbed(v, known) for k, v in found.items()}
    if isinstance(found, list):
        return [scrubbed(one, known) for one in found]
    if not isinstance(found, str):
        return found
    for secret in sorted(known, key=len, reverse=True):
        for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
            found = found.replace(form, REMOVED)
    return found
