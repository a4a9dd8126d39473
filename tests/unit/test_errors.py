"""Errors: what a command returns for each, and that the texts carry what they must."""

from __future__ import annotations

import pytest

from continuer import errors
from continuer.errors import ConfigError, ContinuerError, RequestError

EXIT_CODES = {
    "ContinuerError": 1,
    "ConfigError": 78,
    "BundleError": 78,
    "ModelError": 1,
    "WireError": 1,
    "UsageError": 2,
    "UnreachableError": 69,
    "RequestError": 1,
    "AccessError": 77,
}


def test_the_exit_code_of_every_error_is_a_promise_to_operators() -> None:
    found = {
        name: value.exit_code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, ContinuerError)
    }
    assert found == EXIT_CODES
    assert errors.EXIT_PERMISSION == 77


def test_a_configuration_error_says_key_value_and_remedy() -> None:
    error = ConfigError("listen", "everywhere", "give an address")
    assert str(error) == "listen = 'everywhere': give an address"
    assert (error.key, error.value, error.remedy) == ("listen", "everywhere", "give an address")


def test_a_request_error_has_a_stable_code_beside_its_text() -> None:
    error = RequestError("busy", "256 requests in flight")
    assert str(error) == "busy: 256 requests in flight"
    assert (error.code, error.message) == ("busy", "256 requests in flight")


def test_everything_raised_on_purpose_can_be_caught_at_once() -> None:
    with pytest.raises(ContinuerError):
        raise RequestError("busy", "try later")
