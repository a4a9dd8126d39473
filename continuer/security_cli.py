"""``continuer token``, ``join`` and ``node``: who is let in, and who no longer is."""

from __future__ import annotations

import argparse
import ipaddress
import json
import re
import shlex
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import zmq

from continuer import config, sockets, wire
from continuer.cli_help import add_verb
from continuer.config import CoordinatorConfig
from continuer.control import Connection, add_options, ask
from continuer.errors import (
    EXIT_OK,
    ConfigError,
    ContinuerError,
    UnreachableError,
    UsageError,
    WireError,
)
from continuer.security import credentials, keys, provision, ring
from continuer.security.credentials import Joined
from continuer.security.identity import Identity, check_key, split, with_key
from continuer.security.keys import KeyPair
from continuer.security.start import DIRECTORY
from continuer.wire import Enrol, Enrolled, Refuse

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
ENROL_TIMEOUT_MS = 10_000
# Where an agent finds its key with the package and the sample configuration. Written there by root,
# it is given to the daemon's user.
AGENT_KEYS = "/var/lib/continuer-agent/keys"


def add_parser(commands: Any) -> None:
    """Add the three verbs to the command line."""
    _add_token(commands)
    _add_join(commands)
    _add_node(commands)


def _add_token(commands: Any) -> None:
    parser = add_verb(
        commands,
        "token",
        "let a new box or person in, once",
        "continuer token create --name n6\n"
        "continuer token create --role observer --name wall-display --ttl 1h\n"
        "continuer token revoke 1a2b3c4d",
        "'create' prints one line to be run on the new box. Whoever runs it first gets in, so "
        "hand it over as you would a password.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    create = add_verb(
        verbs,
        "create",
        "print the line that a new box has to run",
        "continuer token create --name n6\ncontinuer token create --role client --ttl 1h",
    )
    create.add_argument("--ttl", default="15m", help="for how long it is good: 90s, 15m, 2h, 1d")
    create.add_argument("--role", default="agent", help="agent, client, observer or operator")
    create.add_argument("--name", help="the box's name; left out, whoever joins says it")
    create.add_argument("--host", help="address of the coordinator as the new box reaches it")
    create.set_defaults(handler=run_create)
    listing = add_verb(verbs, "list", "tokens that are open", "continuer token list")
    listing.set_defaults(handler=run_tokens)
    revoke = add_verb(
        verbs, "revoke", "close a token that was not used", "continuer token revoke 1a2b3c4d"
    )
    revoke.add_argument("id", help="as 'token list' shows it")
    revoke.set_defaults(handler=run_revoke_token)
    for verb in (create, listing, revoke):
        add_options(verb)


def _add_join(commands: Any) -> None:
    parser = add_verb(
        commands,
        "join",
        "make a key here and have it known, with a token",
        f"sudo continuer join 'tcp://10.0.0.1:7403#KEY' TOKEN --keys {AGENT_KEYS}",
        "Nothing is sent before the other side has proved that it has KEY. The secret key never "
        "leaves this machine.",
    )
    parser.add_argument("endpoint", metavar="tcp://HOST:PORT#KEY")
    parser.add_argument("token")
    parser.add_argument("--name", default="", help="where the token leaves the name open")
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="DIRECTORY",
        help="where to keep the key; for an agent, 'keys' in its state_dir. Else CONTINUER_KEYS, "
        "or ~/.config/continuer/keys",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(handler=run_join)


