"""A result in the terminal: headline, one bar per shard against the deadline, the first rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from labkit.report import Status
from labkit.show.facts import answered, headline
from labkit.show.format import LOOKS, clip, count, exact_seconds, plain, ranges_text, seconds
from labkit.show.rows import Rows

if TYPE_CHECKING:
    from labkit.report import ResultLike, ShardReport

__all__ = ["result_renderable", "timeline_renderable"]

_FIRST_ROWS = 3
_BAR_WIDTH = 44
_NAME_CHARS = 16


def result_renderable(result: ResultLike) -> RenderableType:
    """What rich prints for a result; fits in 80 columns. Text from elsewhere is never parsed as markup."""
    return Group(timeline_renderable(result), *_rows(result))


def timeline_renderable(result: ResultLike) -> RenderableType:
    """The same without rows."""
    style = "bold green" if result.complete else "bold red"
    return Group(Text(headline(result), style=style), _shards(result))


class _Bar:
    """A bar on the time axis, with the deadline marked; as wide as its column."""

    def __init__(self, report: ShardReport, timeout: float, span: float) -> None:
        self.report, self.timeout, self.span = report, timeout, span

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[Text]:
        width = min(options.max_width, _BAR_WIDTH)
        mark = min(round(self.timeout / self.span * width), width - 1)
        start = min(round(self.report.started / self.span * width), width - 1)
        end = round((self.report.started + self.report.elapsed) / self.span * width)
        drawn = Text(" " * width)
        drawn.plain = _cells(start, end, mark, width)
        style = LOOKS[self.report.status].style
        drawn.stylize(style, 0, mark)
        drawn.stylize(style, mark + 1)
        return [drawn]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(8, options.max_width), min(_BAR_WIDTH, options.max_width))


def _cells(start: int, end: int, mark: int, width: int) -> str:
    """One character per cell; a bar too short for a whole cell is drawn thin, so that it is still visible."""
    cells = [" "] * width
    cells[start] = "▏"
    cells[start:end] = "█" * (min(end, width) - start)
    cells[mark] = "│"
    return "".join(cells)


def _shards(result: ResultLike) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("shard", no_wrap=True, overflow="ellipsis")
    table.add_column("status", no_wrap=True, overflow="ellipsis")
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column(f"│ deadline {exact_seconds(result.timeout)}", ratio=1)
    latest = max((report.started + report.elapsed for report in result.reports.values()), default=0.0)
    span = max(result.timeout, latest) * 1.1
    for report in result.reports.values():
        table.add_row(*_shard(report, result.timeout, span))
    return table


def _shard(report: ShardReport, timeout: float, span: float) -> tuple[RenderableType, ...]:
    name, style = Text(clip(plain(report.shard), _NAME_CHARS)), LOOKS[report.status].style
    if report.status is Status.SKIPPED:
        return name, Text("not asked", style=style), "", "", ""
    bar: RenderableType = _Bar(report, timeout, span)
    if report.error:
        bar = Group(bar, Text(plain(report.error), style="dim"))
    return name, Text(report.status.value, style=style), f"{report.rows:,}", seconds(report.elapsed), bar


def _rows(result: ResultLike) -> list[RenderableType]:
    total = result.table.num_rows
    ranges = answered(result)
    if not ranges:
        return []
    lines: list[RenderableType] = [Text(f"answered {ranges_text(ranges)} ({count(total, 'row')})")]
    if total:
        lines.append(Rows(result.table.slice(0, _FIRST_ROWS), total))
    return lines
