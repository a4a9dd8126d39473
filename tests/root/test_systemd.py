"""The Debian packages on boxes with systemd: installed, started, hurt in many ways, and purged."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from continuer.errors import UnreachableError
from continuer.events import EVENTS
from tests.root.fleet import INPUT_SHAPE, NODES, PATIENCE_S, Fleet, build_packages
from tests.root.network import Network
from tests.root.nspawn import Hang, lacking

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]

AGENT, COORDINATOR = "continuer-agent", "continuer-coordinator"
# What may still be of a package once it is purged.
LEFTOVERS = "find / -xdev -name '*continuer*' -not -path '/proc/*' -not -path '/root/*'"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Boxes as after installing the packages and writing two lines of configuration each."""
    if reason := lacking():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("fleet")
    packages = build_packages(directory)
    network = Network([*NODES, "coordinator", "client"])
    fleet = Fleet(network, directory, packages)
    try:
        with ThreadPoolExecutor(len(fleet.boxes)) as pool:
            list(pool.map(fleet.boot, fleet.boxes))
            list(pool.map(fleet.install, fleet.boxes))
        yield fleet
    finally:
        fleet.close()
        network.close()


@pytest.fixture
def fleet(installed: Fleet) -> Fleet:
    """All boxes at work."""
    installed.wait_for("the whole fleet")
    return installed


def restarts(fleet: Fleet, name: str, unit: str = AGENT) -> int:
    """How often systemd has restarted a box's service by itself."""
    return int(fleet.boxes[name].show(unit, "NRestarts"))


def test_installed_boxes_answer(fleet: Fleet) -> None:
    answer = fleet.infer()
    assert set(answer.nodes) == set(NODES)
    assert answer.technique == "none"
    box = fleet.boxes["n1"]
    deadline = time.monotonic() + PATIENCE_S
    while not (said := box.show(AGENT, "StatusText")).startswith("joined tcp://"):
        assert time.monotonic() < deadline, said
    assert box.run("systemctl", "is-enabled", AGENT).stdout.strip() == "enabled"
    process = f"/proc/{box.show(AGENT, 'MainPID')}"
    assert box.run("stat", "-c", "%U", process).stdout.strip() == AGENT
    state = box.run("stat", "-c", "%U %a", f"/var/lib/{AGENT}").stdout.strip()
    assert state == f"{AGENT} 750"


def test_a_killed_agent_is_failed_over_and_started_again(fleet: Fleet) -> None:
    before = restarts(fleet, "n3")
    told = len(fleet.events("coordinator", "failover"))
    fleet.boxes["n3"].run("systemctl", "kill", "--signal=KILL", AGENT)
    fleet.boxes["n3"].wait_until(lambda: restarts(fleet, "n3") > before, "its restart")
    entries = fleet.events("coordinator", "failover")[told:]
    assert [entry["NODE"] for entry in entries] == ["n3"]
    (entry,) = entries
    assert entry["MESSAGE_ID"] == EVENTS["failover"].message_id
    assert entry["PRIORITY"] == "3"
    assert re.fullmatch(r"\d+\.\d+", entry["PLAN_VERSION"])
    assert entry["TECHNIQUE"] in ("repartition", "skip", "early_exit", "mixed")
    assert entry["MESSAGE"].startswith("failover ")
    fleet.wait_for_answers_of_all("n3 to be back")


def test_a_failover_is_measured_beside_its_prediction(fleet: Fleet) -> None:
    told = len(fleet.events("coordinator", "failover_told"))
    fleet.boxes["n2"].run("systemctl", "kill", "--signal=KILL", AGENT)
    fleet.boxes["coordinator"].wait_until(
        lambda: len(fleet.events("coordinator", "failover_told")) > told, "the account"
    )
    entry = fleet.events("coordinator", "failover_told")[told]
    keys = ("DETECT_MS", "DECIDE_MS", "TELL_MS", "OUTAGE_MS", "PREDICTED_MS", "LOST")
    assert all(float(entry[key]) >= 0 for key in keys)
    assert float(entry["OUTAGE_MS"]) >= float(entry["DECIDE_MS"]) + float(entry["TELL_MS"])


def test_a_power_cut_is_survived_and_the_box_comes_back_by_itself(fleet: Fleet) -> None:
    fleet.boxes["n4"].power_cut()
    fleet.wait_for("a plan without n4", without="n4")
    assert "n4" not in fleet.infer().nodes
    fleet.boxes["n4"].boot()
    fleet.wait_for_answers_of_all("n4 to be back")


@pytest.mark.parametrize("thread", ["stage", "ingress"])
def test_the_watchdog_restarts_an_agent_whose_inference_hangs(fleet: Fleet, thread: str) -> None:
    box, before = fleet.boxes["n5"], restarts(fleet, "n5")
    hang = Hang(box.thread(AGENT, thread))
    box.wait_until(hang.over, "the watchdog's signal", timeout_s=60)
    box.wait_until(lambda: restarts(fleet, "n5") > before, "its restart")
    assert fleet.events("n5", "thread_hung")[-1]["THREADS"] == thread
    log = box.run("journalctl", "--unit", AGENT, "--output", "cat").stdout
    assert "Watchdog timeout" in log
    assert "in run" in log.partition("Fatal Python error: Aborted")[2]  # where every thread was
    fleet.wait_for("n5 to be back")


