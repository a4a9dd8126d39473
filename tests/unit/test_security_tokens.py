"""Tokens: good once, for a while, and not to be read out of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from continuer.errors import ConfigError, UsageError
from continuer.security.tokens import FILE, MAX_TOKENS, Tokens

NOW = 1_000_000.0


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / FILE)


def test_a_token_is_good_once(tokens: Tokens) -> None:
    made = tokens.create("secret", "agent", "n1", 60, NOW)
    assert tokens.check("secret", NOW + 1) == made
    assert tokens.check("Secret", NOW + 1) is None
    tokens.spend(made)
    assert tokens.check("secret", NOW + 1) is None


def test_a_token_is_good_for_a_while(tokens: Tokens) -> None:
    tokens.create("secret", "agent", None, 60, NOW)
    assert tokens.open(NOW + 59)
    assert not tokens.open(NOW + 60)
    assert tokens.check("secret", NOW + 60) is None
    assert tokens.check("secret", NOW) is None, "what has expired stays so if the clock goes back"


def test_what_was_spent_stays_so_after_a_restart(tokens: Tokens, tmp_path: Path) -> None:
    one = tokens.create("one", "agent", "n1", 60, NOW)
    tokens.create("two", "client", None, 60, NOW)
    tokens.spend(one)
    again = Tokens(tmp_path / FILE)
    assert again.check("one", NOW) is None
    found = again.check("two", NOW)
    assert found is not None
    assert (found.role, found.name) == ("client", None)


def test_the_file_holds_no_secret_and_is_its_owners(tokens: Tokens, tmp_path: Path) -> None:
    tokens.create("a very secret word", "operator", None, 60, NOW)
    assert "very secret" not in (tmp_path / FILE).read_text()
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_a_token_is_revoked_by_its_id(tokens: Tokens) -> None:
    made = tokens.create("secret", "agent", "n1", 60, NOW)
    tokens.spend(tokens.named(made.id))
    assert tokens.check("secret", NOW) is None
    with pytest.raises(UsageError, match="none is open"):
        tokens.named(made.id)


@pytest.mark.parametrize("ttl_s", [0, -1, 8 * 86400, float("nan"), float("inf")])
def test_a_token_is_not_for_ever(tokens: Tokens, ttl_s: float) -> None:
    with pytest.raises(UsageError, match="ttl"):
        tokens.create("secret", "agent", None, ttl_s, NOW)


def test_tokens_are_bounded_and_expired_ones_do_not_count(tokens: Tokens) -> None:
    for k in range(MAX_TOKENS):
        tokens.create(str(k), "agent", None, 60, NOW)
    with pytest.raises(UsageError, match="are open"):
        tokens.create("one more", "agent", None, 60, NOW)
    tokens.create("later", "agent", None, 60, NOW + 61)


@pytest.mark.parametrize("raw", [b"{", b"[1]", b'[{"digest": 3}]', b'{"a": 1}', b'["\xee"]'])
def test_a_damaged_file_is_said_not_ignored(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / FILE).write_bytes(raw)
    with pytest.raises(ConfigError, match="repair or remove"):
        Tokens(tmp_path / FILE)
