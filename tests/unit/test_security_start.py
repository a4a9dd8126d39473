"""Whether a daemon uses keys: always where it has one, and never by accident without."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from continuer import config
from continuer.config import AgentConfig, CoordinatorConfig
from continuer.errors import ConfigError
from continuer.security import access, keys, provision, ring, start
from continuer.security.identity import Identity


class Silent:
    def emit(self, name: str, /, **fields: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def nothing_installed() -> Any:
    yield
    access.install(None)


def agent(tmp_path: Path, **values: Any) -> AgentConfig:
    raw = {
        "node": "n1", "bundle": "b", "coordinator": "tcp://10.0.0.1:7400",
        "state_dir": str(tmp_path), **values,
    }  # fmt: skip
    return config.parse(raw, AgentConfig)


def coordinator(tmp_path: Path, **values: Any) -> CoordinatorConfig:
    raw = {"bundle": "b", "nodes": ["n1"], "state_dir": str(tmp_path), **values}
    return config.parse(raw, CoordinatorConfig)


@pytest.mark.parametrize("make", [agent, coordinator])
@pytest.mark.parametrize(
    ("mode", "listen", "has_key", "used"),
    [
        ("auto", "127.0.0.1", False, False),
        ("auto", "::1", False, False),
        ("auto", "127.0.0.1", True, True),
        ("auto", "10.0.0.1", False, None),
        ("auto", "0.0.0.0", False, None),  # noqa: S104  # parsed only
        ("auto", "10.0.0.1", True, True),
        ("on", "127.0.0.1", False, None),
        ("on", "127.0.0.1", True, True),
        ("off", "10.0.0.1", False, False),
        ("off", "10.0.0.1", True, False),
    ],
)
def test_keys_are_used_where_there_are_any_and_demanded_beyond_this_machine(
    tmp_path: Path, make: Any, mode: str, listen: str, has_key: bool, used: bool | None
) -> None:
    settings = make(tmp_path, security=mode, listen=listen, **_advertise(make, listen))
    if has_key:
        keys.save(tmp_path / "keys", keys.make())
    if used is None:
        with pytest.raises(ConfigError, match="security = "):
            start.wanted(settings)
        with pytest.raises(ConfigError, match=r'security = "off"'):
            start.wanted(settings)
    else:
        assert start.wanted(settings) is used


def _advertise(make: Any, listen: str) -> dict[str, str]:
    return {"advertise": "10.0.0.1"} if make is agent and listen == "0.0.0.0" else {}  # noqa: S104


def test_an_agent_that_keeps_nothing_says_what_it_lacks(tmp_path: Path) -> None:
    settings = agent(tmp_path, listen="10.0.0.2", state_dir=None)
    with pytest.raises(ConfigError, match="state_dir"):
        start.wanted(settings)


def test_an_agent_insists_on_the_coordinator_that_it_joined(tmp_path: Path) -> None:
    server = keys.make()
    keys.save(tmp_path / "keys", keys.make())
    ring.save(tmp_path / "keys", [Identity("coordinator", "coordinator", server.public)])
    start.arrange(agent(tmp_path), Silent())
    assert start.coordinator_endpoint("tcp://h:1") == f"tcp://h:1#{server.public}"
    assert start.coordinator_endpoint(f"tcp://h:1#{'k' * 40}") == f"tcp://h:1#{'k' * 40}"


def test_an_agent_that_does_not_know_its_coordinator_does_not_start(tmp_path: Path) -> None:
    keys.save(tmp_path / "keys", keys.make())
    start.arrange(agent(tmp_path), Silent())
    with pytest.raises(ConfigError, match="coordinator"):
        start.coordinator_endpoint("tcp://h:1")


def test_a_coordinator_whose_ring_is_lost_does_not_start(tmp_path: Path) -> None:
    pair = provision.new_coordinator(tmp_path, Identity("me", "operator", keys.make().public))
    start.arrange(coordinator(tmp_path), Silent())
    installed = access.installed()
    assert installed is not None
    assert installed.pair == pair
    (tmp_path / "keys" / ring.FILE).unlink()
    with pytest.raises(ConfigError, match="does not list our own key"):
        start.arrange(coordinator(tmp_path), Silent())


def test_an_endpoint_in_a_configuration_may_name_a_key(tmp_path: Path) -> None:
    public = keys.make().public
    agent(tmp_path, coordinator=f"tcp://10.0.0.1:7400#{public}")
    for wrong in ("#short", "#", f"#{public}x"):
        with pytest.raises(ConfigError, match="coordinator"):
            agent(tmp_path, coordinator=f"tcp://10.0.0.1:7400{wrong}")


def test_a_daemon_may_have_as_many_connections_as_the_system_permits(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        start.arrange(agent(tmp_path), Silent())
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(before[1], start.MAX_FILES)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
