"""What ARCHITECTURE.md says of the code, as far as a program can check it."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from continuer import cli

ROOT = Path(__file__).parents[2]
# Who may import whom. bench and tests stand outside of the product and may import all of it.
ARROWS = {
    "continuer": {"continuer"},
    "agent": {"continuer", "agent"},
    "coordinator": {"continuer", "coordinator"},
    "models": {"continuer", "models"},
    "predictors": {"continuer", "models", "predictors"},
}
OURS = {*ARROWS, "bench", "tests"}
INSTALLED = [name for name in ARROWS if (ROOT / name).is_dir()]
# What would make a decision depend on anything but its arguments.
EFFECTS = {
    *("asyncio", "datetime", "multiprocessing", "os", "queue", "random", "secrets", "select"),
    *("signal", "socket", "subprocess", "threading", "time", "uuid", "zmq"),
}
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 70


def sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, by its full name."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *(node.module.split(".") if node.module else ())))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imported_packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def loaded_by(*statements: str) -> set[str]:
    """Top-level modules in memory after these statements, in an interpreter of their own."""
    code = "; ".join((*statements, "import sys, json", "print(json.dumps(list(sys.modules)))"))
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert ended.returncode == 0, ended.stderr
    return {name.partition(".")[0] for name in json.loads(ended.stdout)}


# --- who imports whom -----------------------------------------------------------------------


@pytest.mark.parametrize("path", sources(*INSTALLED), ids=named)
def test_a_package_imports_only_the_shared_one_and_itself(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    foreign = (imported_packages(path) & OURS) - ARROWS[package]
    assert not foreign, f"{named(path)} imports {foreign}"


def test_no_product_code_is_outside_of_the_packages_that_are_checked() -> None:
    known = {*OURS, ".venv", "build", "docs", "dist"}
    found = {
        path.relative_to(ROOT).parts[0]
        for path in ROOT.glob("*/**/*.py")
        if not path.relative_to(ROOT).parts[0].startswith(".")
    }
    assert found <= known


def test_what_others_offer_to_the_command_is_found_through_entry_points() -> None:
    offered = importlib.metadata.distribution("continuer").entry_points
    assert {"continuer.bundles", "continuer.images"} <= {entry.group for entry in offered}
    for entry in offered:
        assert callable(entry.load()), entry.value


# --- deciding cores -------------------------------------------------------------------------


def cores() -> list[Path]:
    """The files that ARCHITECTURE.md's table calls deciding cores."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    section = text.partition("## Deciding cores")[2].partition("\n## ")[0]
    found: list[Path] = []
    for row in re.findall(r"^\| *(`[^|]*`) *\|", section, re.MULTILINE):
        folder = ROOT
        for name in re.findall(r"`([\w/]+\.py)`", row):
            path = ROOT / name if "/" in name else folder / name
            folder = path.parent
            found.append(path)
    return found


