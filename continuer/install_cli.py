"""``continuer install`` and ``uninstall``: the services where no Debian package brings them.

The units are those of the packages, with the path of this very installation.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from continuer.catalog import find_bundle
from continuer.cli_help import with_examples
from continuer.errors import EXIT_OK, AccessError, ConfigError, ContinuerError, UsageError

MODEL = "resnet32-cifar10"
# The units keep services out of these, and nothing below them outlives a reboot or a user.
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  # refused, not used
EXAMPLES = """\
sudo /opt/continuer/bin/continuer install --agent
continuer install --coordinator --dry-run     what would be written, and where
"""


class Wanted(NamedTuple):
    """A file to be written; one that ``is_configuration`` is never overwritten."""

    path: Path
    text: str
    is_configuration: bool = False


def add_parser(commands: Any) -> None:
    """Add both verbs to the command line."""
    install = commands.add_parser(
        "install",
        help="make this installation's daemon a service of systemd",
        description="Writes the unit, the user it runs as, and a sample configuration. A "
        "configuration that is there stays as it is. Nothing is started.",
        **with_examples(EXAMPLES),
    )
    uninstall = commands.add_parser(
        "uninstall",
        help="take the service away again",
        description="Stops the service and removes its unit; configuration and state stay.",
        **with_examples("continuer uninstall --agent"),
    )
    for parser, handler in ((install, run_install), (uninstall, run_uninstall)):
        role = parser.add_mutually_exclusive_group(required=True)
        role.add_argument("--agent", dest="role", action="store_const", const="agent")
        role.add_argument("--coordinator", dest="role", action="store_const", const="coordinator")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
        parser.add_argument(
            "--root", type=Path, metavar="DIR", help="another system's file system; runs nothing"
        )
        parser.set_defaults(handler=handler)


def run_install(options: argparse.Namespace) -> int:
    """Write the files. Raises UsageError for an installation that no service can reach."""
    prefix = Path(sys.prefix)
    program = prefix / "bin" / f"continuer-{options.role}"
    if any(prefix.is_relative_to(place) for place in HIDDEN):
        raise UsageError(
            f"{prefix}: services cannot use an installation there; make one below /opt: "
            f"python3 -m venv /opt/continuer && /opt/continuer/bin/pip install "
            f"'continuer[{options.role}]'"
        )
    if not program.exists():
        raise UsageError(f"{program} is not there; install continuer[{options.role}]")
    for file in files(options.role, program, find_bundle(MODEL)):
        _write(file, options)
    name = f"continuer-{options.role}"
    _run(options, "systemd-sysusers", f"/etc/sysusers.d/{name}.conf")
    _run(options, "systemctl", "daemon-reload")
    sys.stderr.write(
        f"now: edit /etc/continuer/{options.role}.toml, then systemctl enable --now {name}\n"
    )
    return EXIT_OK


def run_uninstall(options: argparse.Namespace) -> int:
    """Stop the service and remove what ``install`` has written, but the configuration."""
    name = f"continuer-{options.role}"
    _run(options, "systemctl", "disable", "--now", name)
    for path in places(options.role)[:2]:
        _remove(path, options)
    _run(options, "systemctl", "daemon-reload")
    return EXIT_OK


def places(role: str) -> tuple[Path, Path, Path]:
    """Where a role's unit, user and configuration are written."""
    return (
        Path(f"/etc/systemd/system/continuer-{role}.service"),
        Path(f"/etc/sysusers.d/continuer-{role}.conf"),
        Path(f"/etc/continuer/{role}.toml"),
    )


def files(role: str, program: Path, bundle: Path) -> Iterator[Wanted]:
    """What makes a role a service: unit, user, sample configuration."""
    source = _templates()
    unit, user, configuration = places(role)
    text = (source / f"continuer-{role}.service").read_text(encoding="utf-8")
    yield Wanted(unit, text.replace(f"/usr/bin/continuer-{role}", str(program)))
    yield Wanted(user, (source / f"continuer-{role}.sysusers").read_text(encoding="utf-8"))
    text = (source / f"{role}.toml").read_text(encoding="utf-8")
    sample = text.replace(f"/usr/lib/continuer-{role}/bundles/{MODEL}", str(bundle))
    yield Wanted(configuration, sample, is_configuration=True)


def _templates() -> Path:
    """The units of this installation; in a checkout, those beside the package."""
    for place in (Path(__file__).parents[1] / "systemd", Path(sys.prefix) / "share" / "continuer"):
        if (place / "continuer-agent.service").exists():
            return place
    raise ContinuerError(f"no units in {sys.prefix}/share/continuer; install continuer anew")


def _write(file: Wanted, options: argparse.Namespace) -> None:
    path = _below(file.path, options.root)
    if file.is_configuration and path.exists():
        sys.stderr.write(f"{path} is there, and stays as it is\n")
        return
    sys.stderr.write(f"writing {path}\n")
    if options.dry_run:
        print(f"# {path}\n{file.text}")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text, encoding="utf-8")
    except OSError as error:
        raise _refused(path, error) from error


def _remove(path: Path, options: argparse.Namespace) -> None:
    path = _below(path, options.root)
    sys.stderr.write(f"removing {path}\n")
    if options.dry_run:
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> ContinuerError:
    if isinstance(error, PermissionError):
        return AccessError(f"{path}: {error.strerror}; run this as root")
    return ConfigError(str(path), error.strerror, "make it writable, or give another --root")


def _below(path: Path, root: Path | None) -> Path:
    return path if root is None else root / path.relative_to("/")


def _run(options: argparse.Namespace, *command: str) -> None:
    """Run one of systemd's programs, unless another system's files are written."""
    if options.root is not None:
        return
    sys.stderr.write(f"running {' '.join(command)}\n")
    booted = Path("/run/systemd/system").is_dir()  # systemd's own test of whether it runs
    if options.dry_run or (command[0] == "systemctl" and not booted):
        return
    try:
        subprocess.run(command, check=True)  # noqa: S603  # fixed words
    except (OSError, subprocess.CalledProcessError) as error:
        raise ContinuerError(f"{' '.join(command)}: {error}") from error
