"""How far a kind of server is: a bar on stderr, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from labkit.matrix.cells import Cell

__all__ = ["progress"]


@contextmanager
def progress(backend: str, cells: int) -> Iterator[Callable[[Cell | None, int], None]]:
    """Gives a function that is told, before each cell and at the end, which it is and how many were wrong so far."""
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[wrong]}", style="bold red"),
        TextColumn("{task.fields[title]}", style="dim", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        task = bars.add_task(backend, total=cells, title="", wrong="")
        done = -1

        def tell(cell: Cell | None, wrong: int) -> None:
            nonlocal done
            done += 1
            said = f"{wrong} wrong" if wrong else ""
            bars.update(task, completed=done, title=cell.title if cell else "", wrong=said)

        yield tell
