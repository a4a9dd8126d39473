"""``continuer config``: a sample to begin with, and what is wrong with a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from continuer import config, config_docs
from continuer.cli_help import add_verb
from continuer.config import AgentConfig, CoordinatorConfig
from continuer.config_sources import read_toml
from continuer.errors import EXIT_CONFIG, EXIT_OK, ConfigError

ROLES = ("agent", "coordinator")
# Heartbeats that must fit the timeout: with fewer, one that is late is a suspicion.
BEATS = 2


class Finding(msgspec.Struct):
    """What is to say of one file; ``key``, ``value`` and ``remedy`` only where it is not ok."""

    file: str
    role: str
    ok: bool
    key: str | None = None
    value: Any = None
    remedy: str | None = None

    def text(self) -> str:
        """A line for people."""
        if self.ok:
            return f"{self.file}: ok ({self.role})"
        return f"{self.file}: {self.key} = {self.value!r}: {self.remedy}"


def add_parser(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser("config", help="print a sample configuration, check a file")
    verbs = parser.add_subparsers(metavar="sample|check", required=True)
    sample = add_verb(
        verbs,
        "sample",
        "print a configuration with every key explained",
        "continuer config sample agent > agent.toml\ncontinuer config sample coordinator",
    )
    sample.add_argument("role", choices=ROLES)
    sample.set_defaults(handler=run_sample)
    check = add_verb(
        verbs,
        "check",
        "say what is wrong with configuration files",
        "continuer config check /etc/continuer/agent.toml\n"
        "continuer config check coordinator.toml n1.toml n2.toml",
        "Checks each file with the drop-ins beside it (agent.d/*.toml), and files of one cluster "
        "against each other. Exit code 78 and key, value and remedy where something is wrong.",
    )
    check.add_argument("file", nargs="+", type=Path, metavar="FILE")
    check.add_argument("--role", choices=ROLES, help="guessed from the keys if left out")
    check.add_argument("--json", action="store_true", help="one JSON object")
    check.set_defaults(handler=run_check)


def run_sample(options: argparse.Namespace) -> int:
    """Print a sample."""
    sys.stdout.write(config_docs.sample(options.role))
    return EXIT_OK


def run_check(options: argparse.Namespace) -> int:
    """Check the files, then their relations; 78 where one is not ok."""
    findings: list[Finding] = []
    read: list[tuple[Path, AgentConfig | CoordinatorConfig]] = []
    for file in options.file:
        role = options.role or ""
        try:
            role = role or guess_role(file)
            read.append((file, read_config(file, role)))
            findings.append(Finding(str(file), role, ok=True))
        except ConfigError as error:
            where = (error.key, error.value, error.remedy)
            findings.append(Finding(str(file), role or "unknown", False, *where))
    for file, problem in relations(read):
        found = next(f for f in findings if f.file == str(file))
        if found.ok:
            found.ok = False
            found.key, found.value, found.remedy = problem.key, problem.value, problem.remedy
    if options.json:
        print(json.dumps({"schema": 1, "files": [msgspec.to_builtins(f) for f in findings]}))
    else:
        for found in findings:
            print(found.text(), file=sys.stdout if found.ok else sys.stderr)
    return EXIT_OK if all(found.ok for found in findings) else EXIT_CONFIG


def read_config(file: Path, role: str) -> AgentConfig | CoordinatorConfig:
    """A daemon's configuration from its file and drop-ins alone, not this user's environment."""
    if role == "agent":
        return config.load(file, AgentConfig, environ={})
    return config.load(file, CoordinatorConfig, environ={})


def guess_role(file: Path) -> str:
    """Whose configuration a file is: only agents have 'node', only coordinators 'nodes'."""
    keys = read_toml(file).keys()
    if ("node" in keys) != ("nodes" in keys):
        return "agent" if "node" in keys else "coordinator"
    if file.stem in ROLES:
        return file.stem
    raise ConfigError(
        "node",
        None,
        "an agent's file names 'node', a coordinator's 'nodes'; add it, or give --role",
    )


def relations(
    read: Sequence[tuple[Path, AgentConfig | CoordinatorConfig]],
) -> Iterator[tuple[Path, ConfigError]]:
    """Values of agents that contradict the coordinator's or each other's."""
    coordinators = [found for _, found in read if isinstance(found, CoordinatorConfig)]
    names: set[str] = set()
    for file, agent in read:
        if not isinstance(agent, AgentConfig):
            continue
        if agent.node in names:
            yield file, ConfigError("node", agent.node, "another file has it; name each box once")
        names.add(agent.node)
        if len(coordinators) == 1:
            for problem in contradictions(agent, coordinators[0]):
                yield file, problem


def contradictions(agent: AgentConfig, coordinator: CoordinatorConfig) -> Iterator[ConfigError]:
    """What cannot be true of an agent and its coordinator at once."""
    if agent.node not in coordinator.nodes:
        known = ", ".join(coordinator.nodes)
        yield ConfigError("node", agent.node, f"the coordinator expects {known}; add it there")
    if agent.cluster != coordinator.cluster:
        remedy = f"the coordinator's is {coordinator.cluster!r}; give both the same"
        yield ConfigError("cluster", agent.cluster, remedy)
    timeout_ms = coordinator.heartbeat_timeout_ms
    if BEATS * agent.heartbeat_ms > timeout_ms:
        remedy = (
            f"the coordinator's heartbeat_timeout_ms is {timeout_ms:g}; give at most "
            f"{timeout_ms / BEATS:g}, or there at least {BEATS * agent.heartbeat_ms:g}"
        )
        yield ConfigError("heartbeat_ms", agent.heartbeat_ms, remedy)
    port = int(agent.coordinator.rpartition(":")[2])
    if coordinator.agents_port and port != coordinator.agents_port:
        remedy = f"the coordinator's agents_port is {coordinator.agents_port}; give that port"
        yield ConfigError("coordinator", agent.coordinator, remedy)