def test_the_table_of_deciding_cores_names_files_that_exist() -> None:
    names = {named(path) for path in cores()}
    assert names >= {"coordinator/core.py", "agent/ingress_core.py", "continuer/client_core.py"}
    assert [name for name in names if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("path", cores(), ids=named)
def test_a_deciding_core_has_no_clock_socket_thread_or_chance(path: Path) -> None:
    assert not imported_packages(path) & EFFECTS
    # What a core is built on may know of files, but of nothing else either.
    for file in reached(path) - set(cores()):
        assert not imported_packages(file) & (EFFECTS - {"os"}), f"by way of {named(file)}"


def test_what_a_core_is_built_on_is_followed_through_all_files() -> None:
    built_on = {named(file) for file in reached(ROOT / "coordinator/core.py")}
    assert built_on >= {"coordinator/detector.py", "continuer/wire.py", "continuer/errors.py"}
    assert "coordinator/daemon.py" not in built_on


def reached(path: Path) -> set[Path]:
    """A file and all files of ours that it imports, directly or not."""
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += filter(None, map(file_of, imports(current)))
    return seen


def file_of(name: str) -> Path | None:
    """The file of a module of ours; of ``package.module.attribute``, the module's."""
    parts = name.split(".")
    for count in (len(parts), len(parts) - 1):
        path = ROOT.joinpath(*parts[:count]).with_suffix(".py")
        if parts[0] in OURS and count > 1 and path.is_file():
            return path
    return None


# --- what is loaded -------------------------------------------------------------------------

HEAVY = {"tensorflow", "keras", "torch", "ai_edge_litert", "tflite_runtime", "xgboost", "lightgbm"}


def test_the_coordinator_loads_no_runtime_and_no_learning_library() -> None:
    loaded = loaded_by("import coordinator.main")
    assert {"coordinator", "zmq", "structlog"} <= loaded
    assert not loaded & {*HEAVY, "agent", "models", "predictors", "PIL"}


def test_a_client_needs_no_runtime_and_no_journal() -> None:
    loaded = loaded_by("from continuer import Client, AsyncClient, Answer, RequestError")
    assert {"zmq", "msgspec"} <= loaded
    assert not loaded & {*HEAVY, "structlog", "agent", "coordinator", "models", "rich", "PIL"}


def test_the_command_starts_without_any_runtime() -> None:
    loaded = loaded_by("from continuer import cli", "cli.make_parser()")
    assert not loaded & {*HEAVY, "structlog", "agent", "coordinator", "rich", "PIL"}


def test_an_agent_loads_no_training_library() -> None:
    loaded = loaded_by("import agent.main")
    assert "agent" in loaded
    assert not loaded & (HEAVY - {"ai_edge_litert"})
    assert not loaded & {"coordinator", "models", "predictors", "PIL"}


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INSTALLED)
def test_a_top_level_name_belongs_to_nobody_else(name: str) -> None:
    owners = importlib.metadata.packages_distributions().get(name, [])
    assert set(owners) == {"continuer"}
    elsewhere = [path for path in sys.path if path and Path(path).resolve() != ROOT]
    spec = importlib.machinery.PathFinder.find_spec(name, elsewhere)
    assert spec is None, spec


# --- sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sources(*sorted(OURS)), ids=named)
def test_files_and_functions_can_be_read_at_once(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{named(path)}: {node.name} has {length} lines"


# --- documents ------------------------------------------------------------------------------

DOCUMENTS = ("README.md", "ARCHITECTURE.md")


def read(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_a_document_mentions_exist(document: str) -> None:
    text = read(document)
    quoted = re.findall(r"`([\w./-]+\.(?:py|md|toml|json|service|deb|svg|sh))`", text)
    linked = re.findall(r"\]\(([^)#:\s]+)\)", text)
    folders = re.findall(r"^(\w+)/ ", text, re.MULTILINE)
    folder = ROOT
    missing = []
    for name in (*quoted, *linked, *folders):
        path = ROOT / name if "/" in name or not (folder / name).exists() else folder / name
        if "/" in name:
            folder = path.parent
        if not path.exists() and name not in GENERATED:
            missing.append(name)
    assert missing == []


# Names of files that users have, or that our programs write; not of this repository.
GENERATED = {"manifest.json", "agent.toml", "coordinator.toml"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_that_a_document_mentions_exist(document: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    commands = re.findall(r"(?:^|`)(?:sudo )?make ([a-z][\w-]*)", read(document), re.MULTILINE)
    assert set(commands) <= targets


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_verbs_of_the_command_that_a_document_mentions_exist(
    document: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = read(document)
    called = r"^(?:\$ |sudo |[\w./-]*/bin/)*continuer ([a-z][\w-]*(?: [a-z][\w-]*)?)"
    calls = set(re.findall(called, code(text), re.MULTILINE))
    for call in sorted(calls):
        verb, _, second = call.partition(" ")
        with pytest.raises(SystemExit) as ended:
            cli.main([verb, *([second] if verb == "model" and second else []), "--help"])
        assert ended.value.code == 0, f"continuer {call}: {capsys.readouterr().err}"


def code(text: str) -> str:
    """The parts of a document that are set as code, a line each."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return "\n".join([*fenced, *quoted])
