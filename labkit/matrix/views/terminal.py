"""The report in a terminal: the grid, what is wrong, and the sum."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from labkit.matrix.outcome import Outcome, Outcomes
from labkit.matrix.views.grid import Line, grid
from labkit.show.format import plain, seconds

__all__ = ["report_renderable"]


def report_renderable(report: Outcomes) -> RenderableType:
    """What rich prints for a report. Text from elsewhere is never read as markup."""
    sum_style = "bold green" if report.right else "bold red"
    judged = f"{plain(report.reader or 'labkit')}, contract {report.contract}: {report.contract.promise}"
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


def _wrong(report: Outcomes) -> list[Text]:
    lines = [Text("")]
    for outcome in report.wrong:
        lines.append(Text(f"✗ {outcome.cell.backend} · {outcome.cell.title}", style="bold red"))
        lines += [Text(f"    {plain(complaint)}") for complaint in outcome.complaints]
    return [*lines, Text("")] if report.wrong else lines
