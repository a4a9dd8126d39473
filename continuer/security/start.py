"""Whether a daemon uses keys, and which: decided once, before it makes a socket.

By default it does wherever it has a key. Without one it serves this machine only: at another
address it does not start, unless the configuration says in so many words that it shall be open.
"""

from __future__ import annotations

import ipaddress
import resource
from pathlib import Path

from continuer.config import AgentConfig, CoordinatorConfig
from continuer.errors import ConfigError
from continuer.security import access, keys, ring
from continuer.security.access import Access, Emitter
from continuer.security.identity import Identity, split, with_key
from continuer.security.keys import FILE

DIRECTORY = "keys"
COORDINATOR = "coordinator"
MAX_FILES = 1 << 16


def directory_of(config: AgentConfig | CoordinatorConfig) -> Path | None:
    """Where a daemon's keys are; None where it keeps nothing."""
    return Path(config.state_dir) / DIRECTORY if config.state_dir else None


def wanted(config: AgentConfig | CoordinatorConfig) -> bool:
    """Whether the daemon uses keys; raises ConfigError where it would have to, but has none."""
    if config.security == "off":
        return False
    directory = directory_of(config)
    if directory is not None and (directory / FILE).exists():
        return True
    local = ipaddress.ip_address(config.listen).is_loopback
    if config.security == "auto" and local:
        return False
    if directory is None:
        raise ConfigError("state_dir", None, "set it: the keys of this daemon are kept there")
    how = (
        "'continuer node init --config FILE'"
        if isinstance(config, CoordinatorConfig)
        else "the 'continuer join' line that 'continuer token create' prints"
    )
    why = "" if local else f"listen = {config.listen!r} is open to others, and "
    raise ConfigError(
        "security", config.security, f"{why}there is no key in {directory}; make one with {how}, "
        'or say security = "off" to let everyone in'
    )  # fmt: skip


def arrange(config: AgentConfig | CoordinatorConfig, journal: Emitter) -> Access | None:
    """Install this daemon's access, or none; raises ConfigError."""
    _allow_many_connections()
    if not wanted(config):
        access.install(None)
        return None
    directory = directory_of(config)
    assert directory is not None
    if isinstance(config, CoordinatorConfig) and (directory / keys.NEXT).exists():
        keys.load(directory, keys.NEXT)  # raises for one that cannot be used
        (directory / keys.NEXT).replace(directory / FILE)
    pair = keys.load(directory)
    identities = ring.load(directory)
    if isinstance(config, CoordinatorConfig):
        own = Identity(COORDINATOR, "coordinator", pair.public)
        if own not in identities:
            raise ConfigError(
                "keys", str(directory / ring.FILE), f"does not list our own key {pair.public}; "
                "restore it, or start anew with 'continuer node init'"
            )  # fmt: skip
        identities = _without_former(identities, own, directory)
    made = Access(pair, identities, directory, journal)
    access.install(made)
    return made


def _without_former(
    identities: tuple[Identity, ...], own: Identity, directory: Path
) -> tuple[Identity, ...]:
    """The ring without the keys that this coordinator had: whoever has one is nobody now."""
    kept = tuple(i for i in identities if i.role != "coordinator" or i == own)
    if kept != identities:
        ring.save(directory, kept)
    return kept


def _allow_many_connections() -> None:
    """Strangers' connections, each held for a second, must not use up the descriptors of all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted_files = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted_files, hard))


def coordinator_endpoint(endpoint: str) -> str:
    """The agents' port with the key that has to answer there, where we have keys."""
    own = access.installed()
    if own is None or split(endpoint)[1] is not None:
        return endpoint
    public = own.ring.coordinator
    if public is None:
        remedy = "its key is not known; give it as tcp://HOST:PORT#KEY, or join anew"
        raise ConfigError("coordinator", endpoint, remedy)
    return with_key(endpoint, public)


def next_endpoint(endpoint: str) -> str:
    """The coordinator's endpoint with the next of the keys that it may show; often the same.

    It is tried where the key that was tried before was not answered to: the coordinator may have
    started with the other one.
    """
    own = access.installed()
    where, public = split(endpoint)
    known = own.ring.coordinators if own is not None else ()
    if public is None or not known:
        return endpoint
    following = known.index(public) + 1 if public in known else 0
    return with_key(where, known[following % len(known)])
