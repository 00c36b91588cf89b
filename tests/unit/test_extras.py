"""Extras: a missing one gives one clear error, and every instruction installs this package and no other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from labkit import Lab, _imports
from labkit.errors import MissingExtra

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OPTIONAL = PYPROJECT["project"]["optional-dependencies"]
ABSENT = [(extra, name) for extra, names in _imports.EXTRAS.items() for name in names]
COMMANDS = {
    "lab": [["demo"], ["demo", "--launcher", "docker"], ["up"], ["matrix"], ["matrix", "--backend", "redis"]],
    "serve": [["serve", "--topology", "lab.toml"]],
    "dask": [],
    "notebooks": [["lab"], ["notebook", "record", "none.ipynb"], ["notebook", "check", "none.ipynb"]],
    "pytest": [],
}
USES = {
    "lab": ["labkit.Lab('postgres')", "import labkit.matrix", "labkit.Lab('redis-cluster', launcher='docker')"],
    "serve": ["import labkit.api", "from labkit.api import create_app"],
    "dask": ["import labkit.dask"],
    "notebooks": [],
    "pytest": ["import labkit.pytest"],
}


def without(name: str, code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in an interpreter that cannot import the named library."""
    script = f"import sys; sys.modules[{name!r}] = None; import labkit, labkit.cli.group; {code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)


def asked(extra: str, name: str) -> str:
    return f"the extra {extra!r} is not installed (no {name}): pip install 'sharded-read-lab[{extra}]'"


@pytest.mark.parametrize(("extra", "name"), ABSENT)
def test_a_command_without_its_extra_is_one_line(extra: str, name: str):
    """Exit 1, nothing on stdout; one line names the missing library, its extra, and the command that installs it."""
    for words in COMMANDS[extra]:
        done = without(name, f"labkit.cli.group.main({words!r})")
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"labkit: {asked(extra, name)}\n"), words


@pytest.mark.parametrize(("extra", "name"), ABSENT)
def test_use_without_its_extra_is_one_error(extra: str, name: str):
    """MissingExtra has the same text, and no other error precedes it."""
    for code in USES[extra]:
        done = without(name, code)
        assert done.stderr.splitlines()[-1] == f"labkit.errors.MissingExtra: {asked(extra, name)}", code
        assert done.stderr.count("Traceback") == 1


@pytest.mark.parametrize("words", [["read", "--topology", "none.toml"], ["call", "--help"], ["matrix", "--help"]])
def test_what_needs_no_extra_asks_for_none(words: list[str]):
    """Reads, calls and every `--help` run with no extra installed."""
    gone = "; ".join(f"sys.modules[{name!r}] = None" for _, name in ABSENT)
    done = without("psutil", f"{gone}; labkit.cli.group.main({words!r})")
    assert "extra" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_extra_is_an_import_error(monkeypatch: pytest.MonkeyPatch):
    """Code that probes for an optional part can catch ImportError, as with any library."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ImportError) as caught:
        Lab("redis")
    assert isinstance(caught.value, MissingExtra)


def test_the_metadata_have_the_same_names():
    """The distribution has the name that the errors use, its extras exist, and `all` holds every other extra."""
    assert PYPROJECT["project"]["name"] == _imports.DISTRIBUTION
    assert set(_imports.EXTRAS) < set(OPTIONAL)
    others = sorted(set(OPTIONAL) - {"all"})
    assert OPTIONAL["all"] == [f"{_imports.DISTRIBUTION}[{','.join(others)}]"]


@pytest.mark.parametrize(("extra", "name"), ABSENT)
def test_an_extra_brings_what_is_looked_for(extra: str, name: str):
    """Each library that `need` checks for is a requirement of that extra."""
    assert any(re.split(r"[\[>=]", requirement)[0].replace("-", "_") == name for requirement in OPTIONAL[extra])


def test_the_readme_has_every_extra():
    """The README's table has one row per extra and no others."""
    told = re.findall(
        r"^\| \*\*(\w+)\*\* \|.*\|$", (ROOT / "README.md").read_text().split("### Extras")[1], re.MULTILINE
    )
    assert told[: len(OPTIONAL)] == [*sorted(set(OPTIONAL) - {"all"}), "all"]


def instructions() -> list[Path]:
    """Every file that may contain install instructions."""
    found = [ROOT / "README.md", ROOT / "Makefile", ROOT / "environment.yml", ROOT / "pyproject.toml", ROOT / ".ci/run"]
    for folder in ("labkit", "notebooks", "cluster", "tests"):
        found += [
            path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".ipynb", ".md", ".html", ".sh"}
        ]
    return found


def test_no_instruction_installs_somebody_elses_package():
    """On PyPI `labkit` belongs to someone else: nothing here installs or requires it."""
    theirs = re.compile(
        r"(install\b[^\n]*?|==\s*|requires?\W+)['\"\s]" + "labkit" + r"(\[|['\"]?\s*$|[=<>~])", re.MULTILINE
    )
    assert theirs.search("pip install 'labkit[lab]'")
    assert theirs.search("uv pip install labkit\n")
    assert not theirs.search("pip install 'sharded-read-lab[lab]'")
    assert [str(path) for path in instructions() if path != Path(__file__) and theirs.search(path.read_text())] == []


def test_the_classifiers_name_the_pythons_that_are_tested():
    """3.11, 3.12 and 3.13; the lowest is the required minimum."""
    words = PYPROJECT["project"]["classifiers"]
    versions = [word.rpartition(" ")[2] for word in words if re.search(r":: 3\.\d+$", word)]
    assert versions == ["3.11", "3.12", "3.13"]
    assert PYPROJECT["project"]["requires-python"] == f">={versions[0]}"


def test_types_of_pandas_come_with_the_package() -> None:
    """Without its stubs, `result.frame` would be Any to a type checker."""
    assert any(requirement.startswith("pandas-stubs") for requirement in PYPROJECT["project"]["dependencies"])
