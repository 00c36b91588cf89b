"""Records a notebook: runs it, stores its outputs, and removes from them what differs from run to run."""

from __future__ import annotations

from pathlib import Path

from nbstripout import strip_output

from labkit.notebook.book import Book, Problem
from labkit.notebook.outputs import cleaned, merged
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
                await run.run(cell)
            except CellFailed as error:
                return book, [book.problem(f"nothing is written, since {error}", cell)]
    for cell in book:
        cell.node.outputs = merged(cell.node.outputs)
        for output in cell.node.outputs:
            if output["output_type"] == "execute_result":
                output["execution_count"] = cell.number
            if cell.compared:
                cleaned(output)
    strip_output(book.node, keep_output=True, keep_count=True, keep_id=True, extra_keys=_STRIPPED)
    book.save()
    return book, []
