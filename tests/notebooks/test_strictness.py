"""The replay of the notebooks can fail: a stored output that no code produced is found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.notebooks.replaying import replay

BOOK = Path(__file__).parents[2] / "notebooks" / "02_a_shard_dies.ipynb"


CHANGES = [("Test 46", "Test 64"), ("(21, 30)", "(21, 31)"), ("21-30", "21-29")]
"""One number each: in a cell of a table, in a gap, in the text of an error."""


def change(cell: Any, old: str, new: str) -> bool:
    """Changes the first output of the cell that says `old`, where there is one that is compared."""
    for output in cell.get("outputs", []):
        for holder, key in [(output, "text"), *((output.get("data", {}), kind) for kind in output.get("data", {}))]:
            if old in str(holder.get(key, "")) and "nbval-ignore-output" not in str(cell.metadata):
                holder[key] = str(holder[key]).replace(old, new, 1)
                return True
    return False


@pytest.mark.timeout(300)
def test_each_changed_number_fails(tmp_path: Path) -> None:
    """A cell of a table, a gap, an error's text: each in a cell of its own, and so many cells fail in the replay."""
    book = nbformat.read(BOOK, as_version=4)
    copy = tmp_path / BOOK.name
    cells = list(book.cells)
    for old, new in CHANGES:
        changed = next(cell for cell in cells if change(cell, old, new))
        cells.remove(changed)
    nbformat.write(book, copy)
    run = replay(copy)
    assert run.returncode == 1, run.stdout
    assert f"{len(CHANGES)} failed" in run.stdout, run.stdout
