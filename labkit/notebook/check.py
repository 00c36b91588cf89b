"""Checks a notebook: runs it again, compares, and guards what a comparison does not notice."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from labkit.notebook.book import Book, Cell, Problem
from labkit.notebook.guards import leftover, never_fired, recorded
from labkit.notebook.outputs import difference
from labkit.notebook.runner import CellFailed, Run, running

__all__ = ["check"]


async def check(path: Path, seconds: float) -> tuple[Book, list[Problem]]:
    """What is wrong with the notebook. It runs only if nothing is wrong with it as it is stored; nothing is written.
    A cell may take that many `seconds`.

    Raises `UsageError` for a file that is not a notebook.
    """
    book = Book(path)
    if problems := recorded(book):
        return book, problems
    async with running(book, seconds) as run:
        for cell in book:
            stored = deepcopy(cell.node.outputs)
            try:
                outputs = await run.run(cell)
            except CellFailed as error:
                return book, [*problems, book.problem(str(error), cell)]
            problems += [book.problem(text, cell) for text in never_fired(outputs)]
            if cell.compared and (told := difference(stored, outputs)):
                problems.append(book.problem(f"it {told}: correct the cell, or record the notebook", cell))
        return book, [*problems, *await _left(book, run)]


async def _left(book: Book, run: Run) -> list[Problem]:
    told = await run.ask()
    last: Cell = book.cells[-1]
    left = [book.problem(leftover(told["left"]), last)] if told["left"] else []
    return [*(book.problem(text) for text in told["unfired"]), *left]
