"""The wheel and the sdist: what is in them, and labkit installed from one without any extra."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement

from labkit._imports import DISTRIBUTION, EXTRAS, install
from labkit.cli.group import cli

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
SOURCES = ("labkit", "cluster", "pyproject.toml", "setup.py", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta as backend; print(getattr(backend, sys.argv[1])(sys.argv[2]))"
NOT_OURS = shutil.ignore_patterns("__pycache__", ".*")


def built(kind: str, source: Path, folder: Path) -> Path:
    """The sdist or wheel of a source tree, built by the installed setuptools: no network."""
    words = [sys.executable, "-c", BUILD, f"build_{kind}", str(folder)]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist of this tree."""
    folder = tmp_path_factory.mktemp("sdist")
    (tree := folder / "tree").mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=NOT_OURS)
        else:
            shutil.copy(ROOT / name, tree)
    subprocess.run(["tar", "xf", built("sdist", tree, folder)], cwd=folder, check=True)
    [unpacked] = folder.glob("sharded_read_lab-*/")
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel, built from the sdist."""
    return built("wheel", sdist, sdist.parent)


def requirements(name: str, extras: frozenset[str] = frozenset()) -> Iterator[str]:
    """The distributions that it needs, with these extras."""
    for requirement in map(Requirement, distribution(name).requires or ()):
        if any(requirement.marker is None or requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield requirement.name
            yield from requirements(requirement.name, frozenset(requirement.extras))


@pytest.fixture(scope="module")
def labkit(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in a new environment that has the wheel, what it requires, and no extra."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=50)
    words = ["--python", str(folder), "install", "--quiet", "--no-index", "--no-deps", "--no-compile", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=50)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for name in set(requirements(DISTRIBUTION)):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            (site / top).symlink_to(str(found.locate_file(top)))
    return folder / "bin/labkit"


def ran(program: Path, *words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The program, in a folder that is also its home, with no other setting than PATH."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "TMPDIR": str(cwd), **variables}
    return subprocess.run(
        [program, *words], cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )


def files_of(folder: Path) -> dict[str, tuple[bytes, bool]]:
    """Content of each file below it, and whether it can be run; without what was not written by hand."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), bool(path.stat().st_mode & 0o111))
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)
    }


def test_the_wheel_has_all_files_of_labkit_and_cluster(wheel: Path) -> None:
    """Every file of labkit/, and those of cluster/ in labkit/cluster/, where programs can be run; and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        held = {
            info.filename: (archive.read(info), bool(info.external_attr >> 16 & 0o111))
            for info in archive.infolist()
            if ".dist-info/" not in info.filename
        }
    package = {f"labkit/{name}": file for name, file in files_of(ROOT / "labkit").items()}
    cluster = {f"labkit/cluster/{name}": file for name, file in files_of(ROOT / "cluster").items()}
    assert sorted(held) == sorted(package | cluster)
    assert held == package | cluster
    runnable = {"create-cluster", "images/build", "images/postgres/entrypoint"}
    assert {f"labkit/cluster/{name}" for name in runnable} == {name for name, (_, runs) in held.items() if runs}
    assert {"labkit/py.typed", "labkit/api/page.html", "labkit/cluster/compose.yaml"} <= set(held)


def test_the_sdist_has_the_folders_as_they_are(sdist: Path) -> None:
    """A wheel can be built from it, since cluster/ stands beside labkit/ there too."""
    for name in ("labkit", "cluster"):
        assert files_of(sdist / name) == files_of(ROOT / name)


def commands(group: click.Group = cli, *above: str) -> Iterator[tuple[str, ...]]:
    """Every command, also of groups in groups, as words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)
        else:
            yield (*above, name)


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_answers(labkit: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    """Without extras, its help has an example; the bare command answers, or one line says what it wants."""
    helped = ran(labkit, *words, "--help", cwd=tmp_path)
    assert (helped.returncode, helped.stderr) == (0, "")
    assert f"Example:\n    labkit {' '.join(words)}" in helped.stdout
    done = ran(labkit, *words, cwd=tmp_path)
    assert done.returncode in (0, 1, 2)
    if done.stdout:
        assert done.stderr == ""
    else:
        assert re.fullmatch(r"labkit: (?!a bug in labkit).+\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "extra"), [("demo", "lab"), ("matrix", "lab"), ("up", "lab"), ("lab .", "notebooks")]
)
def test_what_needs_an_extra_names_it(labkit: Path, words: str, extra: str, tmp_path: Path) -> None:
    """Exit 1, and the line ends with the command that installs it."""
    done = ran(labkit, *words.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"labkit: the extra {extra!r} is not installed (no ")
    assert done.stderr.endswith(f": {install(extra)}\n")


def test_without_extras_the_doctor_says_what_to_install(labkit: Path, tmp_path: Path) -> None:
    """Exit 1: no lab can run. Each extra is missing, with the command that installs it, and that of labs comes last."""
    done = ran(labkit, "doctor", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    for extra in EXTRAS:
        assert f"-> {install(extra)}\n" in done.stdout
    assert done.stdout.endswith(f"No lab can run here: {install('lab')}\n")
    told = json.loads(ran(labkit, "doctor", "--json", cwd=tmp_path).stdout)
    missing = {finding["name"] for finding in told["findings"] if finding["state"] == "missing"}
    assert set(EXTRAS) | {"Docker engine"} <= missing
    assert told["labs"] == {"embedded": [], "docker": []}


def test_cluster_runs_the_script_of_the_wheel(labkit: Path, tmp_path: Path) -> None:
    """The folder is in the environment; the script names itself as its user does, and its data is not beside it."""
    folder = Path(ran(labkit, "cluster", "path", cwd=tmp_path).stdout.rstrip("\n"))
    assert folder.is_relative_to(labkit.parents[1])
    assert (folder / "compose.yaml").exists()
    assert os.access(folder / "images/build", os.X_OK)
    script = ran(labkit, "cluster", "start", "--help", cwd=tmp_path)
    assert (script.returncode, script.stderr) == (0, "")
    assert script.stdout.startswith("Usage: labkit cluster VERB ")
    nodes = ran(labkit, "cluster", "nodes", cwd=tmp_path)
    place = tmp_path / ".local/state/labkit-cluster"
    assert (nodes.returncode, nodes.stdout) == (1, "")
    assert nodes.stderr == f"labkit cluster: no nodes in {place}: create them with 'labkit cluster start'\n"


def test_a_notebook_folder_of_somebody_else_is_not_labkits(labkit: Path, tmp_path: Path) -> None:
    """A folder `notebooks` beside the package, where a clone has labkit's, is not opened unless it is labkit's."""
    [site] = labkit.parents[1].glob("lib/python3*/site-packages")
    (site / "notebooks").mkdir(exist_ok=True)
    done = ran(labkit, "lab", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "labkit: labkit's notebooks are in its repository, not here: name a folder (labkit lab DIR)\n"
