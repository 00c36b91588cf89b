"""The command line as a whole: help, shell completion, and the switch to JupyterLab."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit import __version__, faults
from labkit.cli.group import GROUPS, NOTEBOOKS, cli
from labkit.lab.backends import BACKENDS
from labkit.lab.launch import LAUNCHERS


def ran(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`labkit WORDS`, with these variables added to the environment."""
    command = [sys.executable, "-m", "labkit", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=os.environ | variables)


def test_help_has_each_command_once_by_what_it_is_for() -> None:
    """Each group has a title, and each command one line of at most eighty characters, not cut off."""
    shown = ran("--help", COLUMNS="80").stdout
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(cli.commands)
    for title, names in GROUPS.items():
        told = shown.split(f"{title}:\n")[1].split("\n\n")[0].splitlines()
        assert [line.split()[0] for line in told] == list(names)
        assert not [line for line in told if line.endswith("...") or len(line) > 80]


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_it_says_its_version(option: str) -> None:
    """The version is all it prints, and it exits 0."""
    done = ran(option)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"labkit, version {__version__}\n", "")


COMPLETED = {
    "demo --backend ": list(BACKENDS),
    "up --backend red": ["redis", "redis-cluster"],
    "matrix --fault ": sorted(faults.ALL),
    "matrix --fault Bla": ["BlackHole"],
    "demo --launcher ": list(LAUNCHERS),
    "matrix --backend nope": [],
}


@pytest.mark.parametrize("line", COMPLETED)
def test_a_shell_completes_backends_faults_and_launchers(line: str) -> None:
    """A word begun or empty is completed, as bash requests it."""
    words = f"labkit {line}"
    variables = {"_LABKIT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = ran(**variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(word.partition(",")[2] for word in done.stdout.split()) == sorted(COMPLETED[line])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_told_how_to_complete(shell: str) -> None:
    """The script is the one the README has a shell evaluate."""
    done = ran(_LABKIT_COMPLETE=f"{shell}_source")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_LABKIT_COMPLETE={shell}_complete" in done.stdout


def jupyterlab_at(folder: Path) -> str:
    """A PYTHONPATH with a fake JupyterLab first, which prints its process ID and arguments."""
    (folder / "jupyterlab").mkdir()
    (folder / "jupyterlab/__init__.py").touch()
    (folder / "jupyterlab/__main__.py").write_text("import os, sys; print(os.getpid(), *sys.argv[1:])")
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.parametrize("named", [True, False])
def test_lab_becomes_jupyterlab(named: bool, tmp_path: Path) -> None:
    """JupyterLab runs in the same process, so that signals reach it, on DIR or on this checkout's notebooks."""
    command = [sys.executable, "-m", "labkit", "lab", *([str(tmp_path)] if named else [])]
    env = os.environ | {"PYTHONPATH": jupyterlab_at(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        said = process.communicate(timeout=30)[0].split()
    assert said == [str(process.pid), f"--ServerApp.root_dir={tmp_path if named else NOTEBOOKS}"]
    assert (NOTEBOOKS / "00_index.ipynb").exists()


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """Exit 2; JupyterLab is not started."""
    done = ran("lab", str(tmp_path / "none"), PYTHONPATH=jupyterlab_at(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"labkit: '{tmp_path}/none' is not a folder: name the one with your notebooks (labkit lab DIR)\n"
    )