def _add_node(commands: Any) -> None:
    parser = add_verb(
        commands,
        "node",
        "list and revoke keys, and make new ones",
        "continuer node init --config /etc/continuer/coordinator.toml\n"
        "continuer node list\n"
        "continuer node revoke n3\n"
        f"continuer node rotate --keys {AGENT_KEYS}\n"
        "continuer node rotate-coordinator",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    init = add_verb(
        verbs,
        "init",
        "make a coordinator's key, and an operator's for you",
        "continuer node init --config /etc/continuer/coordinator.toml",
    )
    init.add_argument("--config", required=True, metavar="FILE", help="the coordinator's")
    init.add_argument("--operator", default="operator", metavar="NAME")
    init.add_argument("--keys", type=Path, metavar="DIRECTORY", help="for the operator's key")
    init.set_defaults(handler=run_init)
    listing = add_verb(verbs, "list", "whose keys are known", "continuer node list")
    listing.set_defaults(handler=run_nodes)
    revoke = add_verb(
        verbs, "revoke", "cut somebody off, now and for good", "continuer node revoke n3"
    )
    revoke.add_argument("name")
    revoke.set_defaults(handler=run_revoke)
    rotate = add_verb(
        verbs,
        "rotate",
        "replace the key of this machine",
        f"continuer node rotate --keys {AGENT_KEYS}",
    )
    rotate.add_argument("--keys", type=Path, metavar="DIRECTORY")
    rotate.add_argument("--json", action="store_true", help="one JSON object")
    rotate.set_defaults(handler=run_rotate)
    renew = add_verb(
        verbs,
        "rotate-coordinator",
        "make the coordinator's next key",
        "continuer node rotate-coordinator",
        "The coordinator uses it from its next start, and with that the old one is good no more. "
        "Agents hear of it now, so see that all are there; they find it by themselves then.",
    )
    renew.set_defaults(handler=run_rotate_coordinator)
    trust = add_verb(
        verbs,
        "trust",
        "take the coordinator's new key into this machine's credentials",
        "continuer node trust KEY",
    )
    trust.add_argument("key", metavar="KEY", help="as 'node rotate-coordinator' has printed it")
    trust.add_argument("--keys", type=Path, metavar="DIRECTORY")
    trust.set_defaults(handler=run_trust)
    for verb in (listing, revoke, renew):
        add_options(verb)


# --- tokens -------------------------------------------------------------------------------


def seconds(text: str) -> float:
    """A duration such as 90s, 15m, 2h or 1d; raises UsageError."""
    found = re.fullmatch(r"(\d{1,7})([smhd])", text)
    if found is None:
        raise UsageError(f"--ttl {text!r}: give a time such as 90s, 15m, 2h or 1d")
    return float(found.group(1)) * UNITS_S[found.group(2)]


def run_create(options: argparse.Namespace) -> int:
    """Create a token and print the line that uses it."""
    made = ask(
        options.coordinator, "token.create",
        role=options.role, name=options.name, ttl_s=seconds(options.ttl),
    )  # fmt: skip
    host = options.host or _reachable(made["listen"], options.coordinator)
    endpoint = with_key(sockets.endpoint(host, made["join_port"]), made["key"])
    where = ["--keys", AGENT_KEYS] if options.role == "agent" else []
    line = shlex.join(["continuer", "join", endpoint, made["token"], *where])
    print(json.dumps({**made, "line": line}) if options.json else line)
    return EXIT_OK


def _reachable(listen: str, control: str) -> str:
    """Where a new box finds the coordinator: where it listens, or where we have found it."""
    candidates = (listen, urlsplit(split(control)[0]).hostname or "")
    for host in candidates:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return host
        if not (address.is_unspecified or address.is_loopback):
            return host
    if ipaddress.ip_address(listen).is_loopback:
        return listen  # it serves this machine only
    # No packet is sent by this: the system only says which of its addresses it would use.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            raise UsageError("--host: give the coordinator's address as the box sees it") from None


def run_tokens(options: argparse.Namespace) -> int:
    """Print the open tokens."""
    found = ask(options.coordinator, "token.list")
    rows = [(t["id"], t["role"], t["name"] or "any", f"{t['left_s']} s") for t in found["tokens"]]
    _print(options, found, ("ID", "ROLE", "NAME", "LEFT"), rows)
    return EXIT_OK


def run_revoke_token(options: argparse.Namespace) -> int:
    """Close a token."""
    done = ask(options.coordinator, "token.revoke", id=options.id)
    print(json.dumps({"schema": 1, **done}) if options.json else f"{done['id']} is closed")
    return EXIT_OK


# --- joining ------------------------------------------------------------------------------


def run_join(options: argparse.Namespace) -> int:
    """Make a key, have it known, keep what is needed to take part."""
    where = credentials.directory(options.keys)
    config.check_endpoint("endpoint", options.endpoint)
    if split(options.endpoint)[1] is None:
        raise UsageError("endpoint: it has to name the coordinator's key, tcp://HOST:PORT#KEY")
    if (where / keys.FILE).exists():
        raise UsageError(
            f"{where / keys.FILE}: exists; this machine has joined already. Move it away to join "
            "anew, or use 'continuer node rotate'"
        )
    pair = keys.make()
    begun = time.monotonic()
    enrolled = enrol(options.endpoint, pair, options.token, options.name)
    joined = _joined(options.endpoint, enrolled)
    provision.new_credentials(where, pair, joined, list(enrolled.keys))
    answer = {
        "schema": 1, "name": enrolled.name, "role": enrolled.role, "keys": str(where),
        "agents": joined.agents, "control": joined.control,
        "took_ms": round((time.monotonic() - begun) * 1e3, 1),
    }  # fmt: skip
    text = f"{enrolled.name} is known as {enrolled.role}; its key is in {where}"
    print(json.dumps(answer) if options.json else text)
    return EXIT_OK


def enrol(endpoint: str, pair: KeyPair, token: str, name: str) -> Enrolled:
    """Have a key known. Raises UnreachableError, or ContinuerError with the refusal's reason."""
    context: zmq.Context[Any] = zmq.Context()
    try:
        sock = sockets.make(context, zmq.DEALER, wire.MAX_CONTROL_BYTES)
        sockets.dial(sock, endpoint, pair)
        # With IMMEDIATE nothing is queued before the handshake, in which the server proves itself.
        if not sock.poll(ENROL_TIMEOUT_MS, zmq.POLLOUT):
            raise UnreachableError(
                f"{split(endpoint)[0]}: no entry; the address or the key is wrong, or no token is "
                "open there: ask for a new one"
            )
        sock.send(wire.encode(Enrol(token, name)), zmq.NOBLOCK)
        if not sock.poll(ENROL_TIMEOUT_MS):
            raise UnreachableError(f"{split(endpoint)[0]}: no answer; try again")
        answer = wire.decode(sock.recv(), Enrolled, Refuse)
    except (zmq.ZMQError, WireError) as error:
        raise UnreachableError(f"{split(endpoint)[0]}: {error}") from error
    finally:
        context.destroy(linger=0)
    if isinstance(answer, Enrolled):
        return answer
    assert isinstance(answer, Refuse)
    raise ContinuerError(answer.message)


def _joined(endpoint: str, enrolled: Enrolled) -> Joined:
    where, key = split(endpoint)
    host = where.rpartition(":")[0]
    return Joined(
        enrolled.name,
        enrolled.role,
        enrolled.cluster,
        with_key(f"{host}:{enrolled.control_port}", key),
        with_key(f"{host}:{enrolled.agents_port}", key),
        tuple(ingress for _, ingress in enrolled.ingresses),
    )


# --- nodes --------------------------------------------------------------------------------


def run_init(options: argparse.Namespace) -> int:
    """Make a coordinator's key, and an operator's for whoever runs this."""
    settings = config.load(options.config, CoordinatorConfig)
    if settings.state_dir is None:
        raise ConfigError("state_dir", None, "set it: the coordinator's keys are kept there")
    where = credentials.directory(options.keys)
    if (where / keys.FILE).exists():
        raise UsageError(f"{where / keys.FILE}: exists; give another directory with --keys")
    pair = keys.make()
    operator = Identity(options.operator, "operator", pair.public)
    server = provision.new_coordinator(Path(settings.state_dir), operator)
    host = "127.0.0.1" if ipaddress.ip_address(settings.listen).is_unspecified else settings.listen
    control, agents = (
        with_key(sockets.endpoint(host, port), server.public)
        for port in (settings.control_port, settings.agents_port)
    )
    joined = Joined(options.operator, "operator", settings.cluster, control, agents)
    directory = Path(settings.state_dir) / DIRECTORY
    provision.new_credentials(where, pair, joined, list(ring.load(directory)))
    print(
        f"the coordinator's key is in {directory}, an operator's in {where}; restart the "
        "coordinator, then 'continuer token create' for every box"
    )
    return EXIT_OK


def run_nodes(options: argparse.Namespace) -> int:
    """Print whose keys are known."""
    found = ask(options.coordinator, "node.list")
    rows = [(n["name"], n["role"], n["public"]) for n in found["nodes"]]
    _print(options, found, ("NAME", "ROLE", "KEY"), rows)
    return EXIT_OK


def run_revoke(options: argparse.Namespace) -> int:
    """Cut somebody off."""
    done = ask(options.coordinator, "node.revoke", name=options.name)
    print(json.dumps({"schema": 1, **done}) if options.json else f"{done['name']} is out")
    return EXIT_OK


def run_rotate(options: argparse.Namespace) -> int:
    """Replace this machine's key; both are good until the new one has been used."""
    where = credentials.directory(options.keys)
    old, pair = keys.load(where), keys.make()
    control = credentials.joined(where).control
    with Connection(control, old) as connection:
        told = connection.ask("node.rotate", public=pair.public)
    keys.save(where, pair)
    if told["role"] == "agent":
        text = f"{told['name']} has a new key; restart its agent to use it"
    else:
        with Connection(control, pair) as connection:
            connection.ask("node.confirm")
        text = f"{told['name']} has a new key; the old one is not good any more"
    print(json.dumps({"schema": 1, **told}) if options.json else text)
    return EXIT_OK


def run_rotate_coordinator(options: argparse.Namespace) -> int:
    """Have the coordinator make its next key."""
    made = ask(options.coordinator, "node.rotate_coordinator")
    text = (
        f"the coordinator's next key is {made['public']}; restart the coordinator to use it. Then, "
        f"wherever somebody gives orders:\ncontinuer node trust {made['public']}"
    )
    print(json.dumps({"schema": 1, **made}) if options.json else text)
    return EXIT_OK


def run_trust(options: argparse.Namespace) -> int:
    """From now on insist on this key of the coordinator's."""
    check_key("KEY", options.key)
    where = credentials.directory(options.keys)
    joined = credentials.joined(where)
    control, agents = (
        with_key(split(endpoint)[0], options.key) for endpoint in (joined.control, joined.agents)
    )
    credentials.save(where, msgspec.structs.replace(joined, control=control, agents=agents))
    print(f"{where / credentials.FILE} names the key now")
    return EXIT_OK


def _print(
    options: argparse.Namespace,
    found: dict[str, Any],
    head: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
) -> None:
    """A table, or what was found as one JSON object."""
    if options.json:
        print(json.dumps(found))
        return
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
