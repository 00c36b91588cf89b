"""The replay of the notebooks can fail: a forged stored output is detected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.notebooks.replaying import replay

BOOK = Path(__file__).parents[2] / "notebooks" / "02_a_shard_dies.ipynb"


CHANGES = [("Test 46", "Test 64"), ("(21, 30)", "(21, 31)"), ("21-30", "21-29")]
"""One number each: in a table cell, in a gap, in an error text."""


def change(cell: Any, old: str, new: str) -> bool:
    """Changes `old` to `new` in the cell's first compared output that contains it; returns whether there was one."""
    for output in cell.get("outputs", []):
        for holder, key in [(output, "text"), *((output.get("data", {}), kind) for kind in output.get("data", {}))]:
            if old in str(holder.get(key, "")) and "nbval-ignore-output" not in str(cell.metadata):
                holder[key] = str(holder[key]).replace(old, new, 1)
                return True
    return False


@pytest.mark.timeout(300)
def test_each_changed_number_fails(tmp_path: Path) -> None:
    """A changed table cell, gap and error text, in three cells, fail exactly as many cells in the replay."""
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
