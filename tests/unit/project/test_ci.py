"""The CI script: which Python it chooses besides the system's."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = (Path(__file__).parents[3] / ".ci/run").read_text()
[NEWER] = re.findall(r"^newer_python\(\) \{\n.*?^\}", RUN, re.MULTILINE | re.DOTALL)
WORKS = "echo 3.{0}.1 /found/{1}"
BROKEN = "echo no module named ensurepip >&2; exit 1"


@pytest.mark.parametrize(
    ("on_path", "pyenv", "newest"),
    [
        ({}, {}, ""),
        ({97: WORKS}, {}, "/found/path"),
        ({97: WORKS, 98: BROKEN}, {}, "/found/path"),
        ({9: WORKS, 97: BROKEN}, {98: BROKEN}, ""),
        ({97: WORKS}, {98: WORKS, 99: BROKEN}, "/found/pyenv"),
        ({100: WORKS}, {98: WORKS}, "/found/path"),
    ],
)
def test_the_newest_python_that_works_is_taken(on_path: dict, pyenv: dict, newest: str, tmp_path: Path):
    """Candidates are on PATH and in pyenv; one that cannot make a venv does not count, and there may be none."""
    made = {tmp_path / f"bin/python3.{minor}": (minor, body, "path") for minor, body in on_path.items()}
    made |= {
        tmp_path / f"pyenv/versions/3.{minor}.0/bin/python3": (minor, body, "pyenv") for minor, body in pyenv.items()
    }
    made[tmp_path / "bin/python3"] = (11, "echo 3.11", "system")
    for program, (minor, body, where) in made.items():
        program.parent.mkdir(parents=True, exist_ok=True)
        # A Python no newer than the system's fails its assertion.
        program.write_text(f"#!/bin/sh\n{body.format(minor, where) if minor > 10 else 'exit 1'}\n")
        program.chmod(0o755)
    for tool in ("cut", "grep", "sort", "tail"):  # and no Python of this machine
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    env = {"PATH": f"{tmp_path}/bin", "PYENV_ROOT": str(tmp_path / "pyenv")}
    script = f"set -euo pipefail\n{NEWER}\nnewer_python"
    done = subprocess.run(
        [str(shutil.which("bash")), "-c", script], capture_output=True, text=True, env=env, timeout=30
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, newest, "")
