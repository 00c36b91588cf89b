"""A new notebook from the template."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from labkit.cli.group import main
from labkit.errors import UsageError
from labkit.notebook.book import Book
from labkit.notebook.new import new


def test_it_has_the_arc_of_a_lab_book(tmp_path: Path) -> None:
    """Question, prediction, short cells, explanation, asserts, exercise with a folded solution, nothing left."""
    book = Book(new(str(tmp_path / "my_first-notebook")))
    assert book.path.name == "my_first-notebook.ipynb"
    prose = "\n".join(cell.source for cell in book.node.cells if cell.cell_type == "markdown")
    parts = ("# My first notebook", "**Question.**", "**Prediction.**", "**That's because**", "## Exercise")
    assert [prose.index(part) for part in parts] == sorted(prose.index(part) for part in parts)
    *others, last = book
    assert all(len(cell.source.splitlines()) <= 8 for cell in book)
    assert sum("assert" in cell.source for cell in others) >= 2
    [solution] = [cell for cell in others if "solution" in cell.tags]
    assert solution.node.metadata.jupyter.source_hidden
    assert solution.first_line == "# Solution"
    assert "await lab.stop()\nassert lab.leftovers() == []" in last.source


def test_the_template_spoils_no_prediction() -> None:
    """It is packaged without outputs, and has a name for each cell."""
    template = json.loads((files("labkit.notebook") / "template.ipynb").read_text(encoding="utf-8"))
    assert not [cell for cell in template["cells"] if cell.get("outputs") or cell.get("execution_count")]
    assert len({cell["id"] for cell in template["cells"]}) == len(template["cells"])


def test_it_never_overwrites(tmp_path: Path) -> None:
    """A file of that name is left as it is, with and without the suffix in the name."""
    (tmp_path / "mine.ipynb").write_text("mine")
    for name in ("mine", "mine.ipynb"):
        with pytest.raises(UsageError, match=r"mine\.ipynb' exists, and is not overwritten: choose another name"):
            new(str(tmp_path / name))
    assert (tmp_path / "mine.ipynb").read_text() == "mine"


def test_titles_are_not_code(tmp_path: Path) -> None:
    """Quotes and backslashes in a name are text in the notebook."""
    assert Book(new(str(tmp_path / 'a "b" \\c'))).node.cells[0].source.startswith('# A "b" \\c\n')


@pytest.mark.parametrize(
    ("name", "why"), [("", "not a name"), ("a\x1b", "not a name"), ("no/such/x", "does not exist: create it")]
)
def test_names_that_cannot_be_are_one_error(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`UsageError`, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=why):
        new(name)
    assert list(tmp_path.iterdir()) == []


def test_wrong_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, nothing on stdout: no command, and a notebook that is not there."""
    for words, line in (
        ([], "labkit notebook needs a command: new, record or check"),
        (["check", str(tmp_path / "none")], f"'{tmp_path}/none' cannot be read: no such file or directory"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["notebook", *words])
        assert (end.value.code, *capsys.readouterr()) == (2, "", f"labkit: {line}\n")
