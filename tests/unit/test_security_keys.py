"""Keys, the ring and credentials on disk: what is refused, and what nobody else may read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from continuer.errors import ConfigError, UsageError
from continuer.security import credentials, keys, provision, ring
from continuer.security.credentials import Joined
from continuer.security.identity import Identity, split, with_key


def test_a_key_comes_back_as_it_was_written_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    pair = keys.make()
    keys.save(tmp_path / "keys", pair)
    assert keys.load(tmp_path / "keys") == pair
    assert (tmp_path / "keys" / keys.FILE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away: run as root")
def test_what_root_makes_for_a_daemon_belongs_to_the_daemons_user(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    os.chown(state_dir, 12345, 54321)
    provision.new_coordinator(state_dir, Identity("me", "operator", keys.make().public))
    for path in (state_dir / "keys", *(state_dir / "keys").iterdir()):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321), path


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    keys.save(tmp_path, keys.make())
    (tmp_path / keys.FILE).chmod(mode)
    with pytest.raises(ConfigError, match="others may use it"):
        keys.load(tmp_path)


def test_a_public_key_that_is_not_the_secrets_is_refused(tmp_path: Path) -> None:
    pair, other = keys.make(), keys.make()
    keys.save(tmp_path, keys.KeyPair(other.public, pair.secret))
    with pytest.raises(ConfigError, match="does not belong to the secret"):
        keys.load(tmp_path)


def test_a_damaged_secret_is_refused_and_not_shown(tmp_path: Path) -> None:
    pair = keys.make()
    keys.save(tmp_path, keys.KeyPair(pair.public, pair.secret[:-1]))
    with pytest.raises(ConfigError, match="secret") as caught:
        keys.load(tmp_path)
    assert pair.secret[:-1] not in str(caught.value)
    assert pair.secret not in repr(pair)


@pytest.mark.parametrize("kind", ["public", "secret"])
def test_a_key_that_says_more_than_its_bytes_can_hold_is_refused(tmp_path: Path, kind: str) -> None:
    """Five characters of Z85 reach beyond 2^32; found by fuzzing."""
    pair = keys.make()
    wrong = {"public": pair.public, "secret": pair.secret, kind: "#####" + "0" * 35}
    path = tmp_path / keys.FILE
    path.write_text("".join(f'{name} = "{value}"\n' for name, value in wrong.items()))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=kind):
        keys.load(tmp_path)


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="continuer join"):
        keys.load(tmp_path)


def test_an_endpoint_keeps_its_key_whatever_characters_it_has() -> None:
    for _ in range(50):
        public = keys.make().public
        endpoint = with_key("tcp://[::1]:7400", public)
        assert split(endpoint) == ("tcp://[::1]:7400", public)
        assert with_key(endpoint, "k" * 40) == "tcp://[::1]:7400#" + "k" * 40
    assert split("tcp://h:1") == ("tcp://h:1", None)


def test_the_ring_comes_back_as_it_was_written(tmp_path: Path) -> None:
    identities = tuple(Identity(f"n{i}", "agent", keys.make().public) for i in range(20))
    ring.save(tmp_path, identities)
    assert ring.load(tmp_path) == identities
    assert ring.load(tmp_path / "elsewhere") == ()


@pytest.mark.parametrize(
    "text",
    [
        "keys = 3",
        '[[keys]]\nname = "n1"\nrole = "king"\npublic = "x"',
        '[[keys]]\nname = "n1"\nrole = "agent"\npublic = "short"',
        '[[keys]]\nname = "n1"\nrole = "agent"\n',
        "[[keys",
    ],
)
def test_a_damaged_ring_is_refused_as_a_whole(tmp_path: Path, text: str) -> None:
    (tmp_path / ring.FILE).write_text(text)
    with pytest.raises(ConfigError):
        ring.load(tmp_path)


def test_a_key_that_stands_for_two_is_refused(tmp_path: Path) -> None:
    public = keys.make().public
    ring.save(tmp_path, [Identity("n1", "agent", public), Identity("boss", "operator", public)])
    with pytest.raises(ConfigError, match="twice"):
        ring.load(tmp_path)


def test_replacing_the_ring_says_whose_keys_are_not_good_any_more() -> None:
    one, two = (Identity(name, "agent", keys.make().public) for name in ("n1", "n2"))
    known = ring.Ring([one, two])
    assert known.replace([two]) == {one.public}
    assert known.find(one.public) is None
    assert known.find(two.public) == two
    assert known.named("n1") == ()


def test_a_coordinators_key_is_never_made_twice(tmp_path: Path) -> None:
    operator = Identity("me", "operator", keys.make().public)
    pair = provision.new_coordinator(tmp_path, operator)
    with pytest.raises(UsageError, match="exists"):
        provision.new_coordinator(tmp_path, operator)
    assert keys.load(tmp_path / "keys") == pair
    assert ring.Ring(ring.load(tmp_path / "keys")).coordinator == pair.public


# --- credentials --------------------------------------------------------------------------

SERVER = "s" * 40


@pytest.fixture
def joined(tmp_path: Path) -> Path:
    where = tmp_path / "mine"
    pair = keys.make()
    provision.new_credentials(
        where,
        pair,
        Joined(
            "me", "operator", "c", f"tcp://127.0.0.1:7401#{SERVER}", f"tcp://127.0.0.1:7400#{SERVER}",
            (f"tcp://10.0.0.2:7410#{'i' * 40}",),
        ),
        [Identity("me", "operator", pair.public)],
    )  # fmt: skip
    return where


def test_named_credentials_never_let_anything_out_in_the_clear(joined: Path) -> None:
    found = credentials.find(joined)
    assert found is not None
    for endpoint in ("tcp://127.0.0.1:9999", "tcp://10.0.0.1:7401", "tcp://127.0.0.1:7401"):
        assert found.control(endpoint) == f"{endpoint}#{SERVER}"
        assert found.pair_for(endpoint) == found.pair


def test_credentials_that_lie_about_leave_other_clusters_on_this_machine_alone(
    joined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(credentials.VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(joined.parent))
    (joined.parent / ".config/continuer").mkdir(parents=True)
    joined.rename(joined.parent / ".config/continuer/keys")
    found = credentials.find()
    assert found is not None
    assert found.pair_for("tcp://127.0.0.1:9999") is None
    assert found.control("tcp://127.0.0.1:9999") == "tcp://127.0.0.1:9999"
    # But our own cluster is our own, and beyond this machine nothing is in the clear.
    assert found.control("tcp://127.0.0.1:7401") == f"tcp://127.0.0.1:7401#{SERVER}"
    assert found.pair_for("tcp://10.0.0.9:7410") == found.pair
    assert credentials.known_control() == f"tcp://127.0.0.1:7401#{SERVER}"


def test_an_ingress_is_known_by_its_address_and_by_none_too(joined: Path) -> None:
    found = credentials.find(joined)
    assert found is not None
    known = f"tcp://10.0.0.2:7410#{'i' * 40}"
    assert found.ingresses([]) == [known]
    assert found.ingresses(["tcp://10.0.0.2:7410"]) == [known]
    assert found.ingresses(["tcp://10.0.0.3:7410"]) == ["tcp://10.0.0.3:7410"]


def test_without_credentials_there_are_none_unless_they_were_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(credentials.VARIABLE, raising=False)
    assert credentials.find() is None
    assert credentials.known_control() is None
    with pytest.raises(ConfigError):
        credentials.find(tmp_path)
    monkeypatch.setenv(credentials.VARIABLE, os.fspath(tmp_path))
    with pytest.raises(ConfigError):
        credentials.find()
