"""What a terminal shows: progress bars, and the report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeAlias

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from labkit.matrix.cells import Cell
from labkit.matrix.outcome import Line, Outcome, Outcomes, grid
from labkit.show.format import plain, seconds

__all__ = ["progress", "report_renderable"]


def report_renderable(report: Outcomes) -> RenderableType:
    """What rich prints for a report. Text from outside is never parsed as markup."""
    sum_style = "bold green" if report.right else "bold red"
    table = "" if report.table == "classic" else f", table {report.table}"
    judged = f"{plain(report.reader or 'labkit')}{table}, contract {report.contract}: {report.contract.promise}"
    return Group(_table(report), *_wrong(report), Text(judged, style="dim"), Text(report.headline, style=sum_style))


def _table(report: Outcomes) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", caption_justify="left")
    table.add_column("fault", overflow="fold")
    for backend, launcher in report.launchers.items():
        table.add_column(f"{backend} ({launcher})", overflow="fold")
    for layer, lines in grid(report):
        if layer:
            table.add_row(Text(layer, style="dim italic"))
        for line in lines:
            table.add_row(Text(f"  {line.title}" if layer else line.title), *_squares(line))
    return table


def _squares(line: Line) -> list[Text]:
    return [_square(outcome) if outcome else Text("–", style="dim") for outcome in line.outcomes]


def _square(outcome: Outcome) -> Text:
    mark, style = ("✓", "green") if outcome.right else ("✗", "bold red")
    return Text.assemble((mark, style), f" {outcome.status} ", (seconds(outcome.slowest), "dim"))


def _wrong(report: Outcomes) -> list[RenderableType]:
    lines: list[RenderableType] = [Text("")]
    for outcome in report.wrong:
        lines.append(Text(f"✗ {outcome.cell.backend} · {outcome.cell.title}", style="bold red"))
        lines += [_indented(plain(complaint), 4) for complaint in outcome.complaints]
        for title, texts in outcome.evidence:
            lines += [_indented(f"{title}:", 4, "dim"), *(_indented(text, 6, "dim") for text in texts)]
    return [*lines, Text("")] if report.wrong else lines


def _indented(text: str, columns: int, style: str = "") -> Padding:
    return Padding(Text(text, style=style), (0, 0, 0, columns), expand=False)


ShowProgress: TypeAlias = "Callable[[Cell | None, Sequence[Outcome]], None]"
"""Called before each cell, with it and the outcomes so far, and with None at the end."""


@contextmanager
def progress(backend: str, cells: int, lines: bool) -> Iterator[ShowProgress]:
    """Shows progress on stderr: a bar on a terminal; otherwise, with `lines`, one line per cell, as for a log."""
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

        def show(cell: Cell | None, tried: Sequence[Outcome]) -> None:
            wrong = sum(not outcome.right for outcome in tried)
            words = f"{wrong} wrong" if wrong else ""
            bars.update(task, completed=len(tried), title=cell.title if cell else "", wrong=words)

        yield show


def _nothing(cell: Cell | None, tried: Sequence[Outcome]) -> None: ...


def _lines(backend: str, cells: int) -> ShowProgress:
    shown = 0

    def show(cell: Cell | None, tried: Sequence[Outcome]) -> None:
        nonlocal shown
        for outcome in tried[shown:]:
            shown += 1
            kinds = ", ".join(dict.fromkeys(complaint.kind for complaint in outcome.complaints))
            verdict = f"wrong ({kinds})" if kinds else "right"
            with suppress(OSError, ValueError):  # stderr is closed
                sys.stderr.write(f"{backend} {shown}/{cells} {outcome.cell.title}: {verdict}\n")
                sys.stderr.flush()

    return show
