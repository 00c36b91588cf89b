"""How far a kind of server is, on stderr: a bar where that is a terminal, else a line for each cell if asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from labkit.matrix.cells import Cell
from labkit.matrix.outcome import Outcome

__all__ = ["progress"]

Tell: TypeAlias = "Callable[[Cell | None, Sequence[Outcome]], None]"
"""Is told, before each cell and at the end, which it is and what came of those before."""


@contextmanager
def progress(backend: str, cells: int, lines: bool) -> Iterator[Tell]:
    """Gives a function that is told how far it is; `lines` is for whoever reads stderr later, as from a log."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield _lines(backend, cells) if lines else _nothing
        return
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[wrong]}", style="bold red"),
        TextColumn("{task.fields[title]}", style="dim", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(backend, total=cells, title="", wrong="")

        def tell(cell: Cell | None, tried: Sequence[Outcome]) -> None:
            wrong = sum(not outcome.right for outcome in tried)
            said = f"{wrong} wrong" if wrong else ""
            bars.update(task, completed=len(tried), title=cell.title if cell else "", wrong=said)

        yield tell


def _nothing(cell: Cell | None, tried: Sequence[Outcome]) -> None: ...


def _lines(backend: str, cells: int) -> Tell:
    def tell(cell: Cell | None, tried: Sequence[Outcome]) -> None:
        if tried:
            kinds = ", ".join(dict.fromkeys(complaint.kind for complaint in tried[-1].complaints))
            verdict = f"wrong ({kinds})" if kinds else "right"
            with suppress(OSError, ValueError):  # nobody reads it
                sys.stderr.write(f"{backend} {len(tried)}/{cells} {tried[-1].cell.title}: {verdict}\n")
                sys.stderr.flush()

    return tell
