"""Checks a notebook: runs it again, compares, and guards what a comparison does not notice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path

from labkit.notebook.book import Book, Cell, Output, Problem
from labkit.notebook.guards import leftover, never_fired, recorded
from labkit.notebook.outputs import difference
from labkit.notebook.runner import CellFailed, Run, running

__all__ = ["check"]


async def check(path: Path, seconds: float) -> tuple[Book, list[Problem]]:
    """What is wrong with the notebook. It runs only if nothing is wrong with it as it is stored; nothing is written.
    A cell may take that many `seconds`; what follows one that fails does not run.

    Raises `UsageError` for a file that is not a notebook.
    """
    book = Book(path)
    if problems := recorded(book):
        return book, problems
    before = [deepcopy(cell.node.outputs) for cell in book]
    ran: list[Cell] = []
    async with running(book, seconds) as run:
        for cell in book:
            try:
                await run.run(cell)
            except CellFailed as error:
                ending = [book.problem(str(error), cell)]
                break
            ran.append(cell)
        else:
            ending = await _ending(book, run)
    shown = [problem for cell in ran for problem in _shown(book, cell, before[cell.number - 1])]
    return book, [*shown, *ending]


def _shown(book: Book, cell: Cell, before: Sequence[Output]) -> Iterator[Problem]:
    """What is wrong with what a cell shows."""
    if unfired := never_fired(cell.node.outputs):
        yield from (book.problem(text, cell) for text in unfired)
    elif cell.compared and (told := difference(before, cell.node.outputs)):
        yield book.problem(f"it {told}: correct the cell, or record the notebook", cell)


async def _ending(book: Book, run: Run) -> list[Problem]:
    """What is wrong once all cells have run."""
    told = await run.ask()
    left = [book.problem(leftover(told["left"]), book.cells[-1])] if told["left"] else []
    return [*(book.problem(text) for text in told["unfired"]), *left]
