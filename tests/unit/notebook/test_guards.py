"""What is wrong with a notebook as it is stored, in lines that say where and what to do."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from labkit.errors import UsageError
from labkit.notebook.book import Book
from labkit.notebook.guards import never_fired, recorded

PICTURE = new_output("display_data", {"text/html": '<img alt="" src="data:image/svg+xml;base64,PHN2Zy8+">'})
ERROR = new_output("error", ename="ZeroDivisionError", evalue="division by zero")


def stored(folder: Path, *cells: Any) -> Book:
    """A notebook of these cells, after a heading, written and read again."""
    path = folder / "book.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A book"), *deepcopy(cells)]), path)
    return Book(path)


def code(source: str, count: int | None, *outputs: Any, tags: list[str] | None = None) -> Any:
    return new_code_cell(source, execution_count=count, outputs=list(outputs), metadata={"tags": tags or []})


def told(book: Book) -> list[str]:
    """The problems without the notebook's path."""
    return [str(problem).removeprefix(str(book.path)).lstrip(", :") for problem in recorded(book)]


def test_a_complete_run_is_right(tmp_path: Path) -> None:
    """Cells count from 1 and leave out Markdown and empty cells; an assert may stand beside the picture or after it."""
    book = stored(
        tmp_path,
        code("a = 1", 1),
        code("", None),
        code("show()", 2, PICTURE),
        code("assert a", 3),
        code("show()\nnp.testing.assert_allclose(a, 1)", 4, PICTURE),
        code("1 / 0", 5, ERROR, tags=["raises-exception"]),
        code("# NBVAL_RAISES_EXCEPTION\n1 / 0", 6, ERROR),
    )
    assert told(book) == []


def test_cells_that_never_ran_are_told(tmp_path: Path) -> None:
    """nbval passes them. The line has the number and the first line of the cell."""
    book = stored(tmp_path, code("a = 1", 1), code("async with b:\n    pass", None))
    assert told(book) == ["cell 2 (async with b): it never ran: record the notebook"]
    new = stored(tmp_path, code("a = 1", None), code("b = 1", None))
    assert told(new) == ["none of its cells ever ran: record the notebook"]


def test_a_run_out_of_order_is_told(tmp_path: Path) -> None:
    """Every cell whose number is not its place."""
    book = stored(tmp_path, code("a = 1", 2), code("b = 1", 1), code("c = 1", 3))
    assert told(book) == [
        "cell 1 (a = 1): it ran out of order, as number 2: record the notebook",
        "cell 2 (b = 1): it ran out of order, as number 1: record the notebook",
    ]


@pytest.mark.parametrize("tag", ["nbval-skip", "skip-execution"])
def test_cells_that_are_never_checked_are_told(tag: str, tmp_path: Path) -> None:
    """A tag, or nbval's comment, that leaves a cell out."""
    for cell in (code("a = 1", 1, tags=[tag]), code("# NBVAL_SKIP\na = 1", 1)):
        [line] = told(stored(tmp_path, cell))
        assert "never checked: remove the tag" in line


def test_a_stored_error_without_a_tag_is_told(tmp_path: Path) -> None:
    """The line names the error and the tag."""
    [line] = told(stored(tmp_path, code("1 / 0", 1, ERROR)))
    assert line.startswith("cell 1 (1 / 0): its recorded output is an error, ZeroDivisionError: ")
    assert "'raises-exception'" in line


@pytest.mark.parametrize(
    "output",
    [
        PICTURE,
        new_output("display_data", {"image/svg+xml": "<svg/>"}),
        new_output("display_data", {"text/html": "<svg/>"}),
    ],
)
def test_a_picture_that_nobody_checks_is_told(output: Any, tmp_path: Path) -> None:
    """An assert in a comment, or two cells on, does not count. Uncompared pictures need one most."""
    for tags in ([], ["nbval-ignore-output"]):
        cells = code("show()  # assert", 1, output, tags=tags), code("# assert a", 2), code("assert a", 3)
        assert told(stored(tmp_path, *cells)) == [
            "cell 1 (show()  # assert): "
            "no assert follows its picture: in this cell or the next one, assert what it shows"
        ]


def test_pictures_that_cannot_be_compared_are_told(tmp_path: Path) -> None:
    """A PNG in a compared cell; nbval silently leaves it out."""
    output = new_output("display_data", {"image/png": "iVBORw0KGgo="})
    [line] = told(stored(tmp_path, code("show()\nassert a", 1, output)))
    assert line.endswith("it shows image/png, which cannot be compared: draw SVG, or tag it 'nbval-ignore-output'")
    assert told(stored(tmp_path, code("show()\nassert a", 1, output, tags=["nbval-ignore-output"]))) == []


def test_a_notebook_without_code_is_told(tmp_path: Path) -> None:
    """An empty notebook does not pass for lack of cells."""
    assert told(stored(tmp_path)) == ["it has no code cell: nothing can be checked"]


def test_faults_that_never_fired_are_found_in_warnings_only() -> None:
    """A warning that a cell caught and printed is what it wanted to show."""
    warning = "/tmp/x.py:1: NeverFired: Latency(10) never fired on shard 2: no client met it\n  async with\n"
    [line] = never_fired([new_output("stream", name="stderr", text=warning)])
    assert line.startswith("Latency(10) never fired on shard 2: no client met it: it tests nothing")
    assert never_fired([new_output("stream", name="stdout", text=warning)]) == []


def test_what_is_not_a_notebook_is_one_line(tmp_path: Path) -> None:
    """No file, and a file of something else."""
    with pytest.raises(UsageError, match=r"none\.ipynb' cannot be read: no such file or directory"):
        Book(tmp_path / "none.ipynb")
    (tmp_path / "text.ipynb").write_text("text\nand more")
    with pytest.raises(UsageError, match=r"text\.ipynb' is not a notebook: [^\n]*$"):
        Book(tmp_path / "text.ipynb")


def test_a_hostile_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """Control characters of a cell are written as escapes."""
    [line] = told(stored(tmp_path, code("a = '\x1b[31m'", 2)))
    assert "\\x1b[31m" in line
    assert line.isprintable()
