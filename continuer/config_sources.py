"""Where a configuration's values come from: flags over environment over files.

Files are ``agent.toml`` and, after it in the order of their names, ``agent.d/*.toml`` beside it;
a later file's keys override an earlier one's, tables are joined. In the environment a key is
``CONTINUER_HEARTBEAT_MS``, on the command line ``--heartbeat-ms``; a table's key carries the
table's name, as in ``--objectives-min-accuracy``.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from continuer.errors import AccessError, ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "CONTINUER_"


class Setting(NamedTuple):
    """A key that may be given outside of a file, and its type."""

    path: tuple[str, ...]
    type: Any

    @property
    def variable(self) -> str:
        """The environment's name for it."""
        return PREFIX + "_".join(self.path).upper()

    @property
    def flag(self) -> str:
        """The command line's name for it."""
        return "--" + "-".join(self.path).replace("_", "-")


class Sources(NamedTuple):
    """Values, and which source has set a dotted key where it is not the main file."""

    values: dict[str, Any]
    origins: dict[str, str]


def settings(kind: type[msgspec.Struct], path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """All keys of a kind of configuration, tables' too; not those whose names users choose."""
    for field in msgspec.structs.fields(kind):
        own = (*path, field.encode_name)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from settings(field.type, own)
        elif get_origin(field.type) is not dict:
            yield Setting(own, field.type)


def gather(
    file: Path, kind: type[msgspec.Struct], environ: Mapping[str, str], flags: Mapping[str, str]
) -> Sources:
    """All values of a daemon's configuration. Raises ConfigError, or AccessError.

    ``flags``: texts by flag, such as ``{"--heartbeat-ms": "20"}``.
    """
    found = Sources({}, {})
    _join(found, read_toml(file), "")
    for extra in drop_ins(file):
        _join(found, read_toml(extra), str(extra))
    known = list(settings(kind))
    for setting in known:
        for texts, name in ((environ, setting.variable), (flags, setting.flag)):
            if texts.get(name, "") != "":
                _join(found, _nested(setting, texts[name]), name)
    _check_variables(environ, [setting.variable for setting in known])
    return found


def drop_ins(file: Path) -> list[Path]:
    """What is laid beside a file to override some of it, in order."""
    return sorted(file.with_suffix(".d").glob("*.toml"))


def read_toml(path: Path) -> dict[str, Any]:
    """A file's values. Raises ConfigError where it is no TOML, AccessError where it is secret."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except PermissionError as error:
        raise AccessError(f"{path}: {error.strerror}; run this as root or its owner") from error
    except OSError as error:
        raise ConfigError(
            "--config", str(path), f"{error.strerror}; give a readable file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError("--config", str(path), f"not valid TOML: {error}") from error
    return values


def _join(found: Sources, more: Mapping[str, Any], origin: str) -> None:
    _join_table(found.values, more)
    found.origins.update(dict.fromkeys(_keys(more, ""), origin))


def _join_table(table: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        old = table.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _join_table(old, value)
        else:
            table[key] = value


def _keys(table: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in table.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


def _nested(setting: Setting, text: str) -> dict[str, Any]:
    value: Any = _value(setting.type, text)
    for key in reversed(setting.path):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def _value(kind: Any, text: str) -> Any:
    """A text as the value that a file would hold; lists may be written ``n1,n2``."""
    kinds = {kind, *get_args(kind)} if get_origin(kind) is not tuple else {kind}
    if str in kinds or any(get_origin(k) is Literal for k in kinds):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.split(",") if get_origin(kind) is tuple else text


def _check_variables(environ: Mapping[str, str], known: list[str]) -> None:
    """A variable that is nearly one of ours is a misspelt one, which would change nothing."""
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
            if close:
                raise ConfigError(name, environ[name], f"unknown; did you mean {close[0]!r}?")
