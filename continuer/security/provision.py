"""Making keys without a daemon: a new coordinator's, and whole clusters on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from continuer.errors import UsageError
from continuer.security import credentials, keys, ring
from continuer.security.credentials import Joined
from continuer.security.identity import Identity, with_key
from continuer.security.keys import KeyPair
from continuer.security.start import COORDINATOR, DIRECTORY


def new_coordinator(state_dir: Path, operator: Identity) -> KeyPair:
    """A coordinator's key and ring, in which only it and this operator are known.

    Raises UsageError where there is one already: replacing it would lock every box out.
    """
    directory = state_dir / DIRECTORY
    if (directory / keys.FILE).exists():
        raise UsageError(f"{directory / keys.FILE}: exists; this coordinator has its key already")
    pair = keys.make()
    keys.save(directory, pair)
    ring.save(directory, [Identity(COORDINATOR, "coordinator", pair.public), operator])
    return pair


def new_credentials(directory: Path, pair: KeyPair, joined: Joined, others: list[Identity]) -> None:
    """What ``continuer join`` leaves behind in a directory of keys."""
    keys.save(directory, pair)
    ring.save(directory, others)
    credentials.save(directory, joined)


def whole_cluster(
    coordinator: Path, nodes: Mapping[str, Path], operator: Path, control: str, agents: str
) -> dict[str, str]:
    """Keys for a cluster on this machine: the state directories of its daemons, an operator's keys.

    Returns the public keys by name; the operator's is ``operator``.
    """
    pairs = {name: keys.make() for name in ("operator", *nodes)}
    own = Identity("operator", "operator", pairs["operator"].public)
    server = new_coordinator(coordinator, own)
    identities = [
        Identity(COORDINATOR, "coordinator", server.public),
        own,
        *(Identity(name, "agent", pairs[name].public) for name in nodes),
    ]
    ring.save(coordinator / DIRECTORY, identities)
    where = (with_key(control, server.public), with_key(agents, server.public))
    joined = Joined("operator", "operator", "continuer", *where)
    new_credentials(operator, pairs["operator"], joined, identities)
    for name, state_dir in nodes.items():
        own_joined = Joined(name, "agent", "continuer", *where)
        new_credentials(state_dir / DIRECTORY, pairs[name], own_joined, identities)
    return {COORDINATOR: server.public, **{name: pair.public for name, pair in pairs.items()}}
