"""Five boxes and a coordinator's, each with CONTINUER installed as a user would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from continuer import Client
from continuer.client import Answer
from continuer.control import ask
from continuer.demo.cluster import toml
from continuer.errors import UnreachableError
from tests.root.network import Network
from tests.root.nspawn import Box

ROOT = Path(__file__).parents[2]
NODES = ["n1", "n2", "n3", "n4", "n5"]
INPUT_SHAPE = (1, 32, 32, 3)
PATIENCE_S = 60.0


def build_packages(directory: Path) -> dict[str, Path]:
    """The packages of agent and coordinator, built as ``make deb`` does."""
    made = {}
    for role in ("agent", "coordinator"):
        built = subprocess.run(
            [ROOT / "systemd/build-deb", role, directory],
            env={**os.environ, "COMPRESSION": "none"},
            capture_output=True,
            text=True,
        )
        assert built.returncode == 0, built.stdout + built.stderr
        (made[role],) = directory.glob(f"continuer-{role}_*.deb")
    return made


class Fleet:
    """The boxes by name; ``coordinator`` is one of them."""

    def __init__(
        self,
        network: Network,
        directory: Path,
        packages: dict[str, Path],
        nodes: Sequence[str] = NODES,
    ) -> None:
        self.network = network
        self.nodes = list(nodes)
        self.boxes = {name: Box(name, network, directory) for name in ("coordinator", *nodes)}
        self._packages = packages

    def boot(self, name: str) -> None:
        """Switch a box on."""
        self.boxes[name].boot()

    def install(self, name: str) -> None:
        """Install the box's package, and tell it where it is."""
        box = self.boxes[name]
        package = self._packages["coordinator" if name == "coordinator" else "agent"]
        shutil.copy(package, box.root / "root" / package.name)
        # Without waiting for the disk after every file: the box is thrown away.
        box.run("dpkg", "--force-unsafe-io", "--install", f"/root/{package.name}")
        self.configure(name)

    def configure(self, name: str, **changes: Any) -> None:
        """Write the drop-in that makes a sample configuration this box's, and restart."""
        address = self.network.address(name)
        role = "coordinator" if name == "coordinator" else "agent"
        # Keys are for the tests of security.
        values: dict[str, Any] = {"listen": address, "security": "off"}
        if role == "agent":
            coordinator = f"tcp://{self.network.address('coordinator')}:7400"
            values |= {"node": name, "coordinator": coordinator}
        else:
            # These tests ask what is done, not how fast: a busy machine makes nobody silent.
            values |= {"nodes": self.nodes, "heartbeat_timeout_ms": 1000}
        self.write(name, f"etc/continuer/{role}.d/box.toml", {**values, **changes})
        box, unit = self.boxes[name], f"continuer-{role}"
        started = box.run("systemctl", "restart", unit, check=False)
        log = box.run("journalctl", "--unit", unit, "--output", "cat", "--lines", "30").stdout
        assert started.returncode == 0, f"{name}: {started.stderr}{log}"

    def write(self, name: str, path: str, values: dict[str, Any]) -> None:
        """Write a TOML file on a box; keys may be dotted."""
        file = self.boxes[name].root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(toml(values))

    # --- what it does -----------------------------------------------------------------

    @property
    def _control(self) -> str:
        return f"tcp://{self.network.address('coordinator')}:7401"

    def status(self) -> dict[str, Any]:
        """What the coordinator says, asked from the operator's host."""
        return self.network.call("client", lambda: ask(self._control, "status", brief=True))

    def wait_for(self, what: str, *, without: str = "", timeout_s: float = PATIENCE_S) -> None:
        """Wait until all nodes are at work, or all but one."""
        deadline = time.monotonic() + timeout_s
        state: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                state = self.status()
            except UnreachableError:
                continue
            route = {hop["node"] for hop in (state["plan"] or {"route": []})["route"]}
            if without and route and without not in route:
                return
            if not without and state["health"] == "full":
                return
            time.sleep(0.02)
        raise AssertionError(f"waited for {what}: {state}")

    def infer(self) -> Answer:
        """One answer, asked for from the operator's host."""

        def ask_once() -> Answer:
            endpoints = [f"tcp://{self.network.address(node)}:7410" for node in self.nodes]
            with Client(endpoints) as client:
                return client.infer(np.zeros(INPUT_SHAPE, np.float32), budget_ms=10_000)

        return self.network.call("client", ask_once)

    def wait_for_answers_of_all(self, what: str) -> None:
        """Wait until the whole fleet works on one request."""
        self.wait_for(what)
        deadline = time.monotonic() + PATIENCE_S
        while set((answer := self.infer()).nodes) != set(self.nodes):
            assert time.monotonic() < deadline, f"waited for {what}: {answer.nodes}"

    def events(self, box: str, name: str) -> list[dict[str, Any]]:
        """Entries of a box's journal with this event, as ``journalctl -o json`` gives them."""
        role = "coordinator" if box == "coordinator" else "agent"
        return self.events_of(box, f"continuer-{role}", name)

    def events_of(self, box: str, unit: str, name: str) -> list[dict[str, Any]]:
        """The same of any unit."""
        shown = self.boxes[box].run(
            *("journalctl", "--unit", unit, "--output", "json", "--all"),
            f"CONTINUER_EVENT={name}",
        )
        return [json.loads(line) for line in shown.stdout.splitlines()]

    def close(self) -> None:
        """Switch everything off."""
        for box in self.boxes.values():
            box.close()
