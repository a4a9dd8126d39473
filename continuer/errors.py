"""Every error that CONTINUER raises on purpose, and the exit codes of its commands.

An error message names the field, the value and the remedy. Anything else that
escapes is a defect.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_UNHEALTHY = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 69
EXIT_PERMISSION = 77
EXIT_CONFIG = 78


class ContinuerError(Exception):
    """Base of all deliberate errors; ``exit_code`` is what a command returns for it."""

    exit_code = EXIT_UNHEALTHY


class ConfigError(ContinuerError):
    """A configuration file or option is wrong: names the key, the value, the remedy."""

    exit_code = EXIT_CONFIG

    def __init__(self, key: str, value: object, remedy: str) -> None:
        super().__init__(f"{key} = {value!r}: {remedy}")
        self.key = key
        self.value = value
        self.remedy = remedy


class BundleError(ContinuerError):
    """A bundle is missing, truncated, altered or contradicts itself."""

    exit_code = EXIT_CONFIG


class ModelError(BundleError):
    """A model file cannot be used: malformed, refused by the runtime, or a danger to it."""

    exit_code = EXIT_UNHEALTHY


class WireError(ContinuerError):
    """Bytes from a socket are not a message of this protocol. Never fatal."""


class UsageError(ContinuerError):
    """A command was called in a way that cannot work."""

    exit_code = EXIT_USAGE


class AccessError(ContinuerError):
    """The user of the command may not do this: names the file and who may."""

    exit_code = EXIT_PERMISSION


class UnreachableError(ContinuerError):
    """No daemon answers at the given endpoint."""

    exit_code = EXIT_UNREACHABLE


class RequestError(ContinuerError):
    """A request was refused or failed; ``code`` is stable, the text is for people.

    Codes: ``bad_input``, ``unknown_model``, ``unknown_class``, ``busy``, ``deadline``,
    ``quarantined``, ``no_plan``, ``failed``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
