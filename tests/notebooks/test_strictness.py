"""The replay of the notebooks can fail: a stored output that no code produced is found out."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.notebooks.replaying import replay

BOOK = Path(__file__).parents[2] / "notebooks" / "02_a_shard_dies.ipynb"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("old", "new"), [("Test 46", "Test 64"), ("(21, 30)", "(21, 31)"), ("21-30", "21-29")])
def test_one_changed_number_fails(tmp_path: Path, old: str, new: str) -> None:
    """A cell of a table, a gap, an error's text: one number changed in the stored output, and the replay fails."""
    book = nbformat.read(BOOK, as_version=4)
    copy = tmp_path / BOOK.name
    changed = 0
    for cell in book.cells:
        for output in cell.get("outputs", []):
            for holder, key in [(output, "text"), *((output.get("data", {}), kind) for kind in output.get("data", {}))]:
                if not changed and old in str(holder.get(key, "")) and "nbval-ignore-output" not in str(cell.metadata):
                    holder[key] = str(holder[key]).replace(old, new, 1)
                    changed += 1
    assert changed == 1
    nbformat.write(book, copy)
    run = replay(copy)
    assert run.returncode == 1, run.stdout
    assert "1 failed" in run.stdout, run.stdout
