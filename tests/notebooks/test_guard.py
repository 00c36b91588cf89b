"""What nbval does not check: stored outputs come from a complete run, compare on every machine, and matter."""

from __future__ import annotations

import ast
import re
from base64 import b64decode
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.replaying import NOTEBOOKS

LABS = [path for path in NOTEBOOKS if not path.name.startswith("00_")]

PICTURE = "data:image/svg+xml"
TIMED = "data-elapsed"
"""Each bar of a timeline has it. Other pictures are the same bytes on every run, so they are compared."""
DIFFERS = {
    "an address": r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b|localhost|:\d{4,5}\b",
    "an object's address": r"\b0x[0-9a-f]{6,}",
    "a path": r"/(?:tmp|home|root|usr|dev|work|Users)\b",
    "a time": r"\b\d+(?:\.\d+)? ?(?:ms|µs|s)\b|\b\d{2}:\d{2}:(?!00\b)\d{2}\b",
}
"""Times of whole minutes are data: a clock hardly shows one."""


def cells_of(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def text_of(output: nbformat.NotebookNode) -> str:
    """All text of an output, that of its pictures included."""
    text = str(output.get("text", "")) + "".join(str(value) for value in output.get("data", {}).values())
    return re.sub(rf"{PICTURE};base64,([\w+/=]+)", lambda found: PICTURE + b64decode(found[1]).decode(), text)


def named(path: Path) -> str:
    return path.stem


def test_there_are_notebooks() -> None:
    """The tests below cannot pass for lack of notebooks."""
    assert len(LABS) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_outputs_come_from_one_run_from_top_to_bottom(path: Path) -> None:
    """Every cell ran, in order, without an error: nbval accepts cells that never ran."""
    cells = cells_of(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert all(cell.source.strip() for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_compared_outputs_are_the_same_everywhere(path: Path) -> None:
    """Outputs that nbval compares hold no address, path or time, and none is an image that it cannot compare."""
    for cell in cells_of(path):
        if "nbval-ignore-output" in tags(cell):
            continue
        for output in cell.outputs:
            assert not {"image/png", "image/jpeg"} & set(output.get("data", {})), cell.source
            for what, pattern in DIFFERS.items():
                assert not re.search(pattern, text_of(output)), f"{what} in the output of: {cell.source}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_what_is_not_compared_is_asserted(path: Path) -> None:
    """A picture with times must not be compared, so the cell after it asserts what the picture shows."""
    cells = cells_of(path)
    for cell, after in pairwise(cells):
        pictures = [text_of(output) for output in cell.outputs if PICTURE in text_of(output)]
        if "nbval-ignore-output" not in tags(cell):
            assert not [picture for picture in pictures if TIMED in picture], cell.source
        elif pictures:
            assert re.search(r"assert .*data-", after.source), f"nothing is asserted of: {cell.source}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_cells_left_out_of_the_comparison_have_a_reason(path: Path) -> None:
    """Only cells that start a lab, show a picture or contain an assertion are left out of the comparison."""
    for cell in cells_of(path):
        if "nbval-ignore-output" in tags(cell):
            picture = any(PICTURE in text_of(output) for output in cell.outputs)
            assert picture or ".start()" in cell.source or "assert" in cell.source, cell.source
    assert not [cell for cell in cells_of(path) if {"nbval-skip", "skip-execution"} & set(tags(cell))]


@pytest.mark.parametrize("path", LABS, ids=named)
def test_a_lab_book_teaches(path: Path) -> None:
    """A lab book has a question, predictions, an explanation, an exercise with a folded solution, and pictures."""
    book = nbformat.read(path, as_version=4)
    prose = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    for part in ("**Question.**", "**Prediction.**", "**That's because**", "## Exercise"):
        assert part in prose
    solutions = [cell for cell in cells_of(path) if "solution" in tags(cell)]
    assert solutions
    assert all(cell.metadata["jupyter"]["source_hidden"] and "assert" in cell.source for cell in solutions)
    assert any(PICTURE in text_of(output) for cell in cells_of(path) for output in cell.outputs)


@pytest.mark.parametrize("path", LABS, ids=named)
def test_the_last_cell_leaves_nothing_behind(path: Path) -> None:
    """It stops every lab that the notebook started and asserts that nothing is left."""
    *others, last = cells_of(path)
    started = {name for cell in others for name in re.findall(r"(\w+) = await Lab\(.*\.start\(\)", cell.source)}
    assert started
    for name in started:
        assert f"await {name}.stop()" in last.source
        assert f"{name}.leftovers()" in last.source.split("assert")[1]
    assert last.source.rstrip().endswith("== []")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_no_experiment_is_repeated_until_it_comes_out(path: Path) -> None:
    """The number of tries is fixed beforehand: no loop over a range breaks off early."""
    for cell in cells_of(path):
        loops = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.For)]
        tries = [loop for loop in loops if isinstance(loop.iter, ast.Call) and ast.unparse(loop.iter.func) == "range"]
        assert not [node for loop in tries for node in ast.walk(loop) if isinstance(node, ast.Break)], cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    """Every linked notebook exists."""
    prose = "".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([\w./]+\.ipynb)\)", prose):
        assert (path.parent / target).exists(), target
