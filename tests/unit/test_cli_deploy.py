"""``continuer deploy`` and what ``status`` says of it, against a coordinator of this process."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from continuer import bundle as bundles
from continuer import cli, wire
from continuer.catalog import find_bundle
from continuer.errors import EXIT_CONFIG, EXIT_UNREACHABLE, EXIT_USAGE
from continuer.security import roles
from continuer.status import rollout_lines
from continuer.wire import Ask, Tell
from coordinator.intake import Intake
from coordinator.library import Library
from tests.unit.harness import BUNDLE

OTHER = bundles.load(find_bundle("mobilenetv2-cifar10"))
STATE = {
    "model": BUNDLE.name,
    "model_version": BUNDLE.manifest.version,
    "bundle": BUNDLE.hash.hex(),
    "version": "1.1",
    "rollout": None,
}
ROLLOUT = {
    "model": OTHER.name,
    "model_version": OTHER.manifest.version,
    "bundle": OTHER.hash.hex(),
    "state": "staging",
    "waiting_for": ["n2"],
    "nodes": [],
    "problem": "",
    "took_ms": 1500.0,
}


class Coordinator(threading.Thread):
    """Takes files in as the real one does; what becomes of the bundle, the test says."""

    def __init__(self, state_dir: Path, outcome: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.asked: list[str] = []
        self.started: dict[str, Any] = {}
        self._outcome = outcome
        self._state: dict[str, Any] = dict(STATE)
        self.library = Library(BUNDLE, state_dir)
        self._intake = Intake(self.library, lambda: False)
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self.endpoint = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            if self._socket.poll(50):
                link, raw = self._socket.recv_multipart()
                self._socket.send_multipart(
                    [link, wire.encode(self._answer(wire.decode(raw, Ask)))]
                )
        self._context.destroy(linger=0)

    def _answer(self, ask: Ask) -> Tell:
        self.asked.append(ask.verb)
        if ask.verb == "status":
            return Tell(self._state)
        if ask.verb in ("deploy.begin", "deploy.put"):
            return self._intake._answer(ask)
        self.started = ask.arguments
        self._state = {**self._state, "rollout": {**ROLLOUT, **self._outcome}}
        if self._outcome["state"] == "in_force":
            self._state = {**self._state, "bundle": OTHER.hash.hex(), "model": OTHER.name}
        return Tell({"rollout": {**ROLLOUT, "state": "staging"}})

    def close(self) -> None:
        self._over.set()
        self.join()


@pytest.fixture
def good(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path, {"state": "in_force"})
    made.start()
    yield made
    made.close()


@pytest.fixture
def bad(tmp_path: Path) -> Iterator[Coordinator]:
    outcome = {"state": "failed", "nodes": ["n2"], "problem": "part 'head': is no model"}
    made = Coordinator(tmp_path, outcome)
    made.start()
    yield made
    made.close()


def run(coordinator: Coordinator, *arguments: str) -> int:
    return cli.main(["deploy", *arguments, "--coordinator", coordinator.endpoint])


def test_the_files_are_sent_and_the_order_follows(
    good: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(good, OTHER.name, "--json") == 0
    good.library.find(OTHER.hash).verify_files()
    assert good.started == {"bundle": OTHER.hash.hex(), "signature": b"", "new_input": False}
    out = capsys.readouterr().out
    assert json.loads(out)["bundle"] == OTHER.hash.hex()


def test_what_was_sent_before_is_not_sent_again(good: Coordinator) -> None:
    assert run(good, OTHER.name) == 0
    good._state = dict(STATE)
    good.asked.clear()
    assert run(good, OTHER.name, "--new-input") == 0
    assert "deploy.put" not in good.asked
    assert good.started["new_input"] is True


def test_the_bundle_in_force_is_not_deployed_again(
    good: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(good, BUNDLE.name) == 0
    assert good.started == {}
    assert "in force already" in capsys.readouterr().out


def test_a_damaged_bundle_does_not_leave_the_operators_box(
    good: Coordinator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(OTHER.directory, damaged)
    part = damaged / OTHER.parts["head"].file
    part.write_bytes(part.read_bytes()[:-1])
    assert run(good, str(damaged)) == EXIT_CONFIG
    assert "truncated or altered" in capsys.readouterr().err
    assert good.asked == []


def test_why_it_was_given_up_and_what_serves_on_is_said(
    bad: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bad, OTHER.name) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "given up on n2: part 'head': is no model" in said.err
    assert f"{BUNDLE.name} {BUNDLE.manifest.version} ({BUNDLE.hash.hex()[:16]})" in said.err


def test_going_back_and_calling_off_send_nothing(good: Coordinator) -> None:
    assert run(good, "--rollback") == 0
    assert run(good, "--cancel") == 0
    assert [verb for verb in good.asked if verb != "status"] == ["deploy.rollback", "deploy.cancel"]


@pytest.mark.parametrize("arguments", [[], ["m", "--rollback"], ["--rollback", "--cancel"]])
def test_one_thing_at_a_time_is_ordered(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["deploy", *arguments]) == EXIT_USAGE
    assert "--rollback, or --cancel" in capsys.readouterr().err


def test_a_coordinator_that_is_not_there_is_said_with_exit_code_69() -> None:
    nobody = ["--coordinator", "tcp://127.0.0.1:1"]
    assert cli.main(["deploy", BUNDLE.name, *nobody]) == EXIT_UNREACHABLE


def test_status_shows_the_bundle_in_force_and_the_other_one() -> None:
    assert rollout_lines(dict(STATE)) == []
    serving = f"bundle {BUNDLE.name} 1.0.0 ({BUNDLE.hash.hex()[:16]}): in force"
    coming = f"bundle {OTHER.name} 1.0.0 ({OTHER.hash.hex()[:16]})"
    state: dict[str, Any] = {**STATE, "rollout": ROLLOUT}
    assert rollout_lines(state) == [serving, f"{coming}: staging, waiting for n2"]
    failed = {**ROLLOUT, "state": "failed", "nodes": ["n2"], "problem": "not signed"}
    assert rollout_lines({**state, "rollout": failed}) == [
        serving,
        f"{coming}: given up on n2: not signed",
    ]
    done = {**state, "bundle": OTHER.hash.hex(), "rollout": {**ROLLOUT, "state": "in_force"}}
    assert rollout_lines(done)[0].endswith("in force, deployed in 1.5 s")


@pytest.mark.parametrize(
    "verb", ["deploy.begin", "deploy.put", "deploy.start", "deploy.rollback", "deploy.cancel"]
)
def test_only_operators_deploy(verb: str) -> None:
    assert roles.VERBS.get(verb, roles.OPERATORS) == {"operator"}
