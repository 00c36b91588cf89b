"""Records a notebook: runs it, stores its outputs, and removes from them what differs from run to run."""

from __future__ import annotations

from pathlib import Path

from nbstripout import strip_output

from labkit.notebook.book import Book, Problem
from labkit.notebook.outputs import cleaned
from labkit.notebook.runner import CellFailed, running

__all__ = ["record"]

_STRIPPED = [
    "metadata.signature",
    "metadata.widgets",
    "metadata.language_info.version",
    *(f"cell.metadata.{name}" for name in ("collapsed", "scrolled", "execution", "ExecuteTime", "heading_collapsed")),
]
"""Metadata of one run or of one front end."""


async def record(path: Path, seconds: float) -> tuple[Book, list[Problem]]:
    """Runs the notebook and writes it with its outputs. If a cell fails, that is the problem, and nothing is written.
    A cell may take that many `seconds`.

    Raises `UsageError` for a file that is not a notebook.
    """
    book = Book(path)
    async with running(book, seconds) as run:
        for cell in book:
            try:
                outputs = await run.run(cell)
            except CellFailed as error:
                return book, [book.problem(f"{error}; nothing is written", cell)]
            for output in outputs if cell.compared else ():
                cleaned(output)
    strip_output(book.node, keep_output=True, keep_count=True, keep_id=True, extra_keys=_STRIPPED)
    book.save()
    return book, []
