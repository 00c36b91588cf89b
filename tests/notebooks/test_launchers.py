"""The notebooks show the same with containers: every cell is replayed against outputs from server processes."""

from __future__ import annotations

import nbformat
import pytest

from tests.notebooks.replaying import NOTEBOOKS, replay
from tests.support.containers import of_labs
from tests.support.watching import becomes_true


@pytest.mark.docker
@pytest.mark.timeout(1500)
def test_stored_outputs_hold_with_containers() -> None:
    """Strict nbval with LABKIT_LAUNCHER=docker: every code cell ran and passed, and no container is left."""
    before = of_labs()
    books = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    cells = [cell for book in books for cell in book.cells if cell.cell_type == "code"]
    run = replay(*NOTEBOOKS, LABKIT_LAUNCHER="docker")
    assert run.returncode == 0, run.stdout
    assert f"{len(cells) + 2 * len(books)} passed" in run.stdout  # of each notebook what is recorded, and what is left
    assert becomes_true(lambda: of_labs() <= before), of_labs() - before