def test_an_idle_agent_is_left_alone_by_the_watchdog(fleet: Fleet) -> None:
    box, before = fleet.boxes["n1"], restarts(fleet, "n1")
    watchdog_s = int(re.sub(r"\D", "", box.show(AGENT, "WatchdogUSec")))
    time.sleep(1.5 * watchdog_s)  # what systemd allows, and more
    assert restarts(fleet, "n1") == before
    assert restarts(fleet, "coordinator", COORDINATOR) == 0


def test_a_stopped_agent_hands_its_work_over_first(fleet: Fleet) -> None:
    failovers = len(fleet.status()["failovers"])
    fleet.boxes["n2"].run("systemctl", "stop", AGENT)
    assert fleet.events("n2", "handed_over")[-1]["OUTCOME"] == "handed over"
    assert fleet.events("coordinator", "node_left")[-1]["NODE"] == "n2"
    assert len(fleet.status()["failovers"]) == failovers
    assert "n2" not in fleet.infer().nodes
    fleet.boxes["n2"].run("systemctl", "start", AGENT)
    fleet.wait_for("n2 to be back")


def test_reloading_takes_objectives_anew_and_a_wrong_file_changes_nothing(fleet: Fleet) -> None:
    box, drop_in = fleet.boxes["coordinator"], "etc/continuer/coordinator.d/objectives.toml"
    fleet.write("coordinator", drop_in, {"objectives.min_accuracy": 0.8})
    box.run("systemctl", "reload", COORDINATOR)
    box.wait_until(lambda: fleet.status()["objectives"]["min_accuracy"] == 0.8, "the objective")
    fleet.write("coordinator", drop_in, {"objectives.min_accuracy": 80})
    box.run("systemctl", "reload", COORDINATOR)
    box.wait_until(lambda: fleet.events("coordinator", "reload_refused"), "the refusal")
    assert "min_accuracy" in fleet.events("coordinator", "reload_refused")[-1]["PROBLEM"]
    assert fleet.status()["objectives"]["min_accuracy"] == 0.8
    assert box.show(COORDINATOR, "ActiveState") == "active"
    (box.root / drop_in).unlink()
    box.run("systemctl", "reload", COORDINATOR)
    box.wait_until(lambda: fleet.status()["objectives"]["min_accuracy"] is None, "none again")


def test_a_wrong_configuration_is_not_tried_again(fleet: Fleet) -> None:
    box, before = fleet.boxes["n3"], restarts(fleet, "n3")
    fleet.write("n3", "etc/continuer/agent.d/zz.toml", {"heartbeat_ms": -1})
    box.run("systemctl", "restart", AGENT, check=False)
    box.wait_until(lambda: box.show(AGENT, "ActiveState") == "failed", "its end")
    assert box.show(AGENT, "ExecMainStatus") == "78"
    assert restarts(fleet, "n3") in (0, before)
    log = box.run("journalctl", "--unit", AGENT, "--output", "cat").stdout
    assert "heartbeat_ms = -1" in log
    (box.root / "etc/continuer/agent.d/zz.toml").unlink()
    box.run("systemctl", "start", AGENT)


def test_a_full_disk_is_said_and_the_service_goes_on(fleet: Fleet) -> None:
    box, state = fleet.boxes["coordinator"], f"/var/lib/{COORDINATOR}"
    box.run("systemctl", "stop", COORDINATOR)
    box.run("mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", state)
    try:
        box.run("sh", "-c", f"cat /dev/zero > {state}/ballast", check=False)
        said = len(fleet.events("coordinator", "state_unwritable"))
        box.run("systemctl", "start", COORDINATOR)
        fleet.wait_for_answers_of_all("a coordinator that can store nothing")
        problem = fleet.events("coordinator", "state_unwritable")[said]["PROBLEM"]
        assert "No space left on device" in problem
        assert state in problem
    finally:
        box.run("systemctl", "stop", COORDINATOR)
        box.run("umount", state)
        box.run("systemctl", "start", COORDINATOR)


@pytest.mark.parametrize(("name", "unit"), [("n3", AGENT), ("coordinator", COORDINATOR)])
def test_a_box_whose_etc_is_read_only_works_all_the_same(
    fleet: Fleet, name: str, unit: str
) -> None:
    box, before = fleet.boxes[name], fleet.boxes[name].show(unit, "MainPID")
    box.run("mount", "--bind", "/etc", "/etc")
    box.run("mount", "-o", "remount,bind,ro", "/etc")
    try:
        assert box.run("touch", "/etc/continuer/probe", check=False).returncode != 0
        box.run("systemctl", "restart", unit)
        assert box.show(unit, "MainPID") != before
        fleet.wait_for_answers_of_all(f"{name} to be back")
        refused = box.run("continuer", "install", f"--{unit.split('-')[1]}", check=False)
        assert refused.returncode == 78
        assert f"/etc/systemd/system/{unit}.service" in refused.stderr
        assert "Read-only file system" in refused.stderr
        assert "Traceback" not in refused.stderr
    finally:
        box.run("umount", "/etc")


def test_a_state_directory_with_a_wrong_owner_is_put_right(fleet: Fleet) -> None:
    box, state = fleet.boxes["n3"], f"/var/lib/{AGENT}"
    box.run("systemctl", "stop", AGENT)
    box.run("chown", "--recursive", "root:root", state)
    box.run("systemctl", "start", AGENT)
    assert box.run("stat", "-c", "%U", state).stdout.strip() == AGENT
    fleet.wait_for("n3 to be back")
    assert not fleet.events("n3", "state_unwritable")


def test_without_journald_a_box_works_all_the_same(fleet: Fleet) -> None:
    box = fleet.boxes["n4"]
    units = ["systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald"]
    box.run("systemctl", "stop", *units)
    try:
        before = box.show(AGENT, "MainPID")
        box.run("systemctl", "restart", AGENT)
        assert box.show(AGENT, "MainPID") != before
        fleet.wait_for("n4 to be back")
        assert "n4" in fleet.infer().nodes
    finally:
        box.run("systemctl", "start", *units)


@pytest.mark.parametrize("library", [True, False], ids=["systemd-python", "without"])
def test_events_are_entries_with_fields_of_their_own(fleet: Fleet, library: bool) -> None:
    box = fleet.boxes["n1"]
    code = (
        "import sys; from continuer.journal import Journal; from continuer import journald;"
        f"assert (journald.make_send() is not journald.send_datagram) is {library};"
        "Journal(role='agent', node='n1').emit('failover', version='1.2', nodes=['n2', 'n3'],"
        " technique='skip', exit=None, accuracy=0.5, latency_ms=1, downtime_ms=2, why='a\\nb')"
    )
    python = "/usr/bin/python3" if library else f"/usr/lib/{AGENT}/bin/python"
    site = f"PYTHONPATH=/usr/lib/{AGENT}/lib/python3.11/site-packages"
    unit = f"probe-{'with' if library else 'without'}"
    box.run("systemd-run", "--wait", f"--unit={unit}", f"--setenv={site}", python, "-c", code)
    (entry,) = fleet.events_of("n1", unit, "failover")
    assert entry["NODE"] == ["n1", "n2", "n3"]
    assert entry["WHY"] == "a\nb"
    assert (entry["PLAN_VERSION"], entry["PRIORITY"]) == ("1.2", "3")
    assert "EXIT" not in entry


def enrol(fleet: Fleet) -> None:
    """Give every box a key as the documentation says, and have all of them use theirs."""
    coordinator = fleet.boxes["coordinator"]
    # It reads where the coordinator listens from the drop-in that the fixture has written.
    coordinator.run("continuer", "node", "init", "--config", "/etc/continuer/coordinator.toml")
    fleet.configure("coordinator", security="on")
    for name in NODES:
        line = coordinator.run("continuer", "token", "create", "--name", name).stdout
        fleet.boxes[name].run("sh", "-c", line)
        fleet.configure(name, security="on", development=True)


def test_boxes_with_keys_answer_whoever_has_one(fleet: Fleet) -> None:
    box = fleet.boxes["coordinator"]
    Image.fromarray(np.zeros(INPUT_SHAPE[1:], np.uint8)).save(box.root / "root/picture.png")
    try:
        enrol(fleet)
        box.wait_until(
            lambda: box.run("continuer", "status", check=False).returncode == 0, "the whole fleet"
        )
        asked = box.run("continuer", "infer", "--json", "/root/picture.png")
        (answer,) = json.loads(asked.stdout)["answers"]
        assert answer["nodes"] == NODES
        with pytest.raises(UnreachableError):
            fleet.status()  # from a host that has no key
        own = f"/var/lib/{AGENT}/keys/own.key"
        assert fleet.boxes["n1"].run("stat", "-c", "%U %a", own).stdout.strip() == f"{AGENT} 600"
    finally:
        for name, of in fleet.boxes.items():
            state = f"/var/lib/{COORDINATOR if name == 'coordinator' else AGENT}"
            of.run("rm", "-rf", f"{state}/keys", "/root/.config/continuer")
            fleet.configure(name)


def test_purged_packages_leave_nothing(fleet: Fleet) -> None:
    for name, package in (("n1", AGENT), ("coordinator", COORDINATOR)):
        box = fleet.boxes[name]
        box.run("dpkg", "--remove", package)
        assert (box.root / "etc/continuer").is_dir()  # the administrator's, until purged
        assert box.run("systemctl", "is-active", package, check=False).stdout.strip() != "active"
        box.run("dpkg", "--purge", package)
        left = box.run("sh", "-c", LEFTOVERS).stdout.split()
        assert left == []
        assert box.run("getent", "passwd", package, check=False).returncode != 0
